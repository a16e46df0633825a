"""Leading right singular vectors: values, sign, and a gradient that stays finite."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import align_vectors, leading_vectors
from mmkd_graph.graph.singular import exact_eigenpairs


def maps(seed=0, batch=3, channels=6, cells=4, dtype=torch.float64):
    return torch.randn(batch, channels, cells, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference(image, k):
    """Right singular vectors of one (C, L) map, turned to the side of most cells."""
    _, _, right = np.linalg.svd(image.T, full_matrices=False)
    return np.stack([v * (1 if (image.T @ v).sum() >= 0 else -1) for v in right[:k]])


@pytest.mark.parametrize(('channels', 'cells'), [(6, 4), (4, 9), (5, 5), (1, 3), (3, 1)])
def test_values_are_those_of_an_svd(channels, cells):
    x = maps(1, channels=channels, cells=cells)
    found = leading_vectors(x, k=3)
    k = min(3, channels, cells)
    assert found.shape == (3, k, channels)
    np.testing.assert_allclose(found.numpy(), np.stack([reference(i.numpy(), k) for i in x]), atol=1e-10)
    square = maps(2, cells=4).unflatten(2, (2, 2))
    assert torch.equal(leading_vectors(square), leading_vectors(square.flatten(2)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(1e-6, 1e6))
def test_scale_and_the_order_of_cells_change_nothing(seed, scale):
    x = maps(seed, dtype=torch.float32)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(leading_vectors(scale * x[:, :, order]), leading_vectors(x), atol=1e-3, rtol=0)


def test_the_undamped_gradient_is_that_of_the_svd():
    x = maps(3).requires_grad_()
    probe = torch.randn(3, 3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: leading_vectors(z, k=3, damping=0), x)
    (found,) = torch.autograd.grad((leading_vectors(x, 3, damping=0) * probe).sum(), x)
    _, _, right = torch.linalg.svd(x.mT, full_matrices=False)
    sign = (x.detach().mT @ right.mT).sum(1).sign().unsqueeze(2)
    (wanted,) = torch.autograd.grad((right[:, :3] * sign[:, :3] * probe).sum(), x)
    torch.testing.assert_close(found, wanted)
    (damped,) = torch.autograd.grad((leading_vectors(x, 3, damping=1e-4) * probe).sum(), x)
    torch.testing.assert_close(damped, wanted, rtol=1e-3, atol=1e-4)


HARD = {
    'zeros': torch.zeros(2, 5, 4),
    'constant': torch.ones(2, 5, 4),
    'equal singular values': torch.eye(4, 4).expand(2, 4, 4),
    'nearly equal': torch.eye(4, 4) + 1e-7 * torch.arange(16.0).view(4, 4),
    'one channel': torch.rand(2, 1, 4),
    'one cell': torch.rand(2, 5, 1),
    'huge': 1e30 * torch.rand(2, 5, 4),
    'tiny': 1e-30 * torch.rand(2, 5, 4),
    'rank two': torch.rand(2, 5, 2) @ torch.rand(2, 2, 4),
    'empty': torch.zeros(0, 5, 4),
}


@pytest.mark.parametrize('hard', HARD)
def test_hard_maps_give_finite_vectors_and_bounded_gradients(hard):
    x = HARD[hard].clone().view(-1, *HARD[hard].shape[-2:]).requires_grad_()
    vectors = leading_vectors(x, k=4)
    lengths = vectors.detach().norm(dim=2)
    assert ((lengths - 1).abs() < 1e-5).logical_or(lengths == 0).all()
    (grad,) = torch.autograd.grad((vectors * torch.arange(vectors.shape[2])).sum(), x)
    assert grad.isfinite().all()
    if hard in ('zeros', 'one channel'):
        assert not grad.any()
    if hard == 'nearly equal':
        assert grad.abs().max() < 1e3


def test_a_vector_without_a_singular_value_is_zero():
    found = leading_vectors(torch.ones(1, 4, 4), k=2)[0]
    torch.testing.assert_close(found[0], torch.full((4,), 0.5))
    assert torch.equal(found[1], torch.zeros(4))


def test_alignment_takes_the_nearest_with_its_sign_and_passes_gradient_to_it_alone():
    student, teacher = leading_vectors(maps(1), 4), leading_vectors(maps(2)).squeeze(1)
    student.requires_grad_()
    aligned = align_vectors(student, teacher)
    for found, candidates, target in zip(aligned.detach(), student.detach(), teacher, strict=True):
        cosines = [float(v @ target) for v in candidates]
        best = int(np.argmax(np.abs(cosines)))
        torch.testing.assert_close(found, candidates[best] * np.sign(cosines[best]))
    (grad,) = torch.autograd.grad(aligned.sum(), student)
    assert (grad.abs().sum(2) > 0).sum() == len(teacher)


def test_bad_arguments_are_named():
    for args, word in (((torch.zeros(2, 3),), 'maps'), ((maps(), 0), 'k: got 0'), ((maps(), 1, -1.0), 'damping')):
        with pytest.raises(ValueError, match=word):
            leading_vectors(*args)
    with pytest.raises(ValueError, match='student, teacher'):
        align_vectors(torch.zeros(2, 4, 3), torch.zeros(2, 4))


def test_what_single_precision_loses_is_solved_in_double(monkeypatch):
    """As LAPACK does with some matrices of rank one but for rounding; which, depends on the machine."""
    eigh = torch.linalg.eigh
    rank_one = torch.ones(4, 4) + 1e-30 * torch.eye(4)
    matrices = torch.stack([torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])), rank_one, torch.full((4, 4), torch.nan)])

    def lossy(matrix):
        values, vectors = eigh(matrix)
        if matrix.dtype == torch.float32:
            values[1], vectors[1] = torch.nan, torch.nan
        return values, vectors

    monkeypatch.setattr(torch.linalg, 'eigh', lossy)
    values, vectors = exact_eigenpairs(matrices)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close(values[:2], torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 4.0]]))
    rebuilt = vectors[:2] @ values[:2].diag_embed() @ vectors[:2].mT
    torch.testing.assert_close(rebuilt, matrices[:2])
    assert values[2].isnan().all() and vectors[2].isnan().all()
