"""How much an AP depends on which images a data set happens to hold: a bootstrap over its images."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def resampled_ap(
    ann_file: str | Path,
    predictions: Sequence[str | Path],
    classes: Sequence[str] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """AP of models on data sets that are drawn from a data set's images with replacement, the same for all models.

    Args:
        ann_file: ground truth, in COCO form.
        predictions: per model a COCO result file of boxes, such as ``CocoMetric(outfile_prefix=…)`` of mmdet writes.
        classes: names of the categories that count; default: all.
        draws: how many data sets are drawn, each of as many images as there are.
        seed: of the draws.

    Returns:
        (models, draws) AP over the IoUs 0.5 to 0.95, in [0, 1]; NaN where a draw holds no object.

    Source: percentile bootstrap, Efron & Tibshirani 1993; matched boxes are those of pycocotools.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        images = sorted(truth.getImgIds())
        chosen = np.random.default_rng(seed).integers(len(images), size=(draws, len(images)))
        categories = truth.getCatIds(catNms=classes or [])
        return np.stack([_drawn(truth, images, categories, path, chosen) for path in predictions])


def _drawn(
    truth: COCO, images: list[int], categories: list[int], predictions: str | Path, chosen: np.ndarray
) -> np.ndarray:
    """(draws,) AP of one model; ``chosen``: (draws, images) positions in ``images``."""
    boxes = json.loads(Path(predictions).read_text())
    found = truth.loadRes(boxes) if boxes else COCO()  # pycocotools reads no empty list
    evaluation = COCOeval(truth, found, 'bbox')
    parameters = evaluation.params
    parameters.imgIds, parameters.catIds = images, categories
    parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
    parameters.maxDets = [parameters.maxDets[-1]]
    evaluation.evaluate()
    # By category and image; the accumulation knows images by their place alone.
    matched = np.array(evaluation.evalImgs, dtype=object).reshape(-1, len(images))
    values = []
    for draw in chosen:
        evaluation.evalImgs = list(matched[:, draw].flat)
        evaluation.accumulate()
        precision = evaluation.eval['precision']
        there = precision > -1
        values.append(precision[there].mean() if there.any() else np.nan)
    return np.array(values)
