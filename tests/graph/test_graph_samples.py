"""Samples: unit length, divergence, and means over any number of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import kl_divergence, mean_of_samples, unit_length


def samples_of(seed=0, shape=(5, 3, 4), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_unit_length_against_numpy():
    samples = samples_of()
    rows = samples.flatten(1).numpy()
    wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(unit_length(samples).flatten(1).numpy(), wanted, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), powers=st.lists(st.floats(-2, 2), min_size=5, max_size=5))
def test_positive_rescaling_of_samples_changes_nothing(seed, powers):
    samples = samples_of(seed)
    scaled = samples * (10 ** torch.tensor(powers, dtype=torch.float64)).view(5, 1, 1)
    torch.testing.assert_close(unit_length(scaled), unit_length(samples), atol=1e-9, rtol=0)


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_extreme_scales_neither_overflow_nor_vanish(scale):
    samples = samples_of(dtype=torch.float32)
    torch.testing.assert_close(unit_length(samples * scale), unit_length(samples))


def test_a_sample_of_zeros_stays_and_takes_no_gradient():
    samples = samples_of(dtype=torch.float32)
    samples[2] = 0
    samples.requires_grad_()
    unit = unit_length(samples)
    assert not unit[2].any()
    (unit * torch.arange(4.0)).square().sum().backward()
    assert samples.grad.isfinite().all()
    assert not samples.grad[2].any() and samples.grad[[0, 1, 3, 4]].flatten(1).any(1).all()


def test_what_is_not_a_number_stays_so_in_its_own_sample_alone():
    samples = samples_of()
    samples[1, 2, 3] = torch.nan
    unit = unit_length(samples)
    assert unit[1].isnan().all() and unit[[0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize('shape', [(0, 3, 4), (1, 1), (4, 1)])
def test_few_samples_or_entries(shape):
    samples = torch.ones(shape, requires_grad=True)
    unit = unit_length(samples)
    unit.sum().backward()
    assert unit.shape == shape and samples.grad.isfinite().all()


def test_gradcheck():
    assert torch.autograd.gradcheck(unit_length, samples_of().requires_grad_())


def test_divergence_against_numpy():
    log_p, log_q = (samples_of(seed).log_softmax(-1) for seed in (1, 2))
    p, q = log_p.exp().numpy(), log_q.exp().numpy()
    np.testing.assert_allclose(kl_divergence(log_p, log_q).numpy(), (p * np.log(p / q)).sum(-1))
    assert not kl_divergence(log_p, log_p).any()


def test_the_mean_of_no_samples_is_an_attached_zero():
    values = torch.ones(0, requires_grad=True)
    mean = mean_of_samples(values)
    mean.backward()
    assert mean == 0 and values.grad.shape == (0,)
    assert mean_of_samples(torch.tensor([1.0, 2.0])) == 1.5


@pytest.mark.parametrize('call', [unit_length, mean_of_samples])
def test_integers_are_refused(call):
    with pytest.raises(ValueError, match='floating-point tensor'):
        call(torch.ones(2, 3, dtype=torch.long))
