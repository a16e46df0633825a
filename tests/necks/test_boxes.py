"""Boxes of other kinds than horizontal ones, which mmrotate's data sets have, wherever boxes are read."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from methods import METHODS, takes
from methods import options as options_of
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import BaseBoxes, box_type, register_box, register_box_converter
from mmengine.structures import InstanceData

from mmkd_graph.checking import accuracy
from mmkd_graph.losses import DistillContext, PyramidLoss, PyramidSpec
from mmkd_graph.necks import horizontal_boxes, read_instances

ROTATED = torch.tensor([[30.0, 28.0, 40.0, 12.0, 0.5], [40.0, 40.0, 16.0, 30.0, -1.2], [20.0, 44.0, 8.0, 8.0, math.pi]])
OTHERS = torch.tensor([[32.0, 20.0, 30.0, 20.0, 2.0]])


class RotatedBoxes(BaseBoxes):
    """As mmrotate's: centre, width, height, angle; without the geometry, which transforms need alone."""

    box_dim = 5


RotatedBoxes.__abstractmethods__ = frozenset()


class UnknownBoxes(RotatedBoxes):
    """A type that mmdet was not told of."""


@pytest.fixture(autouse=True)
def rotated_boxes_are_known() -> Iterator[None]:
    """mmdet's registry with the type in it, and as it was afterwards."""
    tables = (box_type.box_types, box_type._box_type_to_name, box_type.box_converters)
    before = [dict(table) for table in tables]
    register_box('rbox', RotatedBoxes)
    register_box_converter('rbox', 'hbox', lambda boxes: around(corners(boxes)))
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def corners(rotated: torch.Tensor) -> torch.Tensor:
    """Quadrilaterals (K, 8) of rotated boxes, written corner by corner."""
    rows = []
    for x, y, w, h, angle in rotated.tolist():
        row = []
        for u, v in ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)):
            row += [x + u * math.cos(angle) - v * math.sin(angle), y + u * math.sin(angle) + v * math.cos(angle)]
        rows.append(row)
    return torch.tensor(rows).reshape(-1, 8)


def around(quadrilaterals: torch.Tensor) -> torch.Tensor:
    rows = [[min(q[::2]), min(q[1::2]), max(q[::2]), max(q[1::2])] for q in quadrilaterals.tolist()]
    return torch.tensor(rows).reshape(-1, 4)


KINDS = {'registered': RotatedBoxes, 'rotated': torch.clone, 'quadrilaterals': corners}


@pytest.mark.parametrize('kind', KINDS)
def test_horizontal_boxes_lie_around_those_of_any_kind(kind: str) -> None:
    torch.testing.assert_close(horizontal_boxes(KINDS[kind](ROTATED)), around(corners(ROTATED)))
    assert horizontal_boxes(KINDS[kind](ROTATED[:0])).shape == (0, 4)


@pytest.mark.parametrize(
    ('boxes', 'word'),
    [
        (torch.zeros(2, 6), r'shape \(2, 6\)'),
        (torch.zeros(5), r'shape \(5,\)'),
        ([[0, 0, 1, 1]], 'list'),
        (UnknownBoxes(ROTATED), "UnknownBoxes.*hasn't been registered"),
    ],
)
def test_an_unknown_kind_is_an_error_that_says_what_is_accepted(boxes: object, word: str) -> None:
    with pytest.raises(ValueError, match=rf'{word}.*; accepted: .*angle in radians'):
        horizontal_boxes(boxes)


def test_instances_are_read_without_those_that_have_no_area() -> None:
    flat = torch.tensor([[30.0, 30.0, 0.0, 0.0, 0.3]])
    read = read_instances([sample(RotatedBoxes(torch.cat([flat, ROTATED])))])
    torch.testing.assert_close(read.boxes[0], around(corners(ROTATED)))
    assert read.labels.tolist() == [1, 2, 3]


def sample(boxes: BaseBoxes | torch.Tensor) -> DetDataSample:
    made = DetDataSample(metainfo=dict(img_shape=(64, 64)))
    made.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)))
    return made


@pytest.mark.parametrize(
    ('method', 'options'),
    [(method, {}) for method in METHODS]
    + [(method, dict(samples='instances')) for method in METHODS if takes(method, 'samples')],
)
@pytest.mark.parametrize('kind', KINDS)
def test_losses_read_the_horizontal_boxes_around_them(method: type[PyramidLoss], options: dict, kind: str) -> None:
    strides = (8, 16)

    def value(convert: object) -> torch.Tensor:
        torch.manual_seed(0)
        loss = method(**options_of(method), **options)
        loss.bind(PyramidSpec(strides, (6, 6), (6, 6), 'kd'))
        loss.init_weights()
        samples = [sample(convert(boxes)) for boxes in (ROTATED, OTHERS)]
        student, teacher = (tuple(torch.randn(2, 6, 64 // s, 64 // s) for s in strides) for _ in range(2))
        torch.manual_seed(1)
        return sum(loss(student, teacher, DistillContext(samples, strides, (64, 64))).values())

    wanted = value(lambda boxes: around(corners(boxes)))
    assert wanted.isfinite() and wanted > 0
    torch.testing.assert_close(value(KINDS[kind]), wanted, rtol=1e-3, atol=0)  # boxes differ in the last digit


@pytest.mark.parametrize('kind', KINDS)
def test_the_check_compares_a_teachers_boxes_with_the_data(kind: str) -> None:
    """mmrotate's data sets record eight numbers of an object, its detectors predict five."""
    found = DetDataSample()
    found.pred_instances = InstanceData(
        bboxes=KINDS[kind](ROTATED[:2]), labels=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.8])
    )
    things = [dict(bbox=box, bbox_label=i, ignore_flag=0) for i, box in enumerate(corners(ROTATED).tolist())]
    seen = accuracy.overlap([accuracy._detections(found)], [accuracy._truth(dict(instances=things))])
    assert (seen.boxes, seen.found, seen.named) == (3, pytest.approx(2 / 3), 1.0)
    assert accuracy._truth({})[0].shape == (0, 4)
