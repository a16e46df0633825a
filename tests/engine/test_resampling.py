from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmkd_graph.engine.resampling import resampled_ap


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Ground truth of 12 images, predictions that are mostly right, and worse ones."""
    generator = np.random.default_rng(3)
    truth = dict(
        images=[dict(id=7 * i + 3, width=100, height=100) for i in range(12)],
        categories=[dict(id=1, name='a'), dict(id=4, name='b')],
        annotations=[],
    )
    good, bad = [], []
    for image in truth['images']:
        for _ in range(generator.integers(0, 4)):
            x, y, w, h = (float(v) for v in generator.uniform((0, 0, 20, 20), (50, 50, 50, 50)))
            category = int(generator.choice([1, 4]))
            truth['annotations'].append(
                dict(id=len(truth['annotations']) + 1, image_id=image['id'], category_id=category)
                | dict(bbox=[x, y, w, h], area=w * h, iscrowd=0)
            )
            for results, shift in ((good, 3.0), (bad, 12.0)):
                box = [x + float(generator.normal(0, shift)), y, w, h]
                score = float(generator.uniform())
                results.append(dict(image_id=image['id'], category_id=category, bbox=box, score=score))
    paths = tmp_path / 'truth.json', tmp_path / 'good.json', tmp_path / 'bad.json'
    for path, content in zip(paths, (truth, good, bad), strict=True):
        path.write_text(json.dumps(content))
    return paths


def ap_of_copies(truth: Path, predictions: Path, drawn: list[int]) -> float:
    """AP by pycocotools of a data set that really holds the drawn images, each as often as it was drawn."""
    content, results = json.loads(truth.read_text()), json.loads(predictions.read_text())
    many = dict(content, images=[], annotations=[])
    found = []
    for new, position in enumerate(drawn, 1):
        old = sorted(image['id'] for image in content['images'])[position]
        many['images'].append(dict(id=new, width=100, height=100))
        for annotation in content['annotations']:
            if annotation['image_id'] == old:
                many['annotations'].append(annotation | dict(id=len(many['annotations']) + 1, image_id=new))
        found += [result | dict(image_id=new) for result in results if result['image_id'] == old]
    coco = COCO()
    coco.dataset = copy.deepcopy(many)
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_a_draw_is_the_ap_of_the_images_drawn(files: tuple[Path, Path, Path]) -> None:
    truth, good, bad = files
    found = resampled_ap(truth, [good, bad], draws=20, seed=5)
    assert found.shape == (2, 20)
    chosen = np.random.default_rng(5).integers(12, size=(20, 12))
    for row, predictions in zip(found, (good, bad), strict=True):
        wanted = [ap_of_copies(truth, predictions, list(draw)) for draw in chosen[:3]]
        np.testing.assert_allclose(row[:3], wanted, atol=1e-9)


def test_models_share_their_draws(files: tuple[Path, Path, Path]) -> None:
    """What is hard for one is hard for both, so that a difference varies less than they do."""
    truth, good, bad = files
    same = resampled_ap(truth, [good, good], draws=20)
    assert np.array_equal(same[0], same[1])
    found = resampled_ap(truth, [good, bad], draws=60)
    assert found[0].mean() > found[1].mean() and found.std(axis=1).min() > 0
    assert np.array_equal(found, resampled_ap(truth, [good, bad], draws=60))
