"""A sample of mmdet's families, made small: one step, then predict, save, reload, predict the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from mmcv.ops import MaskedConv2d
from mmdet.models.necks import FPN
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from mmkd_graph.distillers import GraphDistiller, taps
from mmkd_graph.distillers.taps import probe
from mmkd_graph.testing import round_trip, tiny_retinanet

SIDE = 64
WIDTH = 8
SMALLER = dict(
    stacked_convs=1,
    num_queries=30,
    num_proposals=30,
    fc_out_channels=32,
    feedforward_channels=32,
    num_convs=1,
    max_per_img=30,
    num=16,
)
"""Values that make heads and transformers small wherever the key stands."""

FAMILIES = {
    'retinanet/retinanet_r50_fpn_1x_coco.py': (8, 16, 32, 64, 128),
    'gfl/gfl_r50_fpn_1x_coco.py': (8, 16, 32, 64, 128),
    'yolox/yolox_nano_8xb8-300e_coco.py': (8, 16, 32),
    'yolof/yolof_r50-c5_8xb8-1x_coco.py': (32,),
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': (16, 32, 64, 128),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': (8, 16, 32, 64),
    'queryinst/queryinst_r50_fpn_1x_coco.py': (8, 16, 32),
    'solov2/solov2_r50_fpn_1x_coco.py': (8, 16, 32, 64),
    'dino/dino-4scale_r50_8xb2-12e_coco.py': (8, 16, 32, 64),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py': (8, 16, 32),
}


def smaller(config: str) -> ConfigDict:
    """The model of a config with narrow ResNets, few transformer layers and small heads."""
    model = Config.fromfile(round_trip.CONFIGS / config).model
    _shrink(model)
    if model.get('roi_head', {}).get('num_stages', 0) > 3:  # of as many refinements two will do
        model.roi_head.num_stages = 2
        for key in ('stage_loss_weights', 'bbox_head', 'mask_head'):
            model.roi_head[key] = model.roi_head[key][:2]
        model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
    if model.backbone.type == 'ResNet':
        model.backbone.update(base_channels=WIDTH, stem_channels=WIDTH)
        for part in (model.get('neck'), model.get('panoptic_head')):
            if part is not None and 'in_channels' in part:
                channels = part.in_channels
                part.in_channels = (
                    [c * WIDTH // 64 for c in channels] if isinstance(channels, list) else channels * WIDTH // 64
                )
    return model


def _shrink(node: Any) -> None:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in SMALLER and isinstance(value, int):
                node[key] = min(value, SMALLER[key])
            elif key == 'num_layers' and value in (6, 9):
                node[key] = 1
            elif key == 'dynamic_conv_cfg':
                value.feat_channels = WIDTH
            elif key == 'num_grids':
                node[key] = [n // 4 for n in value]
            _shrink(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _shrink(value)


@pytest.mark.parametrize('config', FAMILIES, ids=lambda config: config.split('/')[0])
def test_family_trains_predicts_and_comes_out_as_the_plain_detector(config):
    trip = round_trip.round_trip(smaller(config), tiny_retinanet(), SIDE)
    assert trip.strides == FAMILIES[config]
    assert trip.predictions > 0
    terms = {name: value for name, value in trip.losses.items() if name.startswith('loss_kd.')}
    assert set(terms) == {'loss_kd.crg.vertex', 'loss_kd.crg.edge', 'loss_kd.crg.spectral'}
    assert all(value > 0 for value in terms.values())


# ------------------------------------------------------------------------------------------------ refusals


@MMDET_MODELS.register_module()
class WrappedDetector(BaseModel):
    """A model that holds a detector, as trackers do."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = MMDET_MODELS.build(tiny_retinanet())

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> None:
        raise NotImplementedError


@MMDET_MODELS.register_module()
class TokenNeck(FPN):
    """Gives (N, L, C) tokens instead of maps."""

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(x.flatten(2).mT for x in super().forward(inputs))


@MMDET_MODELS.register_module()
class HungryNeck(FPN):
    """Takes no image of the sizes that are tried."""

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        raise RuntimeError('kernel size can not be greater than input size')


@MMDET_MODELS.register_module()
class MovedNeck(FPN):
    """Runs only on the second device that it is moved to."""

    moves = 0

    def _apply(self, fn: Callable, recurse: bool = True) -> MovedNeck:
        self.moves += 1
        return super()._apply(fn, recurse)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self.moves != 3:  # to the first device, back, to the second
            raise RuntimeError('implementation for device cpu not found')
        return super().forward(inputs)


def with_neck(name: str) -> dict[str, Any]:
    model = tiny_retinanet()
    return {**model, 'neck': {**model['neck'], 'type': name}}


REFUSED = {
    'semi-supervised': (
        dict(type='SoftTeacher', detector=tiny_retinanet(), semi_train_cfg={}, semi_test_cfg={}),
        ['SoftTeacher', "'student'", 'give the detector that they train'],
    ),
    'distilling': (
        {
            **tiny_retinanet(),
            'type': 'KnowledgeDistillationSingleStageDetector',
            'teacher_config': dict(model=tiny_retinanet()),
        },
        ['KnowledgeDistillationSingleStageDetector', "'teacher_model'", 'accepted'],
    ),
    'wrapping': (dict(type='WrappedDetector'), ['WrappedDetector has no extract_feat', 'accepted']),
    'unknown type': (dict(type='RetinaNot'), ['RetinaNot could not be built', 'registry', 'accepted']),
    'wrong argument': ({**tiny_retinanet(), 'nek': None}, ['RetinaNet could not be built', "'nek'", 'accepted']),
    'tokens': (with_neck('TokenNeck'), ['neck', '(1, 1024, 16)', '(N, C, H, W)']),
    'too large a kernel': (with_neck('HungryNeck'), ['256 and 512 pixels', 'kernel size', 'accepted']),
}


