"""Which detections are true, and how accurate they are."""

from __future__ import annotations

import numpy as np
import pytest

from mmkd_graph.reporting.comparison import _chosen
from mmkd_graph.reporting.detections import Image, Predictions, accuracies, match


def image(boxes: list, labels: list, ignored: list | None = None) -> Image:
    return Image(
        'x.jpg',
        (100, 100),
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(ignored or [False] * len(labels), dtype=bool),
    )


def predictions(*rows: tuple) -> Predictions:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
    scores, labels = ([row[i] for row in rows] for i in (1, 2))
    return Predictions(boxes, np.array(scores, dtype=np.float32), np.array(labels, dtype=np.int64))


A, B = [0, 0, 40, 40], [50, 50, 90, 90]
NEAR_A = [0, 0, 40, 36]  # IoU 0.9
FAR_A = [0, 0, 40, 18]  # IoU 0.45


@pytest.mark.parametrize(
    ('box', 'score', 'label', 'shown', 'found'),
    [
        (NEAR_A, 0.9, 0, True, True),
        (NEAR_A, 0.3, 0, False, False),  # has to be above
        (NEAR_A, 0.9, 1, True, False),
        (FAR_A, 0.9, 0, True, False),
    ],
)
def test_a_detection_finds_an_object_of_its_class_by_score_and_overlap(box, score, label, shown, found):
    matches = match(image([A, B], [0, 1]), predictions((box, score, label)))
    assert matches.shown.tolist() == [shown] and matches.true.tolist() == [found]
    assert matches.found.tolist() == [found, False]


def test_an_object_is_found_once_and_by_the_best_detection():
    matches = match(image([A, B], [0, 0]), predictions((NEAR_A, 0.5, 0), (A, 0.8, 0), (B, 0.4, 0)))
    assert matches.true.tolist() == [False, True, True] and matches.shown.all()
    assert matches.found.tolist() == [True, True]


def test_ignored_objects_count_neither_way():
    matches = match(image([A, B], [0, 0], [True, False]), predictions((A, 0.9, 0), (B, 0.9, 0)))
    assert matches.shown.tolist() == [False, True] and matches.found.tolist() == [False, True]


def test_images_without_objects_or_detections():
    assert not match(image([], []), predictions((A, 0.9, 0))).true.any()
    assert not match(image([A], [0]), predictions()).found.any()


class _Images:
    classes = ('cat', 'dog', 'cow')
    images = (image([A, B], [0, 1]), image([A], [0]))


def test_accuracy_of_exact_of_half_and_of_no_detections():
    exact = [predictions((A, 0.9, 0), (B, 0.8, 1)), predictions((A, 0.7, 0))]
    half = [predictions((A, 0.9, 0)), predictions((B, 0.95, 0), (FAR_A, 0.1, 1))]
    found, drawn = accuracies(_Images(), {'exact': exact, 'half': half, 'none': [predictions()] * 2}, draws=5)
    assert found['exact'].ap == found['exact'].ap50 == 100
    assert found['exact'].classes['cat'] == 100 and np.isnan(found['exact'].classes['cow'])
    # of two cats one is found, after a false one: precision 1/2 up to recall 1/2, at 51 of 101 points
    assert found['half'].classes['cat'] == pytest.approx(100 * 51 / 101 / 2, abs=0.06)
    assert found['half'].classes['dog'] == 0
    assert found['none'].ap == 0 and drawn == {}
    _, drawn = accuracies(_Images(), {'exact': exact, 'half': half}, draws=5)
    assert (drawn['exact'] == 100).all() and (drawn['half'] < 60).all() and drawn['half'].shape == (5,)


def test_gains_losses_and_others_are_shown():
    gains = np.array([0, 3, -2, 1, 0, -1, 0, 0])
    assert _chosen(gains, 8, 6)[:4] == [1, 3, 2, 5]
    assert sorted(_chosen(gains, 8, 99)) == [*range(8)]
    assert _chosen(None, 8, 3) == [0, 4, 7]
    assert _chosen(np.zeros(8, dtype=int), 8, 2) == [0, 7]
    assert _chosen(gains, 8, 0) == []
