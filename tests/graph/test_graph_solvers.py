"""The subspace eigensolver against the exact one."""

import math

import pytest
import torch

from mmkd_graph.graph import adjacency, channel_affinity, normalized_laplacian, spectral_embedding
from mmkd_graph.graph.solvers import exact_eigenpairs


def decaying_laplacian(graphs=16, channels=256, seed=0, mode='clamp'):
    """Graphs of random features with 16 strong directions and noise: a decaying spectrum, gap after 16."""
    generator = torch.Generator().manual_seed(seed)
    strength = 1 - 0.02 * torch.arange(16)
    features = (torch.randn(graphs, channels, 16, generator=generator) * strength) @ torch.randn(
        graphs, 16, 512, generator=generator
    )
    features = features + 0.5 * torch.randn(graphs, channels, 512, generator=generator)
    return normalized_laplacian(adjacency(channel_affinity(features), mode))


def projector(vectors):
    return vectors @ vectors.mT


def test_cold_start_finds_the_subspace():
    laplacian = decaying_laplacian()
    exact = spectral_embedding(laplacian, 16)
    found = spectral_embedding(laplacian, 16, 'subspace')
    error = torch.linalg.matrix_norm(projector(found.vectors) - projector(exact.vectors))
    assert error.max() < 1e-2
    torch.testing.assert_close(found.values, exact.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.vectors.mT @ found.vectors, torch.eye(16).expand(16, 16, 16), atol=1e-5, rtol=0)
    residual = laplacian @ found.vectors - found.vectors * found.values.unsqueeze(-2)
    assert residual.abs().max() < 1e-3


def test_shifted_graphs_do_not_drown_in_the_trivial_vector():
    laplacian = decaying_laplacian(4, mode='shift')  # eigenvalues 0, then 0.9 and more
    exact, found = (spectral_embedding(laplacian, 16, solver) for solver in ('exact', 'subspace'))
    error = torch.linalg.matrix_norm(projector(found.vectors) - projector(exact.vectors))
    assert error.max() < 1e-2


def test_more_rounds_and_float64_converge():
    laplacian = decaying_laplacian(2, channels=96).double()
    exact = spectral_embedding(laplacian, 8)
    found = spectral_embedding(laplacian, 8, 'subspace', rounds=12, degree=8)
    assert found.values.dtype == torch.float64
    torch.testing.assert_close(found.values, exact.values, atol=1e-10, rtol=0)
    torch.testing.assert_close(projector(found.vectors), projector(exact.vectors), atol=1e-6, rtol=0)


@pytest.mark.parametrize(('kept', 'bound'), [(16, 3e-2), (24, 5e-3)])
def test_one_warm_round_follows_a_small_step(kept, bound):
    """The more vectors of the step before there are beyond k, the better the round."""
    before, step = decaying_laplacian(4), decaying_laplacian(4, seed=1)
    laplacian = 0.98 * before + 0.02 * step
    exact = spectral_embedding(laplacian, 16)
    start = spectral_embedding(before, kept).vectors
    moved = torch.linalg.matrix_norm(projector(start[..., :16]) - projector(exact.vectors))
    found = spectral_embedding(laplacian, 16, 'subspace', start=start, rounds=1)
    error = torch.linalg.matrix_norm(projector(found.vectors) - projector(exact.vectors))
    assert error.max() < bound < moved.min()
    assert torch.equal(found.vectors, spectral_embedding(laplacian, 16, 'subspace', start=start).vectors)


def test_start_that_is_not_finite_is_ignored():
    laplacian = decaying_laplacian(1, channels=64)
    start = torch.full((1, 64, 4), math.nan)
    found = spectral_embedding(laplacian, 4, 'subspace', start=start, rounds=4)
    torch.testing.assert_close(found.values, spectral_embedding(laplacian, 4).values, atol=1e-4, rtol=0)


def test_skip_trivial_is_the_rest_of_the_embedding():
    laplacian = decaying_laplacian(2, channels=48)
    for solver in ('exact', 'subspace'):
        whole = spectral_embedding(laplacian, 6, solver)
        rest = spectral_embedding(laplacian, 5, solver, skip_trivial=True)
        torch.testing.assert_close(rest.values, whole.values[:, 1:], atol=1e-5, rtol=0)
        torch.testing.assert_close(projector(rest.vectors), projector(whole.vectors[..., 1:]), atol=1e-2, rtol=0)


