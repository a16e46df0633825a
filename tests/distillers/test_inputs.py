"""What the teacher is fed: preprocessors that are known, images that are normalised already, channels of images."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import annotated, save_weights, tiny_retinanet
from mmcv.transforms import Normalize
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.model import BaseDataPreprocessor

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.inputs import InputTransfer, normalised
from mmkd_graph.distillers.taps import probe
from mmkd_graph.distillers.teacher import resolve_model_config

CRG = dict(crg=dict(type='mmkd_graph.CRGLoss'))
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
PLAIN = dict(type='DetDataPreprocessor', pad_size_divisor=32)


def grey_level(channels: int) -> dict:
    """A detector whose images have so many channels."""
    model = tiny_retinanet()
    model['backbone']['in_channels'] = channels
    statistics = dict(mean=[118.0], std=[58.0]) if channels == 1 else {}
    model['data_preprocessor'] = dict(type='DetDataPreprocessor', pad_size_divisor=32, **statistics)
    return model


def photographs(shapes=((64, 80), (48, 64)), seed=0) -> list[torch.Tensor]:
    """Images with all pixel values in them."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8) for shape in shapes]


def padded(images: list[torch.Tensor]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    batch = torch.zeros(len(images), 3, 64, 96)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch, [tuple(image.shape[1:]) for image in images]


def transfer(student: dict | None = None, teacher: dict | None = None) -> InputTransfer:
    of_teacher = teacher or dict(PLAIN, **IMAGENET, bgr_to_rgb=True)
    return InputTransfer(MODELS.build(student or PLAIN), MODELS.build(of_teacher))


MEAN, STD = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ('mean', 'std'))


@pytest.mark.parametrize(
    ('images', 'student'),
    [
        ([(x - MEAN) / STD for x in photographs()], PLAIN),
        ([x - MEAN for x in photographs()], PLAIN),
        ([x / 127.5 - 1 for x in photographs()], PLAIN),
        # in the pipeline and in the preprocessor: padding is at the mean then
        ([((x - MEAN) / STD - MEAN) / STD for x in photographs()], dict(PLAIN, **IMAGENET)),
        ([x / 255 for x in photographs()], PLAIN),
        ([(x / 255 - MEAN) / STD for x in photographs()], dict(PLAIN, **IMAGENET)),
    ],
    ids=['ImageNet', 'Caffe', 'minus one to one', 'twice', 'zero to one', 'zero to one, normalised'],
)
def test_images_that_are_no_pixels_any_more_are_an_error(images, student):
    with pytest.raises(ValueError, match=r'before they reach model\.student\.data_preprocessor.*mean=\[123\.675'):
        transfer(student)(*padded(images))


@pytest.mark.parametrize(
    'images',
    [
        photographs(),
        [x.float() * 1.5 + 32 for x in photographs()],
        [(x.float() - 32) * 1.5 * 1.5 for x in photographs()],  # what photometric distortion does at most
        [torch.zeros(3, 64, 80), torch.full((3, 48, 64), -8.0)],  # black, darkened
        [x.float() / 255 * 8 - 8 for x in photographs()],
        [x.float() % 2 for x in photographs()],  # all but black
        [torch.zeros(3, 0, 0), torch.zeros(3, 0, 0)],
        [torch.full((3, 64, 80), float('nan')), torch.zeros(3, 48, 64)],
    ],
    ids=['plain', 'bright', 'dark', 'black', 'night', 'nearly black', 'only padding', 'nan'],
)
def test_images_that_are_pixels_are_not(images):
    teacher = transfer()
    batch, shapes = padded(images)
    assert teacher(batch, shapes).shape == batch.shape


def test_only_the_first_batch_is_looked_at_and_copies_look_at_none():
    given = transfer()
    good, bad = padded(photographs()), padded([(x - MEAN) / STD for x in photographs()])
    given(*good)
    copy.deepcopy(given)(*bad)
    given(*bad)


def test_images_from_zero_to_one_are_a_warning_where_both_get_the_same(monkeypatch):
    said = []
    monkeypatch.setattr('mmkd_graph.distillers.inputs.print_log', lambda message, **_: said.append(message))
    batch, shapes = padded([x / 255 for x in photographs()])
    assert torch.equal(transfer(PLAIN, PLAIN)(batch, shapes), batch)
    assert len(said) == 1 and 'scaled to 0 to 1' in said[0]


# ------------------------------------------------------------------------------------------------ preprocessors


class Inherits(DetDataPreprocessor):
    """Does nothing else."""


class Extends(DetDataPreprocessor):
    """Adds something that is not the images'."""

    def forward(self, data: dict, training: bool = False) -> dict:
        return dict(super().forward(data, training), more=1)


class Halves(DetDataPreprocessor):
    """Divides by two as well."""

    def forward(self, data: dict, training: bool = False) -> dict:
        data = super().forward(data, training)
        return dict(data, inputs=data['inputs'] / 2)


