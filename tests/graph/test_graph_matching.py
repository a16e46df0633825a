"""The fused path against the plain one: values, gradients, hard features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import affinity_from_unit, channel_graphs, unit_vertices

KINDS = ('cosine', 'pearson', 'rbf')


def features_of(seed, n=2, c=6, h=3, w=4, dtype=torch.float64):
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(student, teacher, kind, weight, per):
    """What the docstring says it is the same as, through autograd."""
    vertices = 'pearson' if kind == 'pearson' else 'cosine'
    unit_s, unit_t = (unit_vertices(x, vertices, weight, per) for x in (student, teacher.detach()))
    return affinity_from_unit(unit_s, kind), affinity_from_unit(unit_t, kind), (unit_s * unit_t).sum(-1)


def value_and_gradient(function, student, teacher, *options):
    student = student.detach().requires_grad_()
    found = function(student, teacher, *options)
    generator = torch.Generator().manual_seed(99)
    total = 0
    for x in found:
        if x is not None and x.requires_grad:
            total = total + (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum()
    total.backward()
    return found, student.grad


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    weighted=st.booleans(),
    per=st.sampled_from(['image', 'batch']),
)
def test_same_values_and_gradients_as_the_plain_functions(seed, kind, weighted, per):
    student, teacher = features_of(seed), features_of(seed + 1)
    weight = features_of(seed + 2, c=1).square() if weighted else None
    wanted, wanted_grad = value_and_gradient(plain, student, teacher, kind, weight, per)
    found, grad = value_and_gradient(channel_graphs, student, teacher, kind, weight, per)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-12, rtol=1e-9)
    assert not found.teacher.requires_grad


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('edges', [True, False])
def test_gradcheck(kind, edges):
    student, teacher = features_of(1, h=2, w=2).requires_grad_(), features_of(2, h=2, w=2)
    weight = features_of(3, c=1, h=2, w=2).square()

    def graphs(x):
        found = channel_graphs(x, teacher, kind, weight, edges=edges)
        return tuple(x for x in (found.student, found.cosine) if x is not None)

    assert torch.autograd.gradcheck(graphs, student)


@pytest.mark.parametrize('kind', KINDS)
def test_without_edges_the_cosine_and_its_gradient_are_the_same(kind):
    student, teacher = features_of(4).requires_grad_(), features_of(5)
    with_edges = channel_graphs(student, teacher, kind)
    without = channel_graphs(student, teacher, kind, edges=False)
    assert without.student is None and without.teacher is None
    torch.testing.assert_close(without.cosine, with_edges.cosine)
    one, other = (torch.autograd.grad(x.cosine.sin().sum(), student)[0] for x in (with_edges, without))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize('kind', KINDS)
def test_without_matching_the_affinities_and_their_gradient_are_the_same(kind):
    student, teacher = features_of(4).requires_grad_(), features_of(5)
    weight = features_of(6, c=1).square()
    matched = channel_graphs(student, teacher, kind, weight)
    without = channel_graphs(student, teacher, kind, weight, matched=False)
    assert without.cosine is None
    for one, other in ((without.student, matched.student), (without.teacher, matched.teacher)):
        torch.testing.assert_close(one, other)
    one, other = (torch.autograd.grad(x.student.sin().sum(), student)[0] for x in (without, matched))
    torch.testing.assert_close(one, other)


HARD = {
    'dead channel': lambda x: x * (torch.arange(6) != 2).view(1, -1, 1, 1),
    'nearly dead channel': lambda x: x * torch.where(torch.arange(6) == 2, 1e-8, 1.0).view(1, -1, 1, 1),
    'all dead': torch.zeros_like,
    'constant maps': lambda x: torch.ones_like(x) * 7.3,
    'one position': lambda x: x[..., :1, :1].contiguous(),
    'one channel': lambda x: x[:, :1].contiguous(),
    'huge': lambda x: x * 1e30,
    'tiny': lambda x: x * 1e-30,
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hard', HARD)
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
def test_hard_features_as_in_the_plain_functions(kind, hard, side):
    student, teacher = features_of(6, dtype=torch.float32), features_of(7, dtype=torch.float32)
    if side != 'teacher' or 'one' in hard:
        student = HARD[hard](student)
    if side != 'student' or 'one' in hard:
        teacher = HARD[hard](teacher)
    wanted, wanted_grad = value_and_gradient(plain, student, teacher, kind, None, 'image')
    found, grad = value_and_gradient(channel_graphs, student, teacher, kind, None, 'image')
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert grad.isfinite().all()
    if hard == 'tiny' and side != 'teacher':
        grad, wanted_grad = grad * 1e-30, wanted_grad * 1e-30
    slack = wanted_grad.abs().max().item()
    torch.testing.assert_close(grad, wanted_grad, atol=1e-4 * slack + 1e-5, rtol=1e-3)


def test_a_layout_of_channels_last_is_read_as_it_is():
    student, teacher = features_of(8), features_of(9)
    wanted, wanted_grad = value_and_gradient(channel_graphs, student, teacher)
    last = [x.contiguous(memory_format=torch.channels_last) for x in (student, teacher)]
    found, grad = value_and_gradient(channel_graphs, *last)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(grad, wanted_grad)


def test_autocast_leaves_forward_and_backward_alone():
    student, teacher = features_of(10, dtype=torch.float32), features_of(11, dtype=torch.float32)
    wanted, wanted_grad = value_and_gradient(channel_graphs, student, teacher)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found, grad = value_and_gradient(channel_graphs, student, teacher)
    assert torch.equal(found.student, wanted.student) and torch.equal(grad, wanted_grad)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda x: channel_graphs(x, x, 'euclid'), r"kind: got 'euclid'"),
        (lambda x: channel_graphs(x, x, edges=False, matched=False), 'edges, matched: got False, False'),
        (lambda x: channel_graphs(x, x, per='level'), r"per: got 'level'"),
        (lambda x: channel_graphs(x[0, 0], x), r'student: got shape \(3, 4\)'),
        (lambda x: channel_graphs(x, x[:1]), r'teacher: got shape \(1, 6, 3, 4\)'),
        (
            lambda x: channel_graphs(x, x, weight=x),
            r'weight: got shape \(2, 6, 3, 4\), accepted is shape \(2, 1, 3, 4\)',
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(features_of(0))
