"""What every loss of heads must do, whatever its formula is. In the distiller: tests/distillers/test_heads.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from heads import STRIDES, bound, context, given
from methods import HEAD_METHODS, terms_of

from mmkd_graph.losses import HeadOutputs

KINDS = {
    'sigmoid': dict(sigmoid=True),
    'softmax': dict(sigmoid=False),
    'distributions': dict(sigmoid=True, bins=5),
    'one class': dict(sigmoid=True, classes=1),
}
CASES = [
    (method, kind)
    for method in HEAD_METHODS
    for kind in KINDS
    if kind == 'distributions' or not (method.reads_boxes and method().stage is None)
]


def build(method, kind='distributions'):
    return bound(method(), **KINDS[kind])


def leaves(side):
    return side.mapped(lambda x: x.detach().clone().requires_grad_())


def run(loss, student, teacher):
    student = leaves(student)
    terms = loss(student, teacher, context())
    read = [x for x in (*student.scores, *student.boxes) if x.is_floating_point()]
    grads = torch.autograd.grad(sum(terms.values()), read, allow_unused=True)
    return {k: v.detach() for k, v in terms.items()}, [g for g in grads if g is not None]


@pytest.mark.parametrize(('method', 'kind'), CASES)
def test_different_predictions_cost_and_pull(method, kind):
    loss = build(method, kind)
    terms, grads = run(loss, given(loss, True, 1), given(loss, False, 2))
    assert set(terms) == terms_of(method) - ({'inter'} if kind == 'one class' else set())
    assert all(value > 0 and value.shape == () for value in terms.values())
    assert grads and all(grad.isfinite().all() and grad.any() for grad in grads)


@pytest.mark.parametrize(('method', 'kind'), CASES)
def test_equal_predictions_cost_nothing_and_pull_nowhere(method, kind):
    loss = build(method, kind)
    student = given(loss, True, 1)
    terms, grads = run(loss, student, replace(student, positives=()))
    for value in (*terms.values(), *grads):
        torch.testing.assert_close(value, torch.zeros_like(value), atol=2e-6, rtol=0)


@pytest.mark.parametrize(('method', 'kind'), CASES)
def test_scrambled_cells_cost_something(method, kind):
    loss = build(method, kind)
    student = given(loss, True, 1)
    teacher = student.mapped(lambda x: x.flip(-1))
    assert all(value > 1e-3 for value in loss(student, teacher, context()).values())


@pytest.mark.parametrize(('method', 'kind'), CASES)
def test_padded_cells_do_not_count(method, kind):
    loss = build(method, kind)
    student, teacher = given(loss, True, 1), given(loss, False, 2)
    reference = loss(student, teacher, context())

    def other(side):
        def changed(level, stride):
            return torch.where(context().valid_cells(level, stride), level, 1e3)

        levels = {
            name: tuple(changed(x, stride) for x, stride in zip(getattr(side, name), STRIDES, strict=False))
            for name in ('scores', 'boxes')
        }
        return replace(side, **levels)

    for term, value in loss(other(student), other(teacher), context()).items():
        assert torch.equal(value, reference[term])


@pytest.mark.parametrize(('method', 'kind'), CASES)
@pytest.mark.parametrize('size', [1e4, 1e-6, 0.0])
def test_hard_scores_give_finite_values_and_gradients(method, kind, size):
    loss = build(method, kind)
    sides = given(loss, True, 1), given(loss, False, 2)
    for on_student, on_teacher in ((size, size), (size, 1), (1, size)):
        student, teacher = (
            HeadOutputs(tuple(factor * x for x in side.scores), side.boxes, side.positives)
            for side, factor in zip(sides, (on_student, on_teacher), strict=True)
        )
        terms, grads = run(loss, student, teacher)
        assert all(value.isfinite() for value in terms.values()), terms
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(('method', 'kind'), CASES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(method, kind, dtype):
    loss = build(method, kind)
    student, teacher = (given(loss, who, seed, dtype=dtype) for who, seed in ((True, 1), (False, 2)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms, grads = run(loss, student, teacher)
    reference, _ = run(loss, *(side.mapped(torch.Tensor.float) for side in (student, teacher)))
    for term, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference[term])
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize(('method', 'kind'), CASES)
def test_the_teacher_gets_no_gradient(method, kind):
    loss = build(method, kind)
    student, teacher = leaves(given(loss, True, 1)), leaves(given(loss, False, 2))
    sum(loss(student, teacher, context()).values()).backward()
    assert all(x.grad is None for x in (*teacher.scores, *teacher.boxes))


@pytest.mark.parametrize(('method', 'kind'), CASES)
def test_nan_in_the_teacher_gives_nan(method, kind):
    loss = build(method, kind)
    teacher = given(loss, False, 2).mapped(lambda x: torch.full_like(x, torch.nan))
    assert all(value.isnan() for value in loss(given(loss, True, 1), teacher, context()).values())
