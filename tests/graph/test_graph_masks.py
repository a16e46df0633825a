import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import background_mask, foreground_mask, random_mask


def loops(boxes, size, stride):
    """The mask as FGD reads: box after box, cell after cell."""
    height, width = size
    mask = np.zeros((len(boxes), 1, height, width))
    for image, its_boxes in enumerate(boxes):
        for x1, y1, x2, y2 in its_boxes:
            left, top = math.floor(x1 / stride), math.floor(y1 / stride)
            right, bottom = math.ceil(x2 / stride), math.ceil(y2 / stride)
            share = 1 / ((right - left + 1) * (bottom - top + 1))
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    if 0 <= y < height and 0 <= x < width:
                        mask[image, 0, y, x] = max(mask[image, 0, y, x], share)
    return mask


coordinate = st.integers(0, 160).map(lambda i: i / 2)
corners = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@settings(max_examples=60, deadline=None)
@given(boxes=st.lists(st.lists(corners, max_size=6), min_size=1, max_size=3), stride=st.sampled_from([8, 16, 32]))
def test_all_boxes_at_once_are_the_loop_over_boxes(boxes, stride):
    """Overlapping and empty boxes, boxes over the border, images with other numbers of boxes, or none."""
    size = (64 // stride, 72 // stride)
    tensors = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes]
    found = foreground_mask(tensors, size, stride)
    np.testing.assert_allclose(found.numpy(), loops(boxes, size, stride), rtol=1e-6)
    background = background_mask(found)
    assert torch.equal(background > 0, found == 0)
    for image, total in zip(found, background.sum((1, 2, 3)), strict=True):
        assert total.item() == pytest.approx(float((image == 0).any()), rel=1e-5)


def test_the_smallest_of_overlapping_boxes_counts_in_any_order():
    small, large = [9.0, 9.0, 14.0, 14.0], [0.0, 0.0, 60.0, 60.0]
    for boxes in ([small, large], [large, small]):
        mask = foreground_mask([torch.tensor(boxes)], (8, 8), 8)[0, 0]
        assert mask[1, 1].item() == mask[2, 2].item() == pytest.approx(1 / 4)
        assert mask[0, 0].item() == mask[3, 3].item() == pytest.approx(1 / 81)


def test_every_whole_object_weighs_one():
    for box in ([8.0, 8.0, 16.0, 16.0], [0.0, 0.0, 40.0, 24.0], [30.0, 30.0, 30.0, 30.0]):
        assert foreground_mask([torch.tensor([box])], (8, 8), 8).sum().item() == pytest.approx(1, rel=1e-6)


def test_no_boxes_at_all():
    mask = foreground_mask([torch.zeros(0, 4), torch.zeros(0, 4)], (3, 5), 8)
    assert mask.shape == (2, 1, 3, 5) and mask.abs().sum() == 0
    torch.testing.assert_close(background_mask(mask), torch.full((2, 1, 3, 5), 1 / 15))


def test_half_precision_boxes_give_a_float32_mask():
    boxes = torch.tensor([[4.0, 4.0, 30.0, 20.0]])
    assert torch.equal(foreground_mask([boxes.half()], (4, 4), 8), foreground_mask([boxes], (4, 4), 8))


@pytest.mark.parametrize(
    ('arguments', 'word'),
    [
        (([torch.zeros(1, 5)], (2, 2), 8), r'boxes: got shapes \[\(1, 5\)\]'),
        (([], (2, 2), 8), 'boxes'),
        (([torch.zeros(1, 4)], (2, 2), 0), 'stride'),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        foreground_mask(*arguments)


def test_random_mask_hides_the_ratio_it_is_given_and_depends_on_its_generator_alone():
    for ratio in (0.0, 0.3, 1.0):
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
        one, same, other = (random_mask(2, (80, 90), ratio, generator) for generator in generators)
        assert torch.equal(one, same) and torch.equal(one, other) == (ratio in (0, 1))
        assert 1 - one.mean().item() == pytest.approx(ratio, abs=0.02)
    with pytest.raises(ValueError, match='ratio'):
        random_mask(1, (2, 2), 1.5, torch.Generator())
