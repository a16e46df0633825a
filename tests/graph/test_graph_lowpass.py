"""Low-pass filters against a reading with loops, and what makes them low-pass filters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import low_pass


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def read_with_loops(features, s):
    """Every output cell as the mean over its window, in NumPy; indices past the border read the border."""
    n, c, h, w = features.shape
    out = np.zeros((n, c, -(-h // s), -(-w // s)))
    for i in np.ndindex(out.shape):
        for y, x in np.ndindex(s, s):
            cell = features[i[0], i[1], min(i[2] * s + y, h - 1), min(i[3] * s + x, w - 1)]
            out[i] += cell / s**2
    return out


@pytest.mark.parametrize('scale', [1, 2, 3, 8])
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 4)])
def test_values_against_loops(scale, size):
    features = random(2, 3, *size)
    wanted = read_with_loops(features.numpy(), scale)
    np.testing.assert_allclose(low_pass(features, scale).numpy(), wanted, atol=1e-12)


def test_the_average_removes_the_frequencies_of_its_own_window_and_amplifies_none():
    """The frequency response, read off waves with whole periods in 32 cells."""
    cells = torch.arange(32, dtype=torch.float64)
    gain = []
    for frequency in range(17):
        phases = [2 * torch.pi * frequency * cells / 32 + shift for shift in (0, torch.pi / 2)]
        waves = torch.stack([phase.cos() for phase in phases]).view(2, 1, 1, 32)
        gain.append(low_pass(waves.expand(2, 1, 8, 32), 8)[:, 0, 0, 0].norm())
    gain = torch.stack(gain)
    assert gain[0] == 1 and gain.max() <= 1 + 1e-12
    torch.testing.assert_close(gain[4::4], torch.zeros(4, dtype=torch.float64))
    assert (gain[:5].diff() < 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.integers(1, 8), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_constant_maps_stay_and_no_cell_leaves_the_range(seed, scale, size):
    level = random(2, 3, 1, 1, seed=seed)
    constant, features = level.expand(2, 3, *size), random(2, 3, *size, seed=seed)
    out = low_pass(constant, scale)
    assert out.shape[2:] == tuple(-(-side // scale) for side in size)
    torch.testing.assert_close(out, level.expand_as(out))
    out = low_pass(features, scale)
    slack = 1e-12
    assert (out <= features.amax((2, 3), keepdim=True) + slack).all()
    assert (out >= features.amin((2, 3), keepdim=True) - slack).all()


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-10, 10), b=st.floats(-10, 10), scale=st.integers(1, 8))
def test_linear(a, b, scale):
    x, y = random(2, 3, 7, 6), random(2, 3, 7, 6, seed=1)
    wanted = a * low_pass(x, scale) + b * low_pass(y, scale)
    torch.testing.assert_close(low_pass(a * x + b * y, scale), wanted)


def test_gradients():
    assert torch.autograd.gradcheck(lambda x: low_pass(x, 3), random(2, 2, 5, 4).requires_grad_())


@pytest.mark.parametrize('features', [torch.zeros(2, 2, 4, 4), torch.full((2, 2, 4, 4), 6e4), torch.zeros(0, 2, 4, 4)])
def test_extreme_inputs_give_finite_gradients(features):
    features = features.clone().requires_grad_()
    low_pass(features, 3).square().sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (lambda: low_pass(torch.zeros(2, 3, 4), 2), r'features: got shape \(2, 3, 4\)'),
        (lambda: low_pass(torch.zeros(2, 3, 0, 4), 2), 'features'),
        (lambda: low_pass(torch.zeros(2, 3, 4, 4), 0), 'scale: got 0, accepted is an integer >= 1'),
        (lambda: low_pass(torch.zeros(2, 3, 4, 4), 2.0), r'scale: got 2\.0'),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
