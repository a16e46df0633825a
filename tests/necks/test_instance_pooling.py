from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmkd_graph.necks import draw_cells, pool_instances, read_instances


def sample(boxes, labels, ignored=None):
    made = DetDataSample()
    made.gt_instances = InstanceData(bboxes=boxes, labels=torch.as_tensor(labels, dtype=torch.long))
    if ignored is not None:
        made.ignored_instances = InstanceData(bboxes=ignored, labels=torch.zeros(len(ignored), dtype=torch.long))
    return made


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def reference(level, stride, box, size):
    """RoIAlign of one box, written with loops: cell centres lie at (i + 0.5) * stride."""
    channels, height, width = level.shape
    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)
    bin_h, bin_w = (y2 - y1) / size, (x2 - x1) / size
    points_y, points_x = int(np.ceil((y2 - y1) / size)), int(np.ceil((x2 - x1) / size))
    out = np.zeros((channels, size, size))
    for i in range(size):
        for j in range(size):
            for a in range(points_y):
                for b in range(points_x):
                    y = y1 + (i + (a + 0.5) / points_y) * bin_h
                    x = x1 + (j + (b + 0.5) / points_x) * bin_w
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = min(int(y), height - 2), min(int(x), width - 2)
                    dy, dx = y - top, x - left
                    corners = level[:, top : top + 2, left : left + 2]
                    weights = np.outer([1 - dy, dy], [1 - dx, dx])
                    out[:, i, j] += (corners * weights).sum((1, 2)) / (points_y * points_x)
    return out


def test_values_against_loops_and_the_order_of_the_images():
    generator = torch.Generator().manual_seed(0)
    pyramid = tuple(torch.randn(2, 3, 12 // k, 16 // k, generator=generator, dtype=torch.float64) for k in (1, 2))
    boxes = [boxes_of([5, 9, 60, 70], [0, 0, 128, 96]), boxes_of([33.3, 10.1, 47.7, 90])]
    pooled = pool_instances(pyramid, (8, 16), boxes, output_size=3)
    assert [tuple(x.shape) for x in pooled] == [(3, 3, 3, 3)] * 2
    for level, stride, found in zip(pyramid, (8, 16), pooled, strict=True):
        wanted = [reference(level[i].numpy(), stride, box, 3) for i, image in enumerate(boxes) for box in image]
        np.testing.assert_allclose(found.numpy(), np.stack(wanted), atol=1e-6)


def test_the_same_place_at_any_stride():
    """A ramp over the input, sampled at the cells' centres, is read off at a box's centre alike on every level."""
    pyramid = []
    for stride, cells in ((4, 32), (8, 16), (16, 8)):
        ramp = (torch.arange(cells) + 0.5) * stride
        pyramid.append(ramp.expand(1, 1, cells, cells))
    pooled = pool_instances(pyramid, (4, 8, 16), [boxes_of([32, 32, 80, 96])], output_size=1)
    for level in pooled:
        torch.testing.assert_close(level.flatten(), torch.tensor([56.0]))


def test_a_cropped_level_is_read_like_its_copy():
    whole = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    cropped, boxes = whole[..., :8, :7], [boxes_of([3, 5, 50, 60])] * 2
    one, other = (pool_instances((level,), (8,), boxes, output_size=2)[0] for level in (cropped, cropped.clone()))
    assert torch.equal(one, other)


def test_gradient_goes_to_the_cells_of_the_box():
    level = torch.zeros(2, 1, 8, 8, requires_grad=True)
    (pooled,) = pool_instances((level,), (8,), [boxes_of(), boxes_of([16, 16, 48, 48])], output_size=2)
    pooled.sum().backward()
    assert level.grad[0].abs().sum() == 0
    assert level.grad[1].sum() == pytest.approx(4.0, abs=1e-5)
    assert (level.grad[1, 0, 2:6, 2:6] > 0).all() and level.grad[1, 0, :2].abs().sum() == 0


def test_no_boxes_give_an_empty_attached_result():
    level = torch.rand(2, 5, 4, 4, requires_grad=True)
    (pooled,) = pool_instances((level,), (8,), [boxes_of(), boxes_of()], output_size=7)
    assert pooled.shape == (0, 5, 7, 7) and pooled.requires_grad
    pooled.sum().backward()
    assert torch.equal(level.grad, torch.zeros_like(level))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_float32(dtype):
    level = torch.rand(1, 2, 8, 8).to(dtype).requires_grad_()
    boxes = [boxes_of([3, 5, 60, 50])]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (pooled,) = pool_instances((level,), (8,), boxes, output_size=2)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool_instances((level.float(),), (8,), boxes, output_size=2)[0])
    pooled.sum().backward()
    assert level.grad.dtype == dtype and level.grad.isfinite().all()


@pytest.mark.parametrize('kind', [lambda x: x, HorizontalBoxes], ids=['tensor', 'HorizontalBoxes'])
def test_reading_drops_what_can_not_be_pooled(kind):
    flat, inverted, lost = [5, 5, 5, 9], [9, 9, 3, 12], [0, 0, float('nan'), 5]
    first = sample(kind(boxes_of([1, 2, 3, 4], flat, inverted, lost)), [7, 0, 1, 2], ignored=boxes_of([0, 0, 9, 9]))
    second = sample(kind(boxes_of()), [])
    third = sample(kind(boxes_of([0, 0, 5, 5], [0, 0, 6, 6])), [4, 3])
    read = read_instances([first, second, third])
    assert [type(b) for b in read.boxes] == [torch.Tensor] * 3
    assert [b.tolist() for b in read.boxes] == [[[1, 2, 3, 4]], [], [[0, 0, 5, 5], [0, 0, 6, 6]]]
    assert read.labels.tolist() == [7, 4, 3]
    assert read.images.tolist() == [0, 2, 2]
    larger_last = boxes_of([0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3])
    assert read_instances([sample(kind(larger_last), [0, 1, 2])], 2).labels.tolist() == [1, 2]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), cap=st.integers(1, 9))
