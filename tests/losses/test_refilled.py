from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import annotated, save_weights, tiny_retinanet
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

from mmkd_graph.losses import DistillContext, PyramidSpec, REFILLEDLoss
from mmkd_graph.necks import draw_cells, pool_instances, read_instances

STRIDES = (8, 16)


def pyramid(seed=0, channels=6, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, channels, n, n, generator=generator).to(dtype) for n in (12, 6))


def truth(seed=0, count=7, classes=3):
    """Two samples with ``count`` boxes each."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(2):
        corner = torch.rand(count, 2, generator=generator) * 60
        size = 8 + torch.rand(count, 2, generator=generator) * 28
        labels = torch.randint(0, classes, (count,), generator=generator)
        samples.append(annotated(torch.cat([corner, corner + size], dim=1), labels))
    return samples


def build(channels=6, seed=0, **options):
    """Of instances, unless ``samples`` says otherwise."""
    options.setdefault('num_classes', 3)
    options.setdefault('samples', 'instances')
    options.setdefault('margin', 0.5)
    options.setdefault('classifier_weight', 1.0)
    loss = REFILLEDLoss(**options)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss.bind(PyramidSpec(STRIDES, (channels,) * 2, (channels,) * 2, 'refilled'))
    return loss


def run(loss, student, teacher, samples):
    student = tuple(x.detach().requires_grad_() for x in student)
    terms = loss(student, teacher, DistillContext(samples, STRIDES, (96, 96)))
    leaves = [*student, *loss.parameters()]
    return {k: v.detach() for k, v in terms.items()}, torch.autograd.grad(sum(terms.values()), leaves)


def embedded(levels, samples):
    """(K, C) means over the boxes, per level."""
    pooled = pool_instances(levels, STRIDES, read_instances(samples).boxes, output_size=1)
    return [x.flatten(1).double().numpy() for x in pooled]


def unit(levels, centered, shares):
    """(K, ΣC) of length 1, the squared length shared out among the levels."""
    parts = [x - x.mean(axis=0) if centered else x for x in levels]
    return np.concatenate(
        [np.sqrt(share) * x / np.linalg.norm(x, axis=1, keepdims=True) for share, x in zip(shares, parts, strict=True)],
        axis=1,
    )


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize(
    ('centered', 'level_weights', 'shares'),
    [(False, 'equal', (0.5, 0.5)), (True, 'area', (0.8, 0.2)), (True, (3, 1), (0.75, 0.25))],
)
def test_value_against_a_float64_reading_of_the_formula(centered, level_weights, shares):
    """Two batches, so that the centres are means over both; everything written again with loops."""
    loss = build(num_negatives=3, centered=centered, level_weights=level_weights)
    student, batches = pyramid(1), [(pyramid(2), truth(0)), (pyramid(3), truth(1, classes=2))]
    seen = {}
    for teacher, samples in batches:
        terms, _ = run(loss, student, teacher, samples)
        labels = [int(x) for sample in samples for x in sample.gt_instances.labels]
        s, t = embedded(student, samples), embedded(teacher, samples)
        raw_s, raw_t = np.concatenate(s, axis=1), np.concatenate(t, axis=1)
        unit_s, unit_t = (unit(side, centered, shares) for side in (s, t))
        for label, row in zip(labels, raw_t, strict=True):
            seen.setdefault(label, []).append(row)

        divergences = []
        for a, p in ((a, p) for a in range(14) for p in range(14) if a != p and labels[a] == labels[p]):
            near = np.linalg.norm(unit_s[a] - unit_s[p])
            gaps = sorted(
                (np.linalg.norm(unit_s[a] - unit_s[n]) - near, n) for n in range(14) if labels[n] != labels[a]
            )
            negatives = [n for gap, n in gaps if 0 < gap <= 0.5][:3]
            if negatives:
                q, r = (
                    softmax(np.array([-np.linalg.norm(x[a] - x[o]) / 4 for o in [p, *negatives]]))
                    for x in (unit_s, unit_t)
                )
                divergences.append((r * np.log(r / q)).sum())
        assert terms['embedding'].item() == pytest.approx(500 * np.mean(divergences), rel=1e-3)

        here = sorted(set(labels))
        centers = {c: np.mean(seen[c], axis=0) for c in here}
        weight, bias = (x.detach().double().numpy() for x in loss.classifier.parameters())
        divergences = []
        for row_s, row_t in zip(raw_s, raw_t, strict=True):
            r = softmax(np.array([row_t @ centers[c] / np.linalg.norm(centers[c]) for c in here]) / 2)
            q = softmax((weight @ row_s + bias)[here] / 2)
            divergences.append((r * np.log(r / q)).sum())
        assert terms['classifier'].item() == pytest.approx(np.mean(divergences), rel=1e-3)
    assert len(set(labels)) == 2, 'the second batch should lack a class'


def test_equal_pyramids_have_equal_tuples():
    terms, grads = run(build(classifier_weight=0), pyramid(1), pyramid(1), truth())
    assert terms['embedding'].abs() < 1e-4 and all(g.abs().max() < 1e-4 for g in grads)
    terms, grads = run(build(classifier_weight=0), pyramid(1), pyramid(2), truth())
    assert terms['embedding'] > 1e-2 and all(g.abs().max() > 0 for g in grads)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_the_order_of_instances_and_images_changes_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher, samples = pyramid(seed), pyramid(seed + 1), truth(seed)
    shuffled = copy.deepcopy(samples)
    for sample in shuffled:
        sample.gt_instances = sample.gt_instances[torch.randperm(7, generator=generator)]
    loss = build(max_instances=5)
    terms, grads = run(loss, student, teacher, samples)
    mixed, mixed_grads = run(
        build(max_instances=5), *(tuple(x.flip(0) for x in side) for side in (student, teacher)), shuffled[::-1]
    )
    for term in terms:
        torch.testing.assert_close(mixed[term], terms[term], rtol=1e-3, atol=1e-5)
    for grad, other in zip(grads[:2], mixed_grads[:2], strict=True):
        torch.testing.assert_close(other.flip(0), grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'samples',
    [
        [annotated([], []), annotated([], [])],
        [annotated([], []), annotated([[4, 4, 30, 40]], [2])],
        [annotated([[4, 4, 30, 40], [9, 9, 9, 30]], [2, 1]), annotated([[5, 5, 40, 80]], [2])],
    ],
    ids=['no box', 'one box', 'one class'],
)
def test_nothing_to_compare_is_an_attached_zero(samples):
    loss = build()
    terms, grads = run(loss, pyramid(1), pyramid(2), samples)
    assert all(value == 0 for value in terms.values())
    assert len(grads) == 4 and all(torch.equal(g, torch.zeros_like(g)) for g in grads)


HARD = {
    'dead channels': lambda x: x * (torch.arange(x.shape[1]) % 3 > 0).view(1, -1, 1, 1),
    'all dead': torch.zeros_like,
    'constant maps': lambda x: torch.ones_like(x) * torch.arange(x.shape[1]).view(1, -1, 1, 1),
    'huge': lambda x: x * 1e4,
    'tiny': lambda x: x * 1e-6,
}


@pytest.mark.parametrize('hard', HARD)
def test_hard_features_give_finite_values_and_gradients(hard):
    for on_student, on_teacher in ((HARD[hard], HARD[hard]), (HARD[hard], lambda x: x), (lambda x: x, HARD[hard])):
        terms, grads = run(build(), tuple(map(on_student, pyramid(1))), tuple(map(on_teacher, pyramid(2))), truth())
        assert all(value.isfinite() for value in terms.values()), terms
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = pyramid(1, dtype=dtype), pyramid(2, dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms, grads = run(build(), student, teacher, truth())
    wanted, _ = run(build(), *(tuple(x.float() for x in side) for side in (student, teacher)), truth())
    for term, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted[term])
    assert all(g.isfinite().all() for g in grads) and grads[0].dtype == dtype


def test_no_gradient_goes_to_the_teacher():
    teacher = tuple(x.requires_grad_() for x in pyramid(2))
    terms = build()(tuple(x.requires_grad_() for x in pyramid(1)), teacher, DistillContext(truth(), STRIDES, (96, 96)))
    sum(terms.values()).backward()
    assert all(x.grad is None for x in teacher)


def test_centres_follow_training_only_and_resume_bit_for_bit():
    loss = build().eval()
    terms, _ = run(loss, pyramid(1), pyramid(2), truth())
    assert terms['classifier'] == 0 and loss.counts.sum() == 0, 'without centres there is nothing to learn'
    loss.train()
    run(loss, pyramid(1), pyramid(2), truth())
    assert (
        loss.counts.tolist()
        == torch.bincount(torch.cat([s.gt_instances.labels for s in truth()]), minlength=3).tolist()
    )
    resumed = build(seed=5)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    for seed in (3, 4):
        wanted, grads = run(loss, pyramid(seed), pyramid(seed + 1), truth(seed))
        found, other = run(resumed, pyramid(seed), pyramid(seed + 1), truth(seed))
        assert found == wanted and all(torch.equal(a, b) for a, b in zip(grads, other, strict=True))
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in loss.state_dict().items())


def test_weights_scale_the_terms_and_zero_leaves_them_out():
    args = pyramid(1), pyramid(2), truth()
    full, _ = run(build(), *args)
    double, _ = run(build(embedding_weight=1000.0, classifier_weight=2.0), *args)
    for term in full:
        torch.testing.assert_close(double[term], 2 * full[term])
    only = build(classifier_weight=0)
    assert set(run(only, *args)[0]) == {'embedding'} and not only.state_dict()
    assert set(run(build(embedding_weight=0), *args)[0]) == {'classifier'}


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (dict(num_classes=None), r"num_classes=None; accepted: the classes of the student's"),
        (dict(num_classes=0), 'num_classes=0'),
        (dict(embedding_weight=-1), 'embedding_weight: got -1'),
        (dict(embedding_weight=0, classifier_weight=0), 'embedding_weight, classifier_weight are all 0'),
        (dict(embedding_temperature=0), 'embedding_temperature: got 0'),
        (dict(classifier_temperature=0), 'classifier_temperature: got 0'),
        (dict(margin=0), 'margin: got 0'),
        (dict(num_negatives=0), 'num_negatives: got 0'),
        (dict(num_negatives=2.5), 'num_negatives: got 2.5'),
        (dict(margin=float('nan')), 'margin: got nan'),
        (dict(max_instances=0), 'max_instances: got 0'),
        (dict(max_cells=1), 'max_cells'),
        (dict(samples='images'), "samples: got 'images', accepted is one of 'cells', 'instances'"),
        (dict(level_weights=(1, 2, 3)), r'losses\.refilled\.level_weights'),
    ],
)
def test_bad_options_name_the_key(options, word):
    with pytest.raises(ValueError, match=word):
        build(**options)


def test_a_label_beyond_the_classes_is_an_error():
    with pytest.raises(ValueError, match=r'losses\.refilled\.num_classes=2, but the batch has the label 2'):
        run(build(num_classes=2), pyramid(1), pyramid(2), truth())


# ------------------------------------------------------------------------------------------------ cells


def cells(student, teacher, samples, seed=0, **options):
    torch.manual_seed(seed)
    return run(build(samples='cells', max_cells=40, **options), student, teacher, samples)


def test_cells_are_instances_of_one_class_more():
    """The same cells, drawn beforehand, given as annotated boxes."""
    student, teacher, samples = pyramid(1), pyramid(2), truth()
    terms, grads = cells(student, teacher, samples)
    torch.manual_seed(0)
    drawn = draw_cells(read_instances(samples), [(96, 96)] * 2, 8, 40, background=3)
    assert drawn.labels.bincount().tolist()[3] == 20 and len(drawn.labels) == 40
    as_boxes = [annotated(boxes, drawn.labels[drawn.images == i]) for i, boxes in enumerate(drawn.boxes)]
    wanted, wanted_grads = run(build(num_classes=4), student, teacher, as_boxes)
    assert terms == wanted and all(value > 1e-3 for value in terms.values())
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted_grads, strict=True))


def test_cells_do_not_depend_on_the_order_of_instances_and_follow_the_seed():
    student, teacher, samples = pyramid(1), pyramid(2), truth()
    terms, _ = cells(student, teacher, samples)
    shuffled = copy.deepcopy(samples)
    for sample in shuffled:
        sample.gt_instances = sample.gt_instances[torch.tensor([3, 6, 0, 2, 5, 1, 4])]
    assert cells(student, teacher, shuffled)[0] == terms
    assert cells(student, teacher, samples, seed=1)[0] != terms


def test_cells_without_an_object_are_an_attached_zero():
    terms, grads = cells(pyramid(1), pyramid(2), [annotated([], [])] * 2)
    assert all(value == 0 for value in terms.values())
    assert len(grads) == 4 and all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_one_object_among_cells_is_told_from_the_background():
    terms, grads = cells(pyramid(1), pyramid(2), [annotated([], []), annotated([[4, 4, 30, 40]], [2])])
    assert all(value > 0 for value in terms.values()) and all(g.abs().max() > 0 for g in grads)


# ------------------------------------------------------------------------------------ in the distiller


def distiller(teacher, **loss):
    return MMDET_MODELS.build(
        dict(
            type='mmkd_graph.GraphDistiller',
            student=tiny_retinanet(num_classes=3),
            teacher=teacher,
            losses=dict(refilled=dict(type='mmkd_graph.REFILLEDLoss', **loss)),
        )
    )


def test_a_teacher_of_other_classes_teaches_and_the_student_stays_plain(batch, tmp_path):
    """The teacher's head has five classes of its own; the classifier and the centres stay behind at export."""
    config = tiny_retinanet(base_channels=16, fpn_channels=32, num_classes=5)
    model = distiller(dict(config=config, checkpoint=save_weights(config, tmp_path / 'teacher.pth')), num_classes=3)
    model.init_weights()
    model.train()
    # two of a class and one of another in each image
    for sample in batch['data_samples']:
        sample.gt_instances = annotated([[4, 4, 40, 60], [20, 8, 60, 40], [8, 8, 24, 24]], [0, 0, 2]).gt_instances
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))
    logged = [model.train_step(copy.deepcopy(batch), wrapper) for _ in range(2)]
    assert logged[1]['loss_kd.refilled.embedding'] > 0 and logged[1]['loss_kd.refilled.classifier'] > 0
    state = get_state_dict(model)
    own = {k for k in state if k.startswith('distill.losses.refilled.')}
    assert {k.rsplit('.', 1)[1] for k in own} == {'weight', 'bias', 'centers', 'counts'}
    counts = state['distill.losses.refilled.counts'].tolist()  # the last are of the background
    assert sum(counts) == 2 * 128 and counts[1] == 0 and all(counts[i] for i in (0, 2, 3))
    plain = MMDET_MODELS.build(tiny_retinanet(num_classes=3))
    load_state_dict(plain, {k: v for k, v in state.items() if not k.startswith('distill.')}, strict=True)


def test_missing_classes_are_an_error_at_build(teacher):
    with pytest.raises(ValueError, match=r'^model\.losses\.refilled\.num_classes=None'):
        distiller(teacher)
