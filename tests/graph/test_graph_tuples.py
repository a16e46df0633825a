"""Semi-hard tuples, their divergence and the classifier of class centres."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import Tuples, center_divergence, pairwise_distance, semihard_tuples, tuple_divergence


def instances(seed, count=14, dim=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True), torch.randint(0, classes, (count,), generator=generator)


def mined(x, labels, margin, most=None):
    """The tuples, found with loops: {(anchor, positive): negatives, nearest first}."""
    x, found = x.numpy(), {}
    for a in range(len(x)):
        for p in range(len(x)):
            if a == p or labels[a] != labels[p]:
                continue
            near = np.linalg.norm(x[a] - x[p])
            distance = {n: np.linalg.norm(x[a] - x[n]) for n in range(len(x)) if labels[n] != labels[a]}
            hard = sorted((d, n) for n, d in distance.items() if 0 < d - near <= margin)[:most]
            if hard:
                found[a, p] = [n for _, n in hard]
    return found


def as_dict(tuples):
    return {
        (a, p): [n for n, there in zip(row, mask, strict=True) if there]
        for a, p, row, mask in zip(*(x.tolist() for x in tuples), strict=True)
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), margin=st.floats(0.05, 1), most=st.sampled_from([None, 1, 3]))
def test_tuples_are_those_that_loops_find(seed, margin, most):
    x, labels = instances(seed)
    tuples = semihard_tuples(x, labels, margin, most)
    assert as_dict(tuples) == mined(x, labels, margin, most)
    assert tuples.mask.any(dim=1).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), temperature=st.floats(0.1, 5), most=st.sampled_from([None, 2]))
def test_divergence_against_loops_and_whatever_the_order(seed, temperature, most):
    x, labels = instances(seed)
    y, _ = instances(seed + 1, dim=7)
    tuples = semihard_tuples(x, labels, 0.5, most)
    found = tuple_divergence(x, y, tuples, temperature)
    values = []
    for (a, p), negatives in mined(x, labels, 0.5, most).items():
        logs = []
        for z in (x.numpy(), y.numpy()):
            scores = np.array([-np.linalg.norm(z[a] - z[other]) / temperature for other in [p, *negatives]])
            logs.append(scores - np.log(np.exp(scores).sum()))
        values.append((np.exp(logs[1]) * (logs[1] - logs[0])).sum())
    assert found.item() == pytest.approx(np.mean(values) if values else 0, abs=1e-9)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    mixed = semihard_tuples(x[order], labels[order], 0.5, most)
    assert tuple_divergence(x[order], y[order], mixed, temperature).item() == pytest.approx(found.item(), abs=1e-9)


def test_gradients_are_those_of_the_formula():
    x, labels = instances(3, count=8)
    y, _ = instances(4, count=8)
    tuples = semihard_tuples(x, labels, 1.0)
    assert len(tuples.anchors) > 3
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda e: tuple_divergence(e, y, tuples, 0.5), x)
    y.requires_grad_()
    tuple_divergence(x, y, tuples).backward()
    assert y.grad is None


def test_equal_models_have_no_divergence():
    x, labels = instances(5)
    x.requires_grad_()
    value = tuple_divergence(x, x, semihard_tuples(x, labels, 1.0), 0.2)
    (grad,) = torch.autograd.grad(value, x)
    assert value.abs() < 1e-12 and grad.abs().max() < 1e-12


@pytest.mark.parametrize(
    'labels', [[], [0], [0, 0, 0, 0], [0, 1, 2, 3]], ids=['no instance', 'one', 'one class', 'no positive']
)
def test_without_tuples_the_value_is_an_attached_zero(labels):
    x = torch.rand(len(labels), 3).requires_grad_()
    tuples = semihard_tuples(x, torch.tensor(labels, dtype=torch.long))
    assert len(tuples.anchors) == 0
    value = tuple_divergence(x, x.detach(), tuples)
    (grad,) = torch.autograd.grad(value, x)
    assert value == 0 and torch.equal(grad, torch.zeros_like(x))


def test_equal_rows_are_at_distance_zero_with_gradient_zero():
    x = torch.ones(3, 4).requires_grad_()
    distance = pairwise_distance(x)
    (grad,) = torch.autograd.grad(distance.sum(), x)
    assert torch.equal(distance, torch.zeros(3, 3)) and torch.equal(grad, torch.zeros_like(x))


def test_center_divergence_against_loops():
    generator = torch.Generator().manual_seed(0)
    logits, teacher, centers = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (5, 6), (3, 6))
    )
    values = []
    for z, e in zip(logits.numpy(), teacher.numpy(), strict=True):
        scores = np.array([e @ c / np.linalg.norm(c) for c in centers.numpy()]) / 1.5
        p = np.exp(scores) / np.exp(scores).sum()
        q = np.exp(z / 1.5) / np.exp(z / 1.5).sum()
        values.append((p * np.log(p / q)).sum())
    assert center_divergence(logits, teacher, centers, 1.5).item() == pytest.approx(np.mean(values))
    perfect = teacher @ (centers / centers.norm(dim=1, keepdim=True)).mT
    assert center_divergence(perfect, teacher, centers, 1.5).abs() < 1e-12


@pytest.mark.parametrize('shape', [(0, 3), (4, 1), (4, 0), (0, 0)])
def test_center_divergence_of_nothing_is_an_attached_zero(shape):
    logits = torch.rand(*shape, requires_grad=True)
    value = center_divergence(logits, torch.rand(shape[0], 2), torch.rand(shape[1], 2))
    (grad,) = torch.autograd.grad(value, logits)
    assert value == 0 and torch.equal(grad, torch.zeros_like(grad))


def test_bad_arguments_are_named():
    x, labels = instances(0)
    with pytest.raises(ValueError, match='margin'):
        semihard_tuples(x, labels, 0)
    with pytest.raises(ValueError, match='num_negatives'):
        semihard_tuples(x, labels, num_negatives=0)
    with pytest.raises(ValueError, match='embeddings, labels'):
        semihard_tuples(x, labels[1:])
    tuples: Tuples = semihard_tuples(x, labels)
    with pytest.raises(ValueError, match='temperature'):
        tuple_divergence(x, x, tuples, 0)
    with pytest.raises(ValueError, match='teacher: got 13'):
        tuple_divergence(x, x[1:], tuples)
    with pytest.raises(ValueError, match='logits, teacher, centers'):
        center_divergence(x, x, x)
    with pytest.raises(ValueError, match='embeddings'):
        pairwise_distance(x[0])
