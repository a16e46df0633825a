from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from mmkd_graph.losses import DistillContext, MGDLoss, PyramidSpec, mgd

CONTEXT = DistillContext(data_samples=(), strides=(8, 16), batch_shape=(40, 48))


def pyramid(seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, h, w, generator=generator) for h, w in ((5, 6), (3, 3)))


def built(seed=0, **options):
    torch.manual_seed(seed)
    loss = MGDLoss(**options)
    loss.bind(PyramidSpec((8, 16), (3, 3), (3, 3), 'mgd'))
    loss.init_weights()
    return loss


def value_of(loss):
    return loss(pyramid(1), pyramid(2), CONTEXT)['generation'].item()


@pytest.fixture
def masks(monkeypatch):
    """The masks that were drawn, in order."""
    drawn = []

    def record(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    draw = mgd.random_mask
    monkeypatch.setattr(mgd, 'random_mask', record)
    return drawn


def convolution(f, layer):
    """3×3 convolution with a border of zeros, of one image (C, H, W)."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    result = np.zeros_like(f)
    for o, y, x in np.ndindex(f.shape):
        result[o, y, x] = bias[o]
        for i, dy, dx in np.ndindex(f.shape[0], 3, 3):
            if 0 <= y + dy - 1 < f.shape[1] and 0 <= x + dx - 1 < f.shape[2]:
                result[o, y, x] += weight[o, i, dy, dx] * f[i, y + dy - 1, x + dx - 1]
    return result


def test_value_against_a_float64_reading_with_loops(masks):
    loss, student, teacher = built(), pyramid(1), pyramid(2)
    value = loss(student, teacher, CONTEXT)['generation']
    wanted = 0.0
    for level, mask in enumerate(masks):
        first, _, last = loss.generation[level]
        for image in range(2):
            s, t, m = (x[image].double().numpy() for x in (student[level], teacher[level], mask))
            generated = convolution(np.maximum(convolution(s * m, first), 0), last)
            wanted += 2e-5 * ((generated - t) ** 2).sum() / 2
    assert len(masks) == 2 and all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in masks)
    assert value.item() == pytest.approx(wanted, rel=1e-5)


def test_the_ratio_of_hidden_positions_and_no_two_images_alike(masks):
    loss = built()
    large = (torch.zeros(2, 3, 100, 100), torch.zeros(2, 3, 4, 4))
    loss(large, large, CONTEXT)
    assert masks[0].shape == (2, 1, 100, 100)
    assert 1 - masks[0].mean().item() == pytest.approx(0.65, abs=0.02)
    assert not torch.equal(masks[0][0], masks[0][1])


def test_every_training_pass_draws_new_masks_and_eval_draws_none():
    loss = built()
    values = [value_of(loss) for _ in range(4)]
    assert len(set(values)) == 4
    loss.eval()
    assert value_of(loss) == value_of(loss)
    loss.train()
    again = built()
    assert [value_of(again) for _ in range(4)] == values
    assert value_of(again) == value_of(loss)


def test_another_seed_of_the_run_draws_other_masks(masks):
    for seed in (0, 1):
        value_of(built(seed))
    assert not torch.equal(masks[0], masks[2])


def test_a_resumed_run_goes_on_with_the_masks_it_would_have_drawn():
    loss = built()
    for _ in range(3):
        value_of(loss)
    resumed = built(seed=77)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert [value_of(resumed) for _ in range(3)] == [value_of(loss) for _ in range(3)]


def test_ranks_draw_different_masks(masks, monkeypatch):
    for rank in (0, 1, 0):
        monkeypatch.setattr(mgd, 'get_rank', lambda rank=rank: rank)
        value_of(built())
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(masks[0], masks[4])


def test_random_states_are_left_alone():
    loss = built()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    value_of(loss)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_the_largest_seed_fits():
    assert value_of(built(seed=2**64 - 1)) > 0


def test_nothing_hidden_is_plain_generation():
    loss, student, teacher = built(mask_ratio=0), pyramid(1), pyramid(2)
    wanted = sum((g(s) - t).square().sum() / 2 for g, s, t in zip(loss.generation, student, teacher, strict=True))
    torch.testing.assert_close(loss(student, teacher, CONTEXT)['generation'], 2e-5 * wanted)


@pytest.mark.parametrize('options', [dict(mask_ratio=1), dict(mask_ratio=-0.1), dict(generation_weight=-1)])
def test_bad_options_name_the_key(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MGDLoss(**options)
