"""One distilled step of any mmdet detector, then save, reload into the plain detector and predict the same.

Random weights, a small random batch of every kind of annotation a detector may need, no downloads.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import torch
from mmcv.ops import MaskedConv2d
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import BaseBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.heads import Heads
from mmkd_graph.losses import LOSSES, HeadLoss

from .small import annotated

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
CRG = dict(type='mmkd_graph.CRGLoss')

_MOST_PREDICTIONS, _MOST_CANDIDATES, _MOST_SAMPLES = 30, 200, 32
"""Boxes kept per image, candidates kept per level before suppression, proposals sampled per image in training.

With all score thresholds at 0 there would be as many as a config allows.
"""
_TESTING = dict(score_thr=0.0, filter_thr=0.0, min_bbox_size=-1, distance_threshold=math.inf)
"""Values in testing with which predictions are dropped by suppression alone; the distance is that of paired corners."""
_ONE_SIZE = ('YOLACTHead', 'PISASSDHead')
"""Heads that stack what they have per image, and so train on images of one size."""


class RoundTripError(Exception):
    """A ``stage`` (build, settle, train, predict or reload) that did not work, and the ``reason``."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f'{stage}: {reason}')
        self.stage, self.reason = stage, reason


@dataclass(frozen=True)
class Trip:
    """What a round trip that worked was like.

    ``strides`` paired and ``skipped`` in pixels per cell, how many boxes and masks were predicted, the logged losses,
    and the losses of heads that fit these two detectors.
    """

    strides: tuple[int, ...]
    skipped: tuple[int, ...]
    predictions: int
    losses: dict[str, float]
    heads: tuple[str, ...] = ()


def offline(model: Mapping, side: int) -> ConfigDict:
    """A model config that needs neither downloads nor a GPU and whose predictions are never empty.

    Pretrained weights are dropped, SyncBN becomes BN and torchvision's operators mmcv's, paddings and resizings of
    whole batches go to ``side`` pixels. Nothing but suppression drops predictions, and their number and that of
    proposals is small. Boxes are clipped to the image: on the CPU mmdet cannot paste a mask outside it. The
    architecture stays what it is.
    """
    # Detectors that predict a set may take the number of predictions for that of their queries (QueryInst).
    sets = any(True for key in ('num_queries', 'num_proposals') for _ in find(model, key))
    most = dict(nms_pre=_MOST_CANDIDATES, **({} if sets else dict(max_per_img=_MOST_PREDICTIONS)))

    def walk(node: Any, testing: bool) -> Any:
        if isinstance(node, (list, tuple)):
            return type(node)(walk(x, testing) for x in node)
        if not isinstance(node, Mapping):
            return node
        out = {}
        for key, value in node.items():
            loads = key == 'init_cfg' and isinstance(value, Mapping) and 'checkpoint' in value
            if loads or key in ('pretrained', 'teacher_ckpt'):
                value = False if isinstance(value, bool) else None  # timm takes a bool
            elif key == 'teacher_config' and isinstance(value, str):
                value = str(CONFIGS / value.removeprefix('configs/'))  # written for a checkout of mmdet
            elif key == 'type' and isinstance(value, str) and value.endswith('SyncBN'):
                value = 'BN'
            elif testing and (key in _TESTING or (key == 'mask_thr' and 'filter_thr' in node)):
                value = _TESTING.get(key, 0.0)
            elif key in ('clip_border', 'use_torchvision'):
                value = key == 'clip_border'
            elif key == 'num' and 'pos_fraction' in node:
                value = min(value, _MOST_SAMPLES)
            elif isinstance(value, int) and key in most and (testing or key != 'nms_pre'):
                value = min(value, most[key])
            else:
                value = walk(value, testing or key == 'test_cfg')
            out[key] = value
        return out

    model = walk(model, False)
    for augment in (model.get('data_preprocessor') or {}).get('batch_augments') or ():
        augment.update((key, (side, side)) for key in ('size', 'random_size_range') if key in augment)
    return ConfigDict(model)


