"""InfoNCE over samples against a reading with loops, its extremes and its invariances."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import info_nce


def unit(samples, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(samples, width, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize('temperature', [0.05, 0.5, 2.0])
def test_value_against_loops(temperature):
    student, teacher = unit(5).numpy(), unit(5, seed=1).numpy()
    terms = []
    for i in range(5):
        weights = [math.exp(sum(a * b for a, b in zip(student[i], t, strict=True)) / temperature) for t in teacher]
        terms.append(-math.log(weights[i] / sum(weights)))
    found = info_nce(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert found.item() == pytest.approx(np.mean(terms))


def test_the_right_pairing_is_the_least_of_all():
    teacher = unit(5)
    values = {order: info_nce(teacher[list(order)], teacher).item() for order in itertools.permutations(range(5))}
    assert min(values, key=values.get) == (0, 1, 2, 3, 4)
    assert values[0, 1, 2, 3, 4] > 0, 'equal embeddings do not make it vanish'


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), samples=st.integers(1, 9))
def test_the_order_of_samples_does_not_matter(seed, samples):
    student, teacher = unit(samples, seed=seed), unit(samples, seed=seed + 1)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(info_nce(student[order], teacher[order]), info_nce(student, teacher))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), samples=st.integers(2, 9))
def test_collapsed_embeddings_cost_at_least_the_log_of_their_number(seed, samples):
    one, apart = unit(1, seed=seed).expand(samples, -1), unit(samples, seed=seed + 1)
    assert info_nce(apart, one).item() == pytest.approx(math.log(samples))
    assert info_nce(one, one).item() == pytest.approx(math.log(samples))
    assert info_nce(one, apart).item() >= math.log(samples) - 1e-12
    assert info_nce(apart, apart) < math.log(samples)


@pytest.mark.parametrize('samples', [0, 1])
def test_nothing_to_contrast_is_an_attached_zero(samples):
    student, teacher = unit(samples).requires_grad_(), unit(samples, seed=1).requires_grad_()
    value = info_nce(student, teacher)
    assert value.item() == 0
    for grad in torch.autograd.grad(value, (student, teacher)):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_gradient():
    inputs = unit(4).requires_grad_(), unit(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(info_nce, inputs)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='temperature'):
        info_nce(unit(2), unit(2), 0)
    with pytest.raises(ValueError, match='teacher'):
        info_nce(unit(2), unit(3))
    with pytest.raises(ValueError, match='student'):
        info_nce(unit(2)[0], unit(2)[0])
