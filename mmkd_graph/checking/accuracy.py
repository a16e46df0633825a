"""How good the whole teacher is on some validation images, as the training will feed it."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.evaluation import CocoMetric
from mmdet.models import DetDataPreprocessor
from mmdet.structures.bbox import bbox_overlaps
from mmengine.evaluator import Evaluator
from torch import Tensor
from torch.utils.data import DataLoader

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.inputs import InputTransfer, PixelMap
from mmkd_graph.findings import FAIL, OK, WARNING, Finding, one_line
from mmkd_graph.necks import horizontal_boxes

from .batches import metainfo_of, sample_batches
from .classes import count_things, head_classes, teacher_classes

KEY = 'model.teacher.checkpoint'
_FOUND, _NAMED = 0.3, 0.3
"""Who finds more than this share of the boxes and names less of them rightly may have learned other names."""
_REPEATS = 5
"""So many boxes have to get the name that another box of their class got before other names are seen in that."""
_SIGMAS = 2.5
"""Standard deviations of chance that a consistent naming has to be beyond."""
_CONSISTENT, _DISTINCT = 0.6, 0.75
"""Share of a class's boxes, of all classes, that get its commonest name; and of names that are one class's alone."""
_BETTER_BY, _BETTER_TIMES = 0.03, 1.25
"""A teacher that is so much better with another normalisation was trained with that one."""
_COMPARED = 32
"""Images on which normalisations are compared."""

NORMALISATIONS: dict[str, tuple[list[float], list[float], bool]] = {
    'the mean and std of ImageNet, RGB': ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], True),
    'the mean and std of ImageNet, BGR': ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395], False),
    "Caffe's mean, BGR": ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0], False),
    '0 to 255, BGR': ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], False),
    '0 to 1, RGB': ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0], True),
}
"""Those of mmdet's zoo: mean, std and ``bgr_to_rgb`` of a ``data_preprocessor``."""


@dataclass(frozen=True)
class Overlap:
    """How detections and ground truth meet, whatever the evaluator.

    Attributes:
        boxes: number of boxes in the ground truth.
        found: share of them that a detection covers with an IoU of at least 0.5, whatever its class.
        named: share of the found ones whose best detection has the right class.
        confused: the commonest wrong pair (class in the data, class of the teacher), as indices of the data's classes.
        renamed: whether the classes of the data have names of their own in the teacher, each mostly one, and most of
            them another one than in the data. A teacher that names at random, or all things alike, has not.
    """

    boxes: int
    found: float
    named: float
    confused: tuple[int, int] | None
    renamed: bool = False


def overlap(detections: Sequence[tuple[Tensor, Tensor, Tensor]], truths: Sequence[tuple[Tensor, Tensor]]) -> Overlap:
    """Compare detections with the ground truth of the same images.

    Args:
        detections: boxes (D, 4) in pixels, labels (D,) and scores (D,) of every image.
        truths: boxes (G, 4) and labels (G,) of every image.

    Example:
        >>> box, one = torch.tensor([[0.0, 0, 10, 10]]), torch.ones(1)
        >>> overlap([(box, torch.tensor([2]), one)], [(box, torch.tensor([0]))])
        Overlap(boxes=1, found=1.0, named=0.0, confused=(0, 2), renamed=False)
    """
    pairs: Counter[tuple[int, int]] = Counter()
    boxes = 0
    for (found, labels, scores), (wanted, classes) in zip(detections, truths, strict=True):
        boxes += len(wanted)
        # As many of the best ones as there are boxes twice: everything is covered by enough boxes.
        best = scores.argsort(descending=True)[: 2 * len(wanted)]
        if not len(wanted) or not len(best):
            continue
        covers = bbox_overlaps(wanted, found[best]) >= 0.5
        first = covers.float().argmax(dim=1)  # sorted by score
        for i in covers.any(dim=1).nonzero().flatten().tolist():
            pairs[int(classes[i]), int(labels[best[first[i]]])] += 1
    total = sum(pairs.values())
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    named = 1 - sum(wrong.values()) / total if total else 0.0
    confused = wrong.most_common(1)[0][0] if wrong else None
    return Overlap(boxes, total / boxes if boxes else 0.0, named, confused, _renamed(pairs))


def _renamed(pairs: Counter[tuple[int, int]]) -> bool:
    """See :attr:`Overlap.renamed`; ``pairs`` counts (class in the data, class of the teacher)."""
    names: dict[int, Counter[int]] = {}
    for (wanted, given), count in pairs.items():
        names.setdefault(wanted, Counter())[given] += count
    # The only box of a class has a commonest name by chance.
    names = {wanted: given for wanted, given in names.items() if sum(given.values()) > 1}
    if len(names) < 2:
        return False
    commonest = {wanted: given.most_common(1)[0] for wanted, given in names.items()}
    agreeing = sum(count for _, count in commonest.values())
    boxes = sum(map(Counter.total, names.values()))
    consistent = agreeing / boxes
    distinct = len({name for name, _ in commonest.values()}) / len(commonest)
    other = sum(name != wanted for wanted, (name, _) in commonest.items()) / len(commonest)
    # Whoever names at random, some names more often than others, agrees with itself as often as its favourite comes.
    favourite = max(sum(names.values(), Counter()).values()) / boxes
    chance = favourite + _SIGMAS * math.sqrt(favourite * (1 - favourite) / boxes)
    enough = agreeing - len(commonest) >= _REPEATS
    return enough and consistent >= max(_CONSISTENT, chance) and distinct >= _DISTINCT and other > 0.5


