"""Edge weights and normalised Laplacians against scipy and their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csgraph

from mmkd_graph.graph import adjacency, channel_affinity, laplacian_product, normalized_laplacian

MODES = ('clamp', 'shift', 'abs')


def affinity_of(seed, b=2, c=7, dtype=torch.float64):
    features = torch.randn(b, c, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return channel_affinity(features)


def sparse_weights(seed, c, density):
    """Random symmetric weights; with a low density, several components and isolated vertices."""
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.random((c, c)) * (rng.random((c, c)) < density), 1)
    return weights + weights.T


@pytest.mark.parametrize('mode', MODES)
def test_modes(mode):
    affinity = affinity_of(0)
    wanted = {'clamp': affinity.clamp(min=0), 'shift': (affinity + 1) / 2, 'abs': affinity.abs()}[mode].numpy()
    wanted[:, np.arange(7), np.arange(7)] = 0
    weights = adjacency(affinity, mode)
    np.testing.assert_allclose(weights.numpy(), wanted, atol=1e-15)
    assert torch.equal(weights, weights.mT)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('knn', [1, 2, 4])
def test_knn_keeps_an_edge_if_either_end_wants_it(mode, knn):
    affinity = affinity_of(1)
    dense, sparse = adjacency(affinity, mode).numpy(), adjacency(affinity, mode, knn).numpy()
    for full, found in zip(dense, sparse, strict=True):
        nearest = [set(np.argsort(-row)[:knn]) for row in np.where(np.eye(7, dtype=bool), -1, full)]
        for i in range(7):
            for j in range(7):
                keep = i != j and (j in nearest[i] or i in nearest[j])
                assert found[i, j] == (full[i, j] if keep else 0)


@pytest.mark.parametrize('knn', [6, 7, 100])
def test_large_knn_keeps_everything(knn):
    affinity = affinity_of(2)
    assert torch.equal(adjacency(affinity, 'shift', knn), adjacency(affinity, 'shift'))


def test_knn_among_ties_does_not_depend_on_the_order():
    affinity = torch.ones(1, 6, 6)
    assert torch.equal(adjacency(affinity, knn=2), adjacency(affinity))


def test_dropped_edges_pass_no_gradient():
    affinity = affinity_of(3).requires_grad_()
    weights = adjacency(affinity, 'shift', knn=1)
    weights.sum().backward()
    assert torch.equal(affinity.grad != 0, weights.detach() != 0)


@pytest.mark.parametrize('density', [0.08, 0.3, 1.0])
def test_laplacian_is_scipys(density):
    weights = np.stack([sparse_weights(seed, 9, density) for seed in range(4)])
    weights[0, 2, 2] = 3.0  # a self-loop is ignored, there and here
    found = normalized_laplacian(torch.from_numpy(weights)).numpy()
    for graph, laplacian in zip(weights, found, strict=True):
        np.testing.assert_allclose(laplacian, csgraph.laplacian(graph, normed=True), atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), c=st.integers(1, 14), density=st.sampled_from([0.05, 0.15, 0.3, 1.0]))
def test_spectrum_in_0_2_and_zeros_count_components(seed, c, density):
    weights = sparse_weights(seed, c, density)
    laplacian = normalized_laplacian(torch.from_numpy(weights).unsqueeze(0))[0]
    values = torch.linalg.eigvalsh(laplacian)
    assert values.min() > -1e-12 and values.max() < 2 + 1e-12
    components, _ = csgraph.connected_components(weights, directed=False)
    assert (values < 1e-10).sum() == components
    assert torch.equal(laplacian, laplacian.mT)


def test_bipartite_graph_reaches_2():
    weights = torch.zeros(1, 4, 4)
    weights[:, :2, 2:] = weights[:, 2:, :2] = 1
    torch.testing.assert_close(torch.linalg.eigvalsh(normalized_laplacian(weights))[0, -1], torch.tensor(2.0))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(7)), knn=st.sampled_from([None, 2]))
def test_permutation(seed, order, knn):
    affinity = affinity_of(seed)

    def laplacian_of(x):
        return normalized_laplacian(adjacency(x, knn=knn))

    permuted = affinity[:, order][:, :, order]
    torch.testing.assert_close(laplacian_of(permuted), laplacian_of(affinity)[:, order][:, :, order])


def test_exactly_symmetric_in_float32():
    laplacian = normalized_laplacian(adjacency(affinity_of(4, c=40, dtype=torch.float32), 'shift'))
    assert torch.equal(laplacian, laplacian.mT)


def test_isolated_vertex_has_a_zero_row_and_a_finite_gradient():
    weights = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0))
    weights = weights + weights.mT
    weights[:, 3] = weights[:, :, 3] = 0
    weights.requires_grad_()
    laplacian = normalized_laplacian(weights)
    assert not laplacian[:, 3].any() and not laplacian[:, :, 3].any()
    laplacian.square().sum().backward()
    assert weights.grad.isfinite().all() and weights.grad.any()


@pytest.mark.parametrize('mode', MODES)
def test_product_without_the_laplacian_is_the_product_with_it(mode):
    affinity = affinity_of(6)
    affinity[:, 2] = affinity[:, :, 2] = -1 if mode == 'shift' else 0  # an isolated vertex
    block = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1), dtype=affinity.dtype)
    found, grads = [], []
    for product in (laplacian_product, lambda w, x: normalized_laplacian(w) @ x):
        affinity = affinity.detach().requires_grad_()
        found.append(product(adjacency(affinity, mode), block))
        grads.append(torch.autograd.grad(found[-1].square().sum(), affinity)[0])
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*grads)
    assert not found[0][:, 2].any() and grads[0].any()


@pytest.mark.parametrize('c', [1, 5])
def test_graph_without_edges(c):
    weights = torch.zeros(2, c, c, requires_grad=True)
    laplacian = normalized_laplacian(weights)
    laplacian.sum().backward()
    assert not laplacian.any() and weights.grad.isfinite().all()


@pytest.mark.parametrize('mode', MODES)
def test_gradcheck(mode):
    affinity = affinity_of(5, c=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalized_laplacian(adjacency(x, mode)), affinity)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda a: adjacency(a, 'relu'), r"mode: got 'relu', accepted is one of 'clamp', 'shift', 'abs'"),
        (lambda a: adjacency(a, knn=0), r'knn: got 0, accepted is an integer >= 1'),
        (lambda a: adjacency(a, knn=2.5), r'knn: got 2.5'),
        (lambda a: adjacency(a[0]), r'affinity: got shape \(7, 7\)'),
        (lambda a: laplacian_product(a, a[:, :3]), r'block: got shape \(2, 3, 7\), accepted is \(2, 7, k\)'),
        (lambda a: normalized_laplacian(a[:, :3]), r'weights: got shape \(2, 3, 7\)'),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(affinity_of(0))
