"""Low-pass filters against a reading with loops, and what makes them low-pass filters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import low_pass, low_pass_kernel, multi_scale_low_pass


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def read_with_loops(features, kernel):
    """Every output cell as a sum over its window, in NumPy; indices past the border read the border."""
    n, c, h, w = features.shape
    s = kernel.shape[-1]
    out = np.zeros((n, c, -(-h // s), -(-w // s)))
    for i in np.ndindex(out.shape):
        for y, x in np.ndindex(s, s):
            cell = features[i[0], i[1], min(i[2] * s + y, h - 1), min(i[3] * s + x, w - 1)]
            out[i] += kernel[i[1], y, x] * cell
    return out


@pytest.mark.parametrize('scale', [1, 2, 3, 8])
@pytest.mark.parametrize('size', [(8, 8), (7, 5), (1, 4)])
def test_values_against_loops(scale, size):
    features, logits = random(2, 3, *size), random(3, scale, scale, seed=1)
    e = np.exp(logits.numpy())
    kernel = e / e.sum((1, 2), keepdims=True)
    np.testing.assert_allclose(low_pass_kernel(logits).numpy(), kernel)
    wanted = read_with_loops(features.numpy(), kernel)
    np.testing.assert_allclose(low_pass(features, low_pass_kernel(logits)).numpy(), wanted, atol=1e-12)
    wanted = read_with_loops(features.numpy(), np.full((3, scale, scale), 1 / scale**2))
    np.testing.assert_allclose(low_pass(features, scale).numpy(), wanted, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.integers(1, 8), spread=st.floats(0, 1e4))
def test_every_kernel_passes_the_mean_and_amplifies_no_frequency(seed, scale, spread):
    kernel = low_pass_kernel(spread * random(4, scale, scale, seed=seed))
    gain = torch.fft.fft2(kernel, s=(32, 32)).abs()
    torch.testing.assert_close(gain[:, 0, 0], torch.ones(4, dtype=torch.float64))
    assert gain.max() <= 1 + 1e-12
    assert (kernel >= 0).all()


def test_the_average_removes_the_frequencies_of_its_own_window():
    gain = torch.fft.fft(low_pass_kernel(torch.zeros(1, 8, 8, dtype=torch.float64))[0].sum(0), n=32).abs()
    torch.testing.assert_close(gain[4::4], torch.zeros(7, dtype=torch.float64))
    assert (gain[1:4].diff() < 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.integers(1, 8), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_constant_maps_stay_and_no_cell_leaves_the_range(seed, scale, size):
    level = random(2, 3, 1, 1, seed=seed)
    constant, features = level.expand(2, 3, *size), random(2, 3, *size, seed=seed)
    for kernel in (scale, low_pass_kernel(random(3, scale, scale, seed=seed))):
        out = low_pass(constant, kernel)
        assert out.shape[2:] == tuple(-(-side // scale) for side in size)
        torch.testing.assert_close(out, level.expand_as(out))
        out = low_pass(features, kernel)
        slack = 1e-12
        assert (out <= features.amax((2, 3), keepdim=True) + slack).all()
        assert (out >= features.amin((2, 3), keepdim=True) - slack).all()


@settings(max_examples=20, deadline=None)
@given(a=st.floats(-10, 10), b=st.floats(-10, 10), scale=st.integers(1, 8))
def test_linear(a, b, scale):
    x, y = random(2, 3, 7, 6), random(2, 3, 7, 6, seed=1)
    for kernel in (scale, low_pass_kernel(random(3, scale, scale, seed=2))):
        wanted = a * low_pass(x, kernel) + b * low_pass(y, kernel)
        torch.testing.assert_close(low_pass(a * x + b * y, kernel), wanted)


def test_equal_logits_are_the_average_at_every_scale():
    features, scales = random(2, 3, 9, 7), (1, 2, 4, 8)
    learned = multi_scale_low_pass(
        features, scales, {s: torch.full((3, s, s), 5.0, dtype=torch.float64) for s in scales[1:]}
    )
    for one, other in zip(learned, multi_scale_low_pass(features, scales), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(learned[0], features)


def test_gradients():
    features, logits = random(2, 2, 5, 4).requires_grad_(), random(2, 3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, z: low_pass(x, low_pass_kernel(z)), (features, logits))


@pytest.mark.parametrize('logit', [0.0, 1e4, -1e4])
@pytest.mark.parametrize('features', [torch.zeros(2, 2, 4, 4), torch.full((2, 2, 4, 4), 6e4), torch.zeros(0, 2, 4, 4)])
def test_extreme_inputs_give_finite_gradients(logit, features):
    logits = torch.zeros(2, 3, 3).index_fill_(2, torch.tensor([0]), logit).requires_grad_()
    features = features.clone().requires_grad_()
    low_pass(features, low_pass_kernel(logits)).square().sum().backward()
    assert features.grad.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (lambda: low_pass(torch.zeros(2, 3, 4), 2), r'features: got shape \(2, 3, 4\)'),
        (lambda: low_pass(torch.zeros(2, 3, 0, 4), 2), 'features'),
        (lambda: low_pass(torch.zeros(2, 3, 4, 4), 0), 'kernel: got 0, accepted is an integer >= 1'),
        (lambda: low_pass(torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 1)), 'C = 3'),
        (lambda: low_pass_kernel(torch.zeros(3, 2, 1)), r'logits: got shape \(3, 2, 1\)'),
        (lambda: multi_scale_low_pass(torch.zeros(2, 3, 4, 4), (1, 2), {2: torch.zeros(3, 1, 1)}), r'logits\[2\]'),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
