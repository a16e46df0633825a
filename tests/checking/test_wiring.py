"""What the check says of the teacher's config and of what it is fed, and of teachers that name things otherwise."""

from __future__ import annotations

import copy

import pytest
import torch

from mmkd_graph.checking import FAIL, OK, WARNING
from mmkd_graph.checking.accuracy import overlap
from mmkd_graph.checking.wiring import check_wiring
from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.testing import tiny_retinanet

CRG = dict(crg=dict(type='mmkd_graph.CRGLoss'))


def training(*transforms: dict) -> dict:
    return dict(train_dataloader=dict(dataset=dict(pipeline=list(transforms))))


def resize(side: int) -> dict:
    return dict(type='Resize', scale=(1333, side), keep_ratio=True)


@pytest.fixture
def trained(teacher):
    """The teacher with its config in its checkpoint."""
    content = torch.load(teacher['checkpoint'])
    whole = dict(model=teacher['config'], **training(resize(800)))
    content['meta'] = dict(cfg='\n'.join(f'{name} = {value}' for name, value in whole.items()))
    torch.save(content, teacher['checkpoint'])
    return teacher


def of(findings, key):
    return [(x.level, x.found, x.advice) for x in findings if x.key == key]


def test_a_config_that_is_not_the_checkpoints(student, trained):
    ((level, found, _),) = of(check_wiring(GraphDistiller(student, trained, CRG)), 'model.teacher.config')
    assert level == OK and found.startswith('no difference')
    other = copy.deepcopy(trained['config'])
    other['neck']['relu_before_extra_convs'] = True
    other['data_preprocessor'].update(mean=[103.53, 116.28, 123.675], pad_size_divisor=64)
    given = dict(trained, config=other)
    fail, warning = of(check_wiring(GraphDistiller(student, given, CRG)), 'model.teacher.config')
    assert fail[0] == FAIL and 'set model.teacher.strict=False if this is meant' in fail[2]
    assert "neck.relu_before_extra_convs: False in the checkpoint's config, True in teacher.config" in fail[1]
    assert 'data_preprocessor.mean: [123.675' in fail[1] and 'pad_size_divisor' not in fail[1]
    assert warning[0] == WARNING and 'pad_size_divisor: 32 in' in warning[1]
    findings = check_wiring(GraphDistiller(student, dict(given, strict=False), CRG))
    assert [level for level, *_ in of(findings, 'model.teacher.config')] == [WARNING, WARNING]


def test_a_checkpoint_without_a_config(student, teacher):
    ((level, found, _),) = of(check_wiring(GraphDistiller(student, teacher, CRG)), 'model.teacher.config')
    assert level == OK and found.startswith('not compared')


def test_images_that_the_pipeline_normalises(student, teacher):
    model = GraphDistiller(student, teacher, CRG)
    transform = dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6])
    key = 'train_dataloader.dataset.pipeline'
    ((level, found, advice),) = of(check_wiring(model, training(resize(800), transform)), key)
    assert level == FAIL and f'{key}[1]' in found
    assert "model.student: data_preprocessor=dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6]" in advice
    assert not of(check_wiring(model, training(resize(800))), key) and not of(check_wiring(model, {}), key)


def test_images_of_another_size(student, trained):
    model = GraphDistiller(student, trained, CRG)
    key = 'train_dataloader.dataset.pipeline'
    ((level, found, _),) = of(check_wiring(model, training(resize(320))), key)
    assert level == WARNING and 'is 320 pixels; the teacher was trained with 800' in found
    for pipeline in (resize(800), resize(700), dict(type='RandomChoiceResize', scales=[(320, 320), (800, 800)])):
        assert not of(check_wiring(model, training(pipeline)), key)
    # a teacher's config says it where its checkpoint does not
    content = torch.load(trained['checkpoint'])
    torch.save(dict(content, meta={}), trained['checkpoint'])
    whole = dict(model=tiny_retinanet(16, 32), **training(resize(640)))
    model = GraphDistiller(student, dict(trained, config=whole), CRG)
    assert 'trained with 640' in of(check_wiring(model, training(resize(320))), key)[0][1]


# ------------------------------------------------------------------------------------------------ names of classes


def seen(names, classes: int = 6, count: int = 60, per_image: int = 5):
    """Detections on all boxes whose labels ``names`` gives for those of the data."""
    generator = torch.Generator().manual_seed(0)
    detections, truths = [], []
    for _ in range(count // per_image):
        corner = torch.arange(per_image).float()[:, None] * 50 + torch.rand(per_image, 2, generator=generator)
        boxes = torch.cat([corner, corner + 20], 1)
        labels = torch.randint(0, classes, (per_image,), generator=generator)
        truths.append((boxes, labels))
        detections.append((boxes, names(labels, generator), torch.rand(per_image, generator=generator)))
    return overlap(detections, truths)


def permuted(labels, generator):
    return (labels + 1) % 6


def mostly_permuted(labels, generator):
    noise = torch.randint(0, 6, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < 0.75, (labels + 2) % 6, noise)


def at_random(labels, generator):
    return torch.randint(0, 6, labels.shape, generator=generator)


def all_alike(labels, generator):
    return torch.full_like(labels, 3)


def two_alike(labels, generator):
    return torch.where(torch.rand(labels.shape, generator=generator) < 0.6, 3, 4)


@pytest.mark.parametrize(
    ('names', 'renamed'),
    [(permuted, True), (mostly_permuted, True), (at_random, False), (all_alike, False), (two_alike, False)],
)
def test_classes_in_another_order_are_seen_only_where_they_are(names, renamed):
    for classes in (6, 3):
        found = seen(names, classes)
        assert found.found == 1 and found.renamed is renamed and found.named < 0.5
    assert not seen(names, count=5).renamed, 'of a few boxes nothing can be said'
    assert not seen(lambda labels, _: labels).renamed


def test_many_random_teachers_have_no_order():
    generator = torch.Generator().manual_seed(1)
    guessed = 0
    for classes in (2, 3, 6, 20, 80):
        for count in (10, 30, 100):
            for favourites in (1, 2, classes):  # random heads prefer some classes
                pick = torch.randperm(classes, generator=generator)[:favourites]
                names = lambda labels, g, pick=pick: pick[torch.randint(0, len(pick), labels.shape, generator=g)]  # noqa: E731
                found = seen(names, classes, count)
                guessed += found.renamed and found.named < 0.3
    assert guessed == 0