class Breaks(BaseDataPreprocessor):
    """Wants something else."""

    def forward(self, data: dict, training: bool = False) -> dict:
        return data['images']


@pytest.mark.parametrize('kind', [Inherits, Extends])
def test_own_preprocessors_that_do_what_they_say_are_taken(kind):
    own = kind(**IMAGENET, bgr_to_rgb=True)
    images, shapes = padded(photographs())
    other = MODELS.build(dict(PLAIN, mean=[0.0] * 3, std=[255.0] * 3))
    for student, teacher in ((own, other), (other, own)):
        wanted = [MODELS.build(dict(PLAIN, **IMAGENET, bgr_to_rgb=True)) if x is own else x for x in (student, teacher)]
        given = InputTransfer(student, teacher)
        torch.testing.assert_close(given(images, shapes), InputTransfer(*wanted)(images, shapes))


@pytest.mark.parametrize('own', [Halves(**IMAGENET), Breaks()], ids=lambda own: type(own).__name__)
def test_preprocessors_that_do_something_else_are_an_error(own):
    other = MODELS.build(PLAIN)
    with pytest.raises(
        ValueError, match=rf'model\.student\.data_preprocessor: what {type(own).__name__} does.*accepted'
    ):
        InputTransfer(own, other)
    with pytest.raises(ValueError, match=r"model\.teacher\.config's model\.data_preprocessor: what"):
        InputTransfer(other, own)


def test_a_student_may_have_none_and_a_teacher_must_have_one(student, teacher):
    assert InputTransfer(BaseDataPreprocessor(), MODELS.build(PLAIN)).same_normalisation
    del teacher['config']['data_preprocessor']
    with pytest.raises(ValueError, match=r'teacher\.config has no model\.data_preprocessor.*pad_size_divisor=32'):
        GraphDistiller(student, teacher, CRG)
    # a whole config may have it beside the model, where mmengine's runner finds it
    beside = dict(PLAIN, mean=[1.0, 2.0, 3.0], std=[4.0] * 3)
    teacher['config'] = dict(model=teacher['config'], data_preprocessor=beside)
    model = GraphDistiller(student, teacher, CRG)
    assert model.teacher.model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


def test_the_line_to_write_is_the_checkpoints_own(student, teacher):
    content = torch.load(teacher['checkpoint'])
    trained = copy.deepcopy(teacher['config'])
    trained['data_preprocessor'] = dict(PLAIN, mean=[1.5, 2.5, 3.5], std=[4.5] * 3, pad_size_divisor=64)
    content['meta'] = dict(cfg=f'model = {trained}')
    torch.save(content, teacher['checkpoint'])
    del teacher['config']['data_preprocessor']
    with pytest.raises(ValueError, match=r'mean=\[1\.5, 2\.5, 3\.5\].*pad_size_divisor=64\) \(says its checkpoint\)'):
        GraphDistiller(student, teacher, CRG)


# ------------------------------------------------------------------------------------------------ pipelines


class Own(Normalize):
    """Under another name."""


def pipeline(transform: dict) -> dict:
    read = dict(type='LoadImageFromFile')
    return dict(
        dataset=dict(
            type='RepeatDataset',
            dataset=dict(type='CocoDataset', pipeline=[read, transform, dict(type='Pad', size_divisor=64)]),
        )
    )


@pytest.mark.parametrize(
    ('transform', 'words'),
    [
        (dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6]), 'mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True'),
        (dict(type='mmcv.Normalize', mean=[1, 2, 3], std=(4, 5, 6), to_rgb=False), 'bgr_to_rgb=False'),
        (dict(type=Normalize, mean=[1], std=[4]), 'mean=[1], std=[4]'),
        (dict(type='OwnNormalisation', mean=[1], std=[4]), 'mean=[1], std=[4]'),
        (dict(type='RandomChoice', transforms=[[dict(type='Normalize', mean=[7], std=[8])]]), 'mean=[7]'),
        (dict(type='TestTimeAug', transforms=[[dict(type='Flip')], [dict(type='Normalize', mean=[7])]]), 'mean=[7]'),
        (dict(type='MultiBranch', branch_field=['a'], a=dict(type='Normalize', mean=[7], std=[8])), 'mean=[7]'),
        (dict(type='Albu', transforms=[dict(type='Blur'), dict(type='Normalize')]), 'mean=[123.675, 116.28, 103.53]'),
        (
            dict(type='Albu', transforms=[dict(type='OneOf', of=[dict(type='Normalize', std=[1])])]),
            'std=[255.0]',
        ),
        (dict(type='Resize', scale=3), None),
        (dict(type='nowhere.Normalize', mean=[1], std=[4]), None),
    ],
)
def test_normalisation_in_a_pipeline_is_found_wherever_it_is(transform, words):
    TRANSFORMS.register_module('OwnNormalisation', module=Own, force=True)
    found = normalised(dict(val_dataloader=pipeline(transform)))
    assert len(found) == bool(words)
    if words:
        assert found[0].key.startswith('val_dataloader.dataset.dataset.pipeline[1]')
        assert words in found[0].line and 'pad_size_divisor=64' in found[0].line