def find(node: Any, key: str) -> Iterator[Any]:
    """All values of ``key`` in a nest of dicts and lists."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from find(value, key)


def random_batch(model: Mapping, side: int, seed: int = 0) -> dict[str, list]:
    """Two random images, ``side`` x ``side`` and ``side`` x 3/4 ``side`` pixels, with all annotations there are.

    Boxes, labels and a semantic map; bitmap masks where the model predicts masks (others may use them all the same, as
    RTMDet does); proposals where it has RoIs and no RPN. Labels are below every ``num_classes`` in ``model``; what is
    in no box is the first class of stuff where there is stuff, otherwise void (255).
    """
    rng = np.random.default_rng(seed)
    counts = [n for key in ('num_classes', 'num_things_classes') for n in find(model, key) if isinstance(n, int)]
    classes = max(1, min((n for n in counts if n > 0), default=1))
    things = max(find(model, 'num_things_classes'), default=classes)
    stuff = max((n for n in find(model, 'num_stuff_classes') if n), default=0)
    needs_masks = any(value for key in ('mask_head', 'loss_mask') for value in find(model, key))
    needs_proposals = 'roi_head' in model and not model.get('rpn_head')
    batch: dict[str, list] = dict(inputs=[], data_samples=[])
    narrow = side if any(name in _ONE_SIZE for name in find(model, 'type')) else side * 3 // 4
    for index, (height, width) in enumerate(((side, side), (side, narrow))):
        count = 3 - index
        corner = rng.uniform(0, 0.5, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0.2, 0.5, (count, 2))], 1) * [width, height, width, height]
        labels = rng.integers(0, classes, count)
        masks = np.zeros((count, height, width), np.uint8)
        semantic = np.full((height, width), things if stuff else 255, np.int64)
        for mask, label, (x1, y1, x2, y2) in zip(masks, labels, boxes.round().astype(int), strict=True):
            mask[y1:y2, x1:x2] = 1
            semantic[y1:y2, x1:x2] = label
        shape = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0), flip=False)
        border = np.array([0, height, 0, width])  # corner-based detectors crop by it
        sample = annotated(boxes, labels)
        sample.set_metainfo(dict(img_id=index, img_path='', border=border, **shape))
        if needs_masks:
            sample.gt_instances.masks = BitmapMasks(masks, height, width)
        sample.ignored_instances = annotated([], []).gt_instances
        sample.gt_sem_seg = PixelData(sem_seg=torch.tensor(semantic)[None])
        if needs_proposals:
            shaken = sample.gt_instances.bboxes.repeat(4, 1) + torch.tensor(rng.uniform(-3, 3, (4 * count, 4))).float()
            shaken[:, 0::2].clamp_(0, width)
            shaken[:, 1::2].clamp_(0, height)
            sample.proposals = InstanceData(bboxes=shaken, scores=torch.ones(len(shaken)))
        batch['inputs'].append(torch.tensor(rng.integers(0, 256, (3, height, width), dtype=np.uint8)))
        batch['data_samples'].append(sample)
    return batch


def round_trip(student: Mapping, teacher: Mapping, side: int = 128, **distiller: Any) -> Trip:
    """Train one step, predict, save, reload into the plain detector, predict the same.

    Args:
        student, teacher: model dicts.
        side: of the images in pixels.
        **distiller: further arguments of the distiller (``taps``, ``losses``, …).

    Raises:
        RoundTripError: naming the stage that did not work, and why.
        MemoryError: if there is too little memory.
    """
    student, teacher = offline(student, side), offline(teacher, side)
    batch = random_batch(student, side)
    config = dict(
        type='mmkd_graph.GraphDistiller',
        student=student,
        teacher=dict(config=teacher, strict=False),
        **{'losses': dict(crg=CRG), **distiller},
    )
    torch.manual_seed(0)
    model = _stage('build', lambda: _built(config))
    _stage('settle', lambda: _settle(model, batch))
    losses = _stage('train', lambda: _step(model, batch))
    ours = _stage('predict', lambda: _predict(model, batch))
    return _stage('reload', lambda: _reloaded(model, student, batch, ours, losses))


def plain_failure(student: Mapping, side: int) -> str | None:
    """What the plain detector says to the same step and batch; ``None`` if it works."""
    student = offline(student, side)
    batch = random_batch(student, side)
    torch.manual_seed(0)
    try:
        model = _stage('build', lambda: _built(student))
        _stage('settle', lambda: _settle(model, batch))
        _stage('train', lambda: _step(model, batch))
        _stage('predict', lambda: _predict(model, batch))
    except RoundTripError as error:
        return str(error)
    return None


def _stage(name: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:  # any detector may fail in any way; that is what is being found out
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        reason = ' '.join(str(error).split()) or traceback.extract_tb(error.__traceback__)[-1].line or ''
        if not isinstance(error, (ValueError, ArithmeticError)):
            reason = f'{type(error).__name__}: {reason}'
        raise RoundTripError(name, reason) from error


def _built(config: Mapping) -> nn.Module:
    model = MMDET_MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return _mended(model)


def _mended(model: nn.Module) -> nn.Module:
    """What cannot predict here can.

    SSD: its head lacks an attribute in mmdet 3.2 and later (open-mmlab/mmdetection#11063). Guided anchors: mmcv
    convolves the cells of a mask on GPUs only.
    """
    for module in model.modules():
        if isinstance(module, SSDHead) and not hasattr(module, 'loss_cls'):
            module.loss_cls = None
        if isinstance(module, MaskedConv2d):
            module.forward = functools.partial(_convolve_masked, module)
    return model


def _convolve_masked(conv: MaskedConv2d, x: Tensor, mask: Tensor | None = None) -> Tensor:
    y = nn.Conv2d.forward(conv, x)
    return y if mask is None else y * mask


def _settle(model: nn.Module, batch: dict[str, list]) -> None:
    """Initialise the teacher, and the normalisation of both from the batch: nothing was loaded that would have done so.

    Some modules leave memory as they found it, and where batch normalisation has seen no data the activations of a deep
    network, or their gradients, may leave float32 (DetectoRS).
    """
    inputs = model.data_preprocessor(copy.deepcopy(batch), False)
    if isinstance(model, GraphDistiller):
        teachers = model.pyramids.teacher_inputs(**inputs)
        model.teacher.model.init_weights()
        _normalise(model.teacher.model, lambda: model.teacher(teachers))
        if not all(x.isfinite().all() for x in model.teacher(teachers)):
            raise ArithmeticError("the teacher's features are not finite")
        model = model.student
    _normalise(model, lambda: model.extract_feat(inputs['inputs']))


@torch.no_grad()
def _normalise(detector: nn.Module, features: Callable[[], Any]) -> None:
    norms = [module for module in detector.modules() if isinstance(module, _BatchNorm)]
    own = [(norm.training, norm.momentum, norm.eps) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.eps = norm.eps or 1e-5  # torch trains none without (NAS-FCOS)
        norm.train()
    features()
    for norm, (mode, momentum, eps) in zip(norms, own, strict=True):
        norm.train(mode)
        norm.momentum, norm.eps = momentum, eps


def _step(model: nn.Module, batch: dict[str, list]) -> dict[str, float]:
    model.train()
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, max_iters=1, epoch=0, max_epochs=1))
    optimizer = dict(optimizer=dict(type='SGD', lr=1e-3), clip_grad=dict(max_norm=1.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    logged = model.train_step(copy.deepcopy(batch), build_optim_wrapper(model, optimizer))
    losses = {name: value.item() for name, value in logged.items()}
    if wrong := {name: value for name, value in losses.items() if not math.isfinite(value)}:
        raise ArithmeticError(f'not finite: {wrong}')
    after = dict(model.named_parameters())
    if all(torch.equal(p, after[name]) for name, p in before.items()):
        raise ArithmeticError('the step changed no parameter')
    if any(not p.isfinite().all() for p in after.values()):
        raise ArithmeticError('the step left parameters that are not finite')
    return losses


def _predict(model: nn.Module, batch: dict[str, list]) -> list[DetDataSample]:
    """One image at a time, as mmdet's configs test: some heads take no more (guided anchors)."""
    model.eval()
    torch.manual_seed(0)
    images = zip(*copy.deepcopy(batch).values(), strict=True)
    with torch.no_grad():
        return [model.test_step(dict(inputs=[image], data_samples=[sample]))[0] for image, sample in images]


def _reloaded(
    model: nn.Module, student: Mapping, batch: dict[str, list], ours: list[DetDataSample], losses: dict[str, float]
) -> Trip:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    weights = {k: v for k, v in torch.load(file, weights_only=True).items() if not k.startswith('distill.')}
    detector = _mended(MMDET_MODELS.build(copy.deepcopy(student)))
    # A detector may have given a module a second name while it trained (DDQ); the plain one has not, yet.
    names = set(detector.state_dict())
    known = {v.data_ptr() for k, v in weights.items() if k in names}
    weights = {k: v for k, v in weights.items() if k in names or v.data_ptr() not in known}
    detector.load_state_dict(weights, strict=True)
    theirs = _predict(detector, batch)
    image = detector.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    with torch.no_grad():
        if not same(model.extract_feat(image), detector.extract_feat(image)):
            raise ValueError('features of the reloaded detector differ')
    found = 0
    for mine, other in zip(ours, theirs, strict=True):
        keys = [key for key in mine.all_keys() if key.startswith('pred')]
        if not keys:
            raise ValueError('no predictions')
        for key in keys:
            if not same(mine.get(key), other.get(key)):
                raise ValueError(f'{key} of the reloaded detector differs')
        found += len(mine.pred_instances) if 'pred_instances' in mine else 1
    if not found:
        raise ValueError('no predictions to compare')
    return Trip(model.strides, model.pyramids.skipped, found, losses, head_losses(model))


def head_losses(model: nn.Module) -> tuple[str, ...]:
    """Names of the losses of heads that fit the detectors in a distiller, with their defaults."""
    fitting = []
    for name, loss in LOSSES.items():
        if issubclass(loss, HeadLoss):
            with contextlib.suppress(ValueError):  # says what does not fit
                Heads(model.pyramids).spec(loss(), name)
                fitting.append(name)
    return tuple(fitting)


def same(a: Any, b: Any) -> bool:
    """Whether two predictions are equal bit for bit: tensors, arrays, boxes, encoded masks and nests of them."""
    if isinstance(a, BaseBoxes) and isinstance(b, BaseBoxes):
        a, b = a.tensor, b.tensor
    if isinstance(a, BaseDataElement) and isinstance(b, BaseDataElement):
        a, b = dict(a.all_items()), dict(b.all_items())
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