def check_accuracy(
    model: GraphDistiller, loader: DataLoader, evaluator: Any, batches: int, least: float = 0.05, seconds: float = 25.0
) -> list[Finding]:
    """Let the teacher predict on validation images and score it with the config's evaluator on these alone.

    It gets its inputs from the student's preprocessing, re-normalised, as in the training. Where its class names are
    known, its labels are brought into the data's order first; classes that the data has not are left out.

    Args:
        model: the distiller, not wrapped.
        loader: of the validation data.
        evaluator: the config's ``val_evaluator``.
        batches: how many of the loader's batches to predict, evenly spaced.
        least: average precision, in [0, 1], below which the teacher fails.
        seconds: time after which no other batch is begun.
    """
    metainfo = metainfo_of(loader) or {}
    names = tuple(metainfo.get('classes') or ())
    known, source = teacher_classes(model.teacher)
    heads = set(head_classes(model.teacher.model).values())
    if known is None and heads and heads != {count_things(metainfo)}:
        found = f'not scored: {source} names its classes; its heads have {sorted(heads)}, the data {len(names)}'
        return [Finding(WARNING, KEY, found, 'use a checkpoint that names them')]
    if known is not None and not {*known} & {*names}:
        return [Finding(OK, KEY, 'not scored: it has no class in common with the data')]
    order = torch.tensor([names.index(x) if x in names else -1 for x in known or names])
    try:
        key, problem = KEY, 'not scored: the teacher could not predict'
        samples, infos, inputs = _predictions(model, loader, order, batches, seconds)
        problem = "not scored: its boxes cannot be compared with the data's"
        seen = overlap([_detections(sample) for sample in samples], [_truth(info) for info in infos])
        key, problem = 'val_evaluator', 'the teacher could not be scored with it'
        score = functools.partial(_score, evaluator, metainfo, model.teacher.model)
        metric, reached = score(samples)
    except Exception as error:  # detectors, pipelines, boxes and evaluators of any kind
        return [Finding(WARNING, key, f'{problem} ({one_line(error)})')]
    images = f'{len(samples)} validation images ({seen.boxes} boxes)'
    details = dict(metric=metric, score=reached, images=len(samples), **vars(seen))
    if not seen.boxes:
        return [Finding(WARNING, KEY, f'not scored: no boxes in {images}', 'try more --batches', details)]
    if reached is None:
        return [Finding(WARNING, 'val_evaluator', f'it gives no average precision ({metric})', details=details)]
    shared = {*known} & {*names} if known else names
    part = f', of {len(names)} classes it knows {len(shared)}' if len(shared) < len(names) else ''
    found = f'the teacher reaches {metric} {reached:.3f} on {images}{part}'
    unnamed = seen.found >= _FOUND and seen.named < _NAMED
    rightly = f' and names {seen.named:.0%} of these rightly' if unnamed else ''
    shares = f': it finds {seen.found:.0%} of the boxes{rightly}'
    if unnamed and seen.renamed:
        found += f'{shares} (what is {names[seen.confused[0]]} it calls {names[seen.confused[1]]})'
        return [Finding(FAIL, KEY, found, 'its classes are in another order than the data has them', details)]
    if other := _better_normalisation(model, inputs, samples, order, score, seconds):
        name, own, better, count = other
        found += f'; with its images normalised by {name}, {better:.3f} instead of {own:.3f} on {count} of them'
        advice = "teacher.config's data_preprocessor is not what it was trained with: correct mean, std and bgr_to_rgb"
        return [Finding(FAIL, KEY, found, advice, dict(details, normalisation=name, score_then=better))]
    if reached >= least and not unnamed:
        return [Finding(OK, KEY, found, details=details)]
    advice = (
        'is it the checkpoint of this config, were the mean, std and bgr_to_rgb of its data_preprocessor those that it '
        'was trained with, is it trained on such images and classes?'
    )
    return [Finding(FAIL if reached < least else WARNING, KEY, found + shares, advice, details)]