@pytest.mark.parametrize('kind', ['empty', 'pairs', 'complete', 'halves'])
def test_repeated_eigenvalues(kind):
    """Eigenvectors are not unique, but values, orthonormality and the eigenequation still hold."""
    c = 40
    weights = torch.zeros(1, c, c)
    if kind == 'pairs':  # 20 times 0 and 20 times 2
        weights[:, range(0, c, 2), range(1, c, 2)] = weights[:, range(1, c, 2), range(0, c, 2)] = 1
    elif kind == 'complete':
        weights += 1
    elif kind == 'halves':  # bipartite: 0, 1 ... 1, 2
        weights[:, : c // 2, c // 2 :] = weights[:, c // 2 :, : c // 2] = 1
    laplacian = normalized_laplacian(weights)
    values, vectors = spectral_embedding(laplacian, 10, 'subspace', rounds=6)
    torch.testing.assert_close(values, spectral_embedding(laplacian, 10).values, atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(10).unsqueeze(0), atol=1e-5, rtol=0)
    assert (laplacian @ vectors - vectors * values.unsqueeze(-2)).abs().max() < 1e-3


def test_as_many_eigenvalues_at_2_as_at_0():
    """Neither may the powers that start the iteration nor the filter's upper end let the wrong end in."""
    c = 120
    weights = torch.zeros(1, c, c)
    weights[:, range(0, c, 2), range(1, c, 2)] = weights[:, range(1, c, 2), range(0, c, 2)] = 1
    values, _ = spectral_embedding(normalized_laplacian(weights), 10, 'subspace')
    torch.testing.assert_close(values, torch.zeros(1, 10), atol=1e-4, rtol=0)


def test_filter_damps_up_to_the_largest_eigenvalue():
    """Eigenvalues far above all Ritz values of the block, and more than it has room for: only the bound on the
    spectrum knows of them."""
    generator = torch.Generator().manual_seed(0)
    wanted, bulk = torch.linspace(0, 0.6, 8), torch.linspace(0.95, 1.05, 500)
    values = torch.cat([wanted, bulk, torch.linspace(1.95, 2, 24)]).double()
    turn = torch.linalg.qr(torch.randn(532, 532, generator=generator, dtype=torch.float64)).Q
    laplacian = ((turn * values) @ turn.mT).unsqueeze(0)
    noise = torch.randn(1, 532, 8, generator=generator, dtype=torch.float64)
    found = spectral_embedding(laplacian, 8, 'subspace', start=turn[:, :8] + 0.01 * noise, rounds=1)
    error = torch.linalg.matrix_norm(projector(found.vectors) - projector(turn[:, :8]))
    assert error < 0.03  # 0.43 with a filter that ends at the Ritz values


def test_small_graphs_use_the_exact_solver():
    laplacian = decaying_laplacian(2, channels=32)
    found = spectral_embedding(laplacian, 30, 'subspace')
    assert torch.equal(found.vectors, spectral_embedding(laplacian, 30).vectors)


@pytest.mark.parametrize('solver', ['exact', 'subspace'])
def test_graph_that_is_not_finite_stays_alone(solver):
    laplacian = decaying_laplacian(3, channels=40)
    clean = spectral_embedding(laplacian, 4, solver)
    laplacian[1, 0, 0] = math.nan
    laplacian[2, 1, 5] = math.inf
    values, vectors = spectral_embedding(laplacian, 4, solver)
    assert values[1:].isnan().all() and vectors[1:].isnan().all()
    assert torch.equal(values[0], clean.values[0])


@pytest.mark.parametrize('solver', ['exact', 'subspace'])
def test_same_input_same_output_whatever_the_global_generator(solver):
    laplacian = decaying_laplacian(2, channels=40)
    first = spectral_embedding(laplacian, 4, solver).vectors
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    assert torch.equal(spectral_embedding(laplacian, 4, solver).vectors, first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ('channels', 'k', 'skip', 'kept'), [(6, 9, False, 6), (6, 9, True, 5), (1, 3, False, 1), (1, 3, True, 1)]
)
def test_k_is_clipped(channels, k, skip, kept):
    laplacian = torch.zeros(2, channels, channels)
    values, vectors = spectral_embedding(laplacian, k, skip_trivial=skip)
    assert values.shape == (2, kept) and vectors.shape == (2, channels, kept)


def test_no_gradient_passes():
    laplacian = decaying_laplacian(1, channels=8).requires_grad_()
    assert not any(part.requires_grad for part in spectral_embedding(laplacian, 3))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(k=0), r'k: got 0, accepted is an integer >= 1'),
        (dict(k=True), r'k: got True'),
        (dict(k=29, solver='subspace'), r"k: got 29, accepted is at most 28 for solver='subspace'"),
        (dict(k=28, solver='subspace', skip_trivial=True), r'k: got 28, accepted is at most 27'),
        (dict(k=2, solver='lobpcg'), r"solver: got 'lobpcg', accepted is one of 'exact', 'subspace'"),
        (dict(k=2, solver='subspace', rounds=0), r'rounds: got 0'),
        (dict(k=2, solver='subspace', degree=0), r'degree: got 0'),
        (dict(k=2, solver='subspace', start=torch.zeros(2, 39, 2)), r'start: got shape \(2, 39, 2\)'),
        (dict(k=2, solver='subspace', start=torch.zeros(3, 40, 2)), r'start: got shape \(3, 40, 2\)'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        spectral_embedding(torch.zeros(2, 40, 40), **kwargs)


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