def test_the_cap_takes_the_largest_whatever_their_order(seed, cap):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 3, (8, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 3, (8, 2), generator=generator)], dim=1)
    labels = torch.randint(0, 2, (8,), generator=generator)
    order = torch.randperm(8, generator=generator)
    results = []
    for permutation in (torch.arange(8), order):
        read = read_instances([sample(boxes[permutation], labels[permutation])], cap)
        rows = torch.cat([read.boxes[0], read.labels[:, None]], dim=1).tolist()
        assert len(rows) == min(cap, 8)
        results.append(sorted(rows))
    assert results[0] == results[1]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1).sort(descending=True).values[:cap]
    kept = sorted(((r[2] - r[0]) * (r[3] - r[1]) for r in results[0]), reverse=True)
    assert kept == area.tolist()


def test_a_bad_cap_is_named():
    with pytest.raises(ValueError, match='max_instances: got 0, accepted is None or an integer >= 1'):
        read_instances([], max_instances=0)


def test_what_does_not_match_is_refused():
    level = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match='strides: 2 for 1'):
        pool_instances((level,), (8, 16), [boxes_of(), boxes_of()], output_size=7)
    with pytest.raises(ValueError, match='boxes: of 1 images'):
        pool_instances((level,), (8,), [boxes_of()], output_size=7)
    with pytest.raises(ValueError, match=r'data_samples\[1\].*gt_instances'):
        read_instances([sample(boxes_of(), []), DetDataSample()])


# ------------------------------------------------------------------------------------------------ cells


def cells_of(samples, shapes, count=10**6, stride=8, background=9, seed=0):
    torch.manual_seed(seed)
    return draw_cells(read_instances(samples), shapes, stride, count, background)


def test_a_cell_has_the_label_of_the_smallest_box_around_its_centre():
    """Against loops over all cells; the images end before the batch does, and not at a whole cell."""
    generator = torch.Generator().manual_seed(0)
    samples, shapes = [], [(60, 52), (33, 64)]
    for _ in shapes:
        corner = torch.rand(9, 2, generator=generator) * 40
        samples.append(
            sample(torch.cat([corner, corner + 3 + 24 * torch.rand(9, 2, generator=generator)], 1), range(9))
        )
    drawn = cells_of(samples, shapes)
    for i, (height, width) in enumerate(shapes):
        wanted = {}
        for y in range(0, height, 8):
            for x in range(0, width, 8):
                around = [
                    ((x2 - x1) * (y2 - y1), label)
                    for label, (x1, y1, x2, y2) in enumerate(samples[i].gt_instances.bboxes.tolist())
                    if x1 <= x + 4 <= x2 and y1 <= y + 4 <= y2
                ]
                wanted[x, y, x + 8, y + 8] = min(around)[1] if around else 9
        labels = drawn.labels[drawn.images == i].tolist()
        assert dict(zip(map(tuple, drawn.boxes[i].int().tolist()), labels, strict=True)) == wanted
        assert len(set(wanted.values())) > 3


def test_half_of_the_cells_are_of_objects_as_far_as_there_are():
    shapes = [(64, 64)] * 2
    left = sample(boxes_of([0, 0, 32, 64]), [1])
    everywhere = sample(boxes_of([0, 0, 64, 64]), [2])
    nothing = sample(boxes_of(), [])
    for samples, count, objects, background in (
        ([left, left], 40, 20, 20),
        ([nothing, sample(boxes_of([0, 0, 10, 10]), [1])], 40, 1, 39),
        ([everywhere, everywhere], 40, 40, 0),
        ([nothing, nothing], 40, 0, 40),
        ([left, nothing], 10**6, 32, 96),
        ([left, left], 3, 1, 2),
    ):
        labels = cells_of(samples, shapes, count).labels
        assert ((labels != 9).sum(), (labels == 9).sum()) == (objects, background)


def test_cells_are_drawn_anew_without_repetition_by_the_seed_alone():
    samples = [sample(boxes_of([0, 0, 32, 64], [8, 8, 16, 16]), [1, 2])]
    draws = [cells_of(samples, [(64, 64)], 20, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0].boxes[0], draws[1].boxes[0]) and not torch.equal(draws[0].boxes[0], draws[2].boxes[0])
    assert len(draws[0].boxes[0].unique(dim=0)) == 20


def test_of_equal_boxes_the_lower_label_counts_whatever_the_order():
    boxes = boxes_of([0, 0, 16, 16], [0, 0, 16, 16])
    for labels in ([4, 2], [2, 4]):
        assert cells_of([sample(boxes, labels)], [(16, 16)]).labels.tolist() == [2] * 4