def _predictions(
    model: GraphDistiller, loader: DataLoader, order: Tensor, batches: int, seconds: float
) -> tuple[list, list[dict], list[dict]]:
    """Samples with the teacher's predictions, labelled as the data is; the data set's own records of the images; and
    the preprocessed batches of the first of them."""
    begin = time.monotonic()
    samples: list = []
    infos: dict[Any, dict] = {}
    kept: list[dict] = []
    indices, read = sample_batches(loader, batches)
    for index, batch in zip(indices, read, strict=True):
        if samples and time.monotonic() - begin > seconds:
            break
        data = model.data_preprocessor(batch, False)
        inputs = model.pyramids.teacher_inputs(data['inputs'], data['data_samples'])
        if len(samples) < _COMPARED and len({*index} - infos.keys()) == len(index):
            kept.append(data)
        for i, sample in zip(index, _predict(model, inputs, data['data_samples'], order), strict=True):
            if i not in infos:
                infos[i] = loader.dataset.get_data_info(i)
                samples.append(sample)
    return samples, list(infos.values()), kept


@torch.no_grad()
def _predict(model: GraphDistiller, inputs: Tensor, data_samples: Sequence, order: Tensor) -> list:
    """Copies of the samples with what the teacher predicts of its inputs, labelled as the data is."""
    for sample in data_samples:
        # transformers mask what is padding by it, and the teacher may have been padded further
        sample.set_metainfo(dict(batch_input_shape=tuple(inputs.shape[-2:])))
    samples = [sample.cpu() for sample in model.teacher.model.predict(inputs, data_samples)]
    for sample in samples:
        labels = order[sample.pred_instances.labels]
        sample.pred_instances.labels = labels
        sample.pred_instances = sample.pred_instances[labels >= 0]
    return samples


def _better_normalisation(
    model: GraphDistiller, batches: Sequence[dict], samples: list, order: Tensor, score: Callable, seconds: float
) -> tuple[str, float, float, int] | None:
    """The first normalisation that a teacher is much better with than with its own.

    Returns:
        Its name, the average precision with the teacher's own and with it, and the number of images.
    """
    if not batches:  # there are fewer images than in a batch
        return None
    begin = time.monotonic()
    teacher = model.teacher.model
    count = sum(len(data['data_samples']) for data in batches)
    _, own = score(samples[:count])
    if own is None or model.teacher.image_channels != 3:  # those of the zoo have three
        return None
    used = PixelMap.of(teacher.data_preprocessor, KEY)
    for name, (mean, std, bgr_to_rgb) in NORMALISATIONS.items():
        preprocessor = DetDataPreprocessor(mean, std, used.divisor, used.pad_value, bgr_to_rgb=bgr_to_rgb)
        if InputTransfer(preprocessor, teacher.data_preprocessor).same_normalisation:
            continue
        if time.monotonic() - begin > seconds:
            return None
        transfer = InputTransfer(model.data_preprocessor, preprocessor)
        found = []
        for data in batches:
            shapes = [sample.img_shape[:2] for sample in data['data_samples']]
            found += _predict(model, transfer(data['inputs'], shapes), data['data_samples'], order)
        _, better = score(found)
        if better is not None and better > max(own + _BETTER_BY, own * _BETTER_TIMES):
            return name, own, better, count
    return None


def _detections(sample: Any) -> tuple[Tensor, Tensor, Tensor]:
    found = sample.pred_instances
    return horizontal_boxes(found.bboxes).cpu(), found.labels, found.scores  # mmengine moves tensors, not mmdet's boxes


def _truth(info: dict) -> tuple[Tensor, Tensor]:
    things = [thing for thing in info.get('instances', ()) if not thing.get('ignore_flag')]
    boxes = torch.tensor([thing['bbox'] for thing in things], dtype=torch.float32)
    labels = torch.tensor([thing['bbox_label'] for thing in things], dtype=torch.long)
    return horizontal_boxes(boxes) if things else boxes.reshape(0, 4), labels


def average_precision(names: Iterable[str]) -> str | None:
    """The metric that is the average precision of boxes, else of anything; None if none of them is one.

    Example:
        >>> average_precision(['coco/cat_precision', 'coco/segm_mAP', 'coco/bbox_mAP', 'coco/bbox_mAP_50'])
        'coco/bbox_mAP'
    """
    names = list(names)
    return next((name for ending in ('bbox_mAP', 'mAP') for name in names if name.endswith(ending)), None)


def _score(config: Any, metainfo: dict, teacher: Any, samples: list) -> tuple[str, float | None]:
    """Name and value of the average precision of boxes; the names of what there is if there is none."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = Evaluator(config)
        evaluator.dataset_meta = metainfo
        for metric in evaluator.metrics:
            if isinstance(metric, CocoMetric):
                # the other images of the annotation file were not shown
                metric.img_ids = [sample.img_id for sample in samples]
                metric.metrics = [kind for kind in metric.metrics if kind != 'segm' or teacher.with_mask]
        evaluator.process(samples)
        scores = evaluator.evaluate(len(samples))
    if name := average_precision(scores):
        return name, max(float(scores[name]), 0.0)
    return (', '.join(scores), None) if scores else ('average precision', 0.0)  # without any detection