STUDENTS_ONLY = ('semi-supervised', 'distilling')
"""As a teacher the first is refused for its tap, and the second is a detector like any other."""


def test_a_distilling_detector_is_a_teacher_like_any_other():
    """Its train and eval give nothing back."""
    model = MMDET_MODELS.build(
        dict(
            type='mmkd_graph.GraphDistiller',
            student=tiny_retinanet(),
            teacher=dict(config=REFUSED['distilling'][0], strict=False),
            losses=dict(score=dict(type='mmkd_graph.ScoreKDLoss')),
        )
    )
    assert not any(m.training for m in model.teacher.model.modules())
    assert not any(p.requires_grad for p in model.teacher.model.parameters())


@pytest.mark.parametrize(
    ('kind', 'side'),
    [
        (kind, side)
        for kind in REFUSED
        for side in ('student', 'teacher')
        if side == 'student' or kind not in STUDENTS_ONLY
    ],
)
def test_what_can_not_be_distilled_is_refused_when_it_is_built(kind, side):
    model, words = REFUSED[kind]
    models = {'student': tiny_retinanet(), 'teacher': tiny_retinanet(), side: model}
    with pytest.raises(ValueError, match=side) as caught:
        GraphDistiller(
            ConfigDict(models['student']),
            dict(config=ConfigDict(models['teacher']), strict=False),
            dict(crg=round_trip.CRG),
        )
    for word in words:
        assert word in str(caught.value), f'{word!r} is not in: {caught.value}'


def test_probing_goes_on_with_a_larger_image():
    """The coarsest convolutions of SSD300 do not fit into 256 pixels."""
    student = round_trip.offline(Config.fromfile(round_trip.CONFIGS / 'ssd/ssd300_coco.py').model, SIDE)
    strides, channels, _ = probe(MMDET_MODELS.build(student), 'neck', 'taps.student')
    assert strides[:4] == (8, 16, 32, 64)
    assert channels == (512, 1024, 512, 256, 256, 256)


def test_probing_goes_on_where_there_is_a_gpu(monkeypatch):
    """CARAFE has no operator for the CPU, where models are built."""
    monkeypatch.setattr(taps, '_devices', lambda home: [home, home])
    detector = MMDET_MODELS.build(with_neck('MovedNeck'))
    strides = probe(detector, 'neck', 'taps.student').strides
    assert strides == probe(MMDET_MODELS.build(tiny_retinanet()), 'neck', 'taps.student')[0]
    assert detector.neck.moves == 4, 'the detector was not taken back'


def test_normalisation_of_an_untrained_teacher_comes_from_the_batch():
    student = ConfigDict(tiny_retinanet())
    model = GraphDistiller(student, dict(config=student, strict=False), dict(crg=round_trip.CRG))
    norm = model.teacher.model.backbone.bn1
    assert not norm.running_mean.any()
    round_trip._settle(model, round_trip.random_batch(student, SIDE))
    assert norm.running_mean.all() and not norm.training and not norm.weight.requires_grad


def test_normalisation_of_an_untrained_student_comes_from_the_batch_even_without_eps():
    """NAS-FCOS has none, and torch trains no batch normalisation so."""
    student = ConfigDict(tiny_retinanet())
    model = GraphDistiller(student, dict(config=student, strict=False), dict(crg=round_trip.CRG))
    norm = model.student.backbone.bn1
    norm.eps, momentum, training = 0, norm.momentum, norm.training
    assert not norm.running_mean.any()
    round_trip._settle(model, round_trip.random_batch(student, SIDE))
    assert norm.running_mean.all()
    assert (norm.eps, norm.momentum, norm.training) == (0, momentum, training)


def test_masked_convolutions_are_those_of_the_kept_cells():
    conv = MaskedConv2d(3, 4, 3, padding=1)
    x, mask = torch.randn(1, 3, 5, 6), torch.rand(1, 5, 6) > 0.5
    expected = torch.where(mask, torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1), torch.zeros(()))
    assert 0 < mask.sum() < mask.numel()
    torch.testing.assert_close(round_trip._convolve_masked(conv, x, mask), expected)
    assert round_trip._convolve_masked(conv, x).ne(0).all()


def test_too_little_memory_is_told_from_a_detector_that_fails():
    def full():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    def broken():
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    with pytest.raises(MemoryError):
        round_trip._stage('train', full)
    with pytest.raises(round_trip.RoundTripError, match='train: RuntimeError: mat1 and mat2'):
        round_trip._stage('train', broken)


def test_backbones_with_several_maps_per_image_compare_each_with_the_teachers(batch):
    """TridentNet gives the maps of its three branches in training, branch by branch, and one map in evaluation."""
    model = GraphDistiller(
        ConfigDict(tiny_retinanet()), dict(config=ConfigDict(tiny_retinanet(16, 32)), strict=False),
        dict(crg=round_trip.CRG),
    )  # fmt: skip
    model.init_weights()
    model.eval()
    data = model.data_preprocessor(batch, False)
    single = model(**data, mode='loss')
    plain, seen = model.student.loss, []
    object.__setattr__(model.student, 'loss', lambda x, samples: plain(x.repeat(3, 1, 1, 1), samples * 3))
    crg = model.distill.losses['crg']
    crg.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[2].data_samples))
    triple = model(**data, mode='loss')
    for term in ('vertex', 'edge', 'spectral'):
        torch.testing.assert_close(triple[f'loss_kd.crg.{term}'], single[f'loss_kd.crg.{term}'])
    assert seen == [data['data_samples'] * 3]