@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader', 'test_dataloader'])
def test_a_teachers_config_that_normalises_in_its_pipeline_is_refused(student, teacher, loader):
    whole = {'model': teacher['config'], loader: pipeline(dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6]))}
    with pytest.raises(ValueError, match=rf'teacher\.config normalises.*{loader}.*pipeline\[1\].*mean=\[1, 2, 3\]'):
        GraphDistiller(student, dict(teacher, config=whole), CRG)


# ------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize('channels', [1, 4, 6])
def test_detectors_of_any_number_of_channels_train(tmp_path, channels):
    model = grey_level(channels)
    teacher = dict(config=copy.deepcopy(model), checkpoint=save_weights(model, tmp_path / 'teacher.pth'))
    if channels == 1:  # other statistics for the teacher
        teacher['config']['data_preprocessor'].update(mean=[100.0], std=[50.0], pad_value=3)
    distiller = GraphDistiller(model, teacher, CRG)
    images = torch.randint(0, 256, (2, channels, 64, 64), dtype=torch.uint8)
    samples = [annotated([[4, 4, 40, 60]], [0]) for _ in images]
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(64, 64), ori_shape=(64, 64)))
    data = distiller.data_preprocessor(dict(inputs=list(images), data_samples=samples), True)
    given = distiller.pyramids.teacher_inputs(data['inputs'], data['data_samples'])
    wanted = distiller.teacher.model.data_preprocessor(dict(inputs=list(images), data_samples=samples), False)['inputs']
    torch.testing.assert_close(given, wanted)
    losses = distiller(**data, mode='loss')
    assert torch.isfinite(losses['loss_kd.crg.vertex'])


def test_the_probe_asks_for_the_channels_of_images_and_for_nothing_else():
    focus = dict(type='YOLOX', backbone=dict(type='CSPDarknet', widen_factor=0.125), neck=None, bbox_head=None)
    detector = MODELS.build(dict(grey_level(4)))
    assert probe(detector, 'backbone', 'taps.student').image_channels == 4
    yolox = MODELS.build(
        dict(
            type='YOLOX',
            backbone=dict(focus['backbone']),
            neck=dict(type='YOLOXPAFPN', in_channels=[32, 64, 128], out_channels=32, num_csp_blocks=1),
            bbox_head=dict(type='YOLOXHead', num_classes=2, in_channels=32, feat_channels=32),
        )
    )
    assert probe(yolox, 'neck', 'taps.student').image_channels == 3
    yolox.backbone.stem.conv.conv = torch.nn.Conv2d(24, 8, 3, padding=1)  # rearranges six channels
    yolox.backbone.stem.conv.bn = torch.nn.BatchNorm2d(8)
    assert probe(yolox, 'neck', 'taps.student').image_channels == 6
    wrong = tiny_retinanet()
    wrong['neck']['in_channels'] = [16, 32, 64, 128]
    with pytest.raises(ValueError, match=r'256 and 512 pixels.*channels'):
        probe(MODELS.build(wrong), 'neck', 'taps.student')


def test_student_and_teacher_have_to_take_the_same_images(student, tmp_path):
    model = grey_level(1)
    teacher = dict(config=model, checkpoint=save_weights(model, tmp_path / 'grey.pth'))
    with pytest.raises(ValueError, match=r'student takes images of 3 channels, the teacher \(teacher.config\) of 1'):
        GraphDistiller(student, teacher, CRG)


def test_a_preprocessor_beside_the_model_is_the_students(student, teacher):
    """mmengine's runner hands a config's ``data_preprocessor`` to its model; the model's own comes first."""
    own = student['data_preprocessor']
    common = dict(type='mmkd_graph.GraphDistiller', teacher=teacher, losses=dict(kd=dict(type='mmkd_graph.PKDLoss')))
    bare = {key: value for key, value in student.items() if key != 'data_preprocessor'}
    other = dict(own, mean=[1.0, 2.0, 3.0])
    for config, given, mean in ((bare, other, [1, 2, 3]), (student, own, own['mean']), (student, other, own['mean'])):
        model = MODELS.build(copy.deepcopy(dict(common, student=config, data_preprocessor=given)))
        assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(mean, rel=1e-6)


def test_a_distillation_as_teacher_keeps_the_preprocessor_beside_its_model(student):
    beside = student.pop('data_preprocessor')
    whole = dict(model=dict(type='mmkd_graph.GraphDistiller', student=student), data_preprocessor=beside)
    assert resolve_model_config(whole, 'teacher.config').data_preprocessor == beside
    whole['model']['student'] = dict(student, data_preprocessor=dict(beside, mean=[1.0, 2.0, 3.0]))
    assert resolve_model_config(whole, 'teacher.config').data_preprocessor.mean == [1.0, 2.0, 3.0]
