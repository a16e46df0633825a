"""What the models of a distillation find on the same images, and which of it is true."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.functional import bbox_overlaps
from mmdet.evaluation.functional.mean_ap import tpfp_default
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.distillers.teacher import build_detector
from mmkd_graph.distillers.weights import load_weights
from mmkd_graph.engine.resampling import resampled_ap

IOU, SCORE = 0.5, 0.3
"""A detection with a higher score finds the object of its class that it overlaps most, from this IoU on."""


@dataclass(frozen=True)
class Image:
    """An image: path, (height, width), objects as (N, 4) boxes in pixels, their labels, and which to ignore."""

    path: str
    shape: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """What a model says of an image: (M, 4) boxes in pixels of the image, scores and labels."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Matches:
    """Which predictions of an image are shown, which of those are true, and which objects they find.

    Attributes:
        shown: (M,) score above ``SCORE``, and not on an ignored object.
        true: (M,) shown, and finds an object that no better prediction finds.
        found: (N,) objects that are found.
    """

    shown: NDArray[np.bool_]
    true: NDArray[np.bool_]
    found: NDArray[np.bool_]


class Images:
    """Some images of a validation set, evenly spread over it.

    Args:
        loader: a config's ``val_dataloader``.
        count: how many; all, where the set has fewer.

    Attributes:
        classes: names of the classes.
        total: images in the whole set.
        images: the chosen ones.
    """

    def __init__(self, loader: Mapping[str, Any], count: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
            self._dataset = DATASETS.build(loader['dataset'])
        self.total = len(self._dataset)
        self._chosen = np.unique(np.linspace(0, self.total - 1, min(count, self.total)).round().astype(int)).tolist()
        self._batch_size = loader.get('batch_size', 1)
        self.classes = tuple(common_metainfo(self._dataset.metainfo)['classes'])
        self.images = [_image(self._dataset.get_data_info(i)) for i in self._chosen]

    def batches(self) -> Iterable[dict[str, Any]]:
        """The images as the validation's pipeline makes them, in batches of the validation's size."""
        return DataLoader(Subset(self._dataset, self._chosen), self._batch_size, collate_fn=pseudo_collate)


def _image(info: Mapping[str, Any]) -> Image:
    instances = info['instances']
    return Image(
        path=info['img_path'],
        shape=(info['height'], info['width']),
        boxes=np.array([one['bbox'] for one in instances], dtype=np.float32).reshape(-1, 4),
        labels=np.array([one['bbox_label'] for one in instances], dtype=np.int64),
        ignored=np.array([bool(one.get('ignore_flag', 0)) for one in instances], dtype=bool),
    )


def predict(
    model: Any, checkpoint: str, images: Images, device: str, strict: bool = True
) -> tuple[list[Predictions], list[str]]:
    """What a detector finds on every image, in the order of the images.

    Classes are compared by name where the checkpoint names them: a teacher may know others, which are left out.

    Args:
        model: its model dict.
        checkpoint: its weights.
        images: what it is given.
        device: where it runs.
        strict: as for a teacher.

    Returns:
        What it finds, and the classes of the images that it does not know.

    Raises:
        FileNotFoundError, ValueError: if it cannot be built or its weights cannot be loaded, or if its classes are
            others and not named.
    """
    detector = build_detector(copy.deepcopy(model), 'model')  # constructors change what they get
    meta = common_metainfo(load_weights(detector, checkpoint, 'checkpoint', strict).meta.get('dataset_meta'))
    classes = tuple(meta.get('classes') or meta.get('CLASSES') or images.classes)
    places = np.array([images.classes.index(name) if name in images.classes else -1 for name in classes])
    if (places < 0).all():
        raise ValueError(f'checkpoint={checkpoint!r} knows none of the classes {", ".join(images.classes)}')
    detector = revert_sync_batchnorm(detector).to(device).eval()
    found: list[Predictions] = []
    with torch.no_grad():
        for batch in images.batches():
            for sample in detector.test_step(batch):
                instances = sample.pred_instances.cpu().numpy()
                boxes = instances.bboxes.tensor if hasattr(instances.bboxes, 'tensor') else instances.bboxes
                labels = instances.labels
                if labels.size and labels.max() >= len(places):
                    raise ValueError(f'checkpoint={checkpoint!r}: it has more classes than {len(places)}, not named')
                labels = places[labels]
                known = labels >= 0
                found.append(Predictions(np.asarray(boxes)[known], instances.scores[known], labels[known]))
    return found, [name for name in images.classes if name not in classes]


def match(image: Image, predictions: Predictions) -> Matches:
    """Which predictions find objects, class by class, in the order of their scores; each object is found once.

    Source: ``tpfp_default`` of mmdet, the matching of the VOC metric.
    """
    shown = predictions.scores > SCORE
    true = np.zeros(len(shown), dtype=bool)
    found = np.zeros(len(image.boxes), dtype=bool)
    for label in np.unique(predictions.labels[shown]):
        mine = np.flatnonzero(shown & (predictions.labels == label))
        objects = np.flatnonzero((image.labels == label) & ~image.ignored)
        ignored = image.boxes[(image.labels == label) & image.ignored]
        scored = np.c_[predictions.boxes[mine], predictions.scores[mine]]
        hits, wrong = (x[0] > 0 for x in tpfp_default(scored, image.boxes[objects], ignored, iou_thr=IOU))
        true[mine[hits]] = True
        shown[mine[~hits & ~wrong]] = False
        if hits.any():
            overlaps = bbox_overlaps(predictions.boxes[mine[hits]], image.boxes[objects])
            found[objects[overlaps.argmax(1)]] = True
    return Matches(shown, true, found)


@dataclass(frozen=True)
class Accuracy:
    """AP of a model over the IoUs 0.5 to 0.95, at 0.5, and by class; in percent, NaN without objects."""

    ap: float
    ap50: float
    classes: dict[str, float]


def accuracies(
    images: Images, predictions: Mapping[str, Sequence[Predictions]], draws: int = 200
) -> tuple[dict[str, Accuracy], dict[str, NDArray[np.float64]]]:
    """COCO's AP of every model on the images; and their AP on resampled images, the same for all models.

    Returns:
        By model; and by model (draws,) AP in percent, see :func:`~mmkd_graph.engine.resampling.resampled_ap`. Without
        any object or without any detection of some model, there are none of the latter.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prefixes = {name: Path(folder) / str(number) for number, name in enumerate(predictions)}
        for name, given in predictions.items():
            metric = CocoMetric(classwise=True, outfile_prefix=str(prefixes[name]))
            metric.dataset_meta = dict(classes=images.classes)
            metric.process({}, [_as_sample(i, *pair) for i, pair in enumerate(zip(images.images, given, strict=True))])
            values = metric.evaluate(len(given))
            by_class = {one: 100 * float(values.get(f'coco/{one}_precision', 'nan')) for one in images.classes}
            whole = (100 * float(values.get(f'coco/{key}', 0)) for key in ('bbox_mAP', 'bbox_mAP_50'))
            found[name] = Accuracy(*whole, by_class)
        if draws and all(any(len(one.boxes) for one in given) for given in predictions.values()):
            files = [f'{prefix}.bbox.json' for prefix in prefixes.values()]
            drawn = 100 * resampled_ap(f'{next(iter(prefixes.values()))}.gt.json', files, draws=draws)
            return found, dict(zip(predictions, drawn, strict=True))
    return found, {}


def _as_sample(number: int, image: Image, predictions: Predictions) -> dict[str, Any]:
    """What mmdet's metric takes: prediction and ground truth of one image."""
    return dict(
        img_id=number,
        ori_shape=image.shape,
        pred_instances=dict(
            bboxes=torch.from_numpy(predictions.boxes),
            scores=torch.from_numpy(predictions.scores),
            labels=torch.from_numpy(predictions.labels),
        ),
        instances=[
            dict(bbox=box.tolist(), bbox_label=int(label), ignore_flag=int(ignored))
            for box, label, ignored in zip(image.boxes, image.labels, image.ignored, strict=True)
        ],
    )
