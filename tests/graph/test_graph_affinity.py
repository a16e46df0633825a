"""Unit vertices and affinities: values, invariances, dead channels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import affinity_from_unit, channel_affinity, unit_vertices

KINDS = ('cosine', 'pearson', 'rbf')


def features_of(seed, n=2, c=5, h=4, w=3, dtype=torch.float64):
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numpy_affinity(vertices, kind, weight=None):
    """Independent reading of the formulas: one graph, plain loops. vertices (C, L), weight (L,)."""
    weight = np.ones(vertices.shape[1]) if weight is None else weight
    count = len(vertices)
    result = np.zeros((count, count))
    if kind == 'pearson':
        vertices = vertices - (vertices * weight).sum(1, keepdims=True) / weight.sum()
    for i in range(count):
        for j in range(count):
            inner = (weight * vertices[i] * vertices[j]).sum()
            lengths = (weight * vertices[i] ** 2).sum() * (weight * vertices[j] ** 2).sum()
            result[i, j] = inner / lengths**0.5
    if kind == 'rbf':
        square = 2 - 2 * result
        scale = square[~np.eye(count, dtype=bool)].mean()
        result = np.exp(-square / (2 * scale))
    return result


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('per', ['image', 'batch'])
def test_values_against_numpy(kind, weighted, per):
    features = features_of(0)
    weight = features_of(1, c=1).square() if weighted else None
    found = channel_affinity(features, kind, weight, per).numpy()
    maps = features.flatten(2).numpy()
    weights = None if weight is None else weight.flatten(2).numpy()
    if per == 'batch':
        maps = maps.transpose(1, 0, 2).reshape(1, 5, -1)
        weights = None if weights is None else weights.transpose(1, 0, 2).reshape(1, 1, -1)
    assert found.shape == (len(maps), 5, 5)
    for index, graph in enumerate(maps):
        wanted = numpy_affinity(graph, kind, None if weights is None else weights[index, 0])
        np.testing.assert_allclose(found[index], wanted, atol=1e-12)


def test_pearson_is_numpy_corrcoef():
    features = features_of(2, n=1)
    wanted = np.corrcoef(features[0].flatten(1).numpy())
    np.testing.assert_allclose(channel_affinity(features, 'pearson')[0].numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize('per', ['image', 'batch'])
def test_flattened_maps_and_weights_are_accepted(per):
    features, weight = features_of(3), features_of(4, c=1).square()
    wanted = unit_vertices(features, 'pearson', weight, per)
    found = unit_vertices(features.flatten(2), 'pearson', weight.flatten(2), per)
    assert wanted.shape == ((2, 5, 12) if per == 'image' else (1, 5, 24))
    assert torch.equal(found, wanted)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    powers=st.lists(st.floats(-2, 2), min_size=5, max_size=5),
)
def test_positive_rescaling_of_channels_changes_nothing(seed, kind, powers):
    features = features_of(seed)
    scaled = features * (10 ** torch.tensor(powers, dtype=torch.float64)).view(1, 5, 1, 1)
    torch.testing.assert_close(channel_affinity(scaled, kind), channel_affinity(features, kind), atol=1e-9, rtol=0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), order=st.permutations(range(5)))
def test_permuting_channels_permutes_the_affinity(seed, kind, order):
    features = features_of(seed)
    wanted = channel_affinity(features, kind)[:, order][:, :, order]
    torch.testing.assert_close(channel_affinity(features[:, order], kind), wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_extreme_scales_neither_overflow_nor_vanish(scale):
    features = features_of(5, dtype=torch.float32)
    torch.testing.assert_close(channel_affinity(features * scale), channel_affinity(features))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [0.0, 1e-8])
def test_dead_channel_has_no_edge_and_no_gradient(kind, value):
    features = features_of(6, dtype=torch.float32)
    features[0, 2] *= value
    features.requires_grad_()
    affinity = channel_affinity(features, kind)
    others = [0, 1, 3, 4]
    assert torch.equal(affinity[0, 2, others], torch.zeros(4))
    assert torch.equal(affinity[0, others, 2], torch.zeros(4))
    assert affinity[0, 2, 2] == (1 if kind == 'rbf' else 0)
    (affinity * torch.arange(25.0).view(5, 5)).square().sum().backward()
    assert features.grad.isfinite().all()
    assert not features.grad[0, 2].any()
    assert features.grad[0, others].any() and features.grad[1, 2].any()


def test_constant_channel_is_dead_for_pearson_only():
    features = features_of(7, dtype=torch.float32)
    features[:, 1] = 1234.567
    assert not unit_vertices(features, 'pearson')[:, 1].any()
    torch.testing.assert_close(unit_vertices(features)[:, 1].norm(dim=-1), torch.ones(2))


def test_only_constant_channels_leave_nothing_for_pearson():
    """What is left of each after its mean is rounding, in all of them: none may become a vertex."""
    level = 0.1 + torch.rand(2, 5, 1, 1, generator=torch.Generator().manual_seed(0))
    features = level.expand(2, 5, 31, 37)
    assert (features - features.mean((2, 3), keepdim=True)).any()
    assert not unit_vertices(features, 'pearson').any()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [0.0, 0.1, 7.3])
def test_constant_maps_are_finite(kind, value):
    features = torch.full((2, 5, 7, 9), value, requires_grad=True)
    affinity = channel_affinity(features, kind)
    affinity.square().sum().backward()
    assert affinity.isfinite().all() and features.grad.isfinite().all()
    if kind == 'pearson' or value == 0:
        assert torch.equal(affinity, torch.eye(5).expand(2, 5, 5) if kind == 'rbf' else torch.zeros(2, 5, 5))
    else:
        torch.testing.assert_close(affinity, torch.ones(2, 5, 5))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shape', [(1, 8, 1, 2), (2, 1, 4, 4), (1, 1, 1, 1), (1, 6, 1, 1)])
def test_few_positions_or_channels(kind, shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    affinity = channel_affinity(features, kind)
    affinity.sum().backward()
    assert affinity.shape == (shape[0], shape[1], shape[1])
    assert affinity.isfinite().all() and features.grad.isfinite().all()


def test_zero_weight_drops_positions_and_all_zero_weight_is_finite():
    features = features_of(8)
    weight = torch.ones(2, 1, 4, 3, dtype=torch.float64)
    weight[..., 0] = 0
    weight.requires_grad_()
    affinity = channel_affinity(features, 'pearson', weight)
    torch.testing.assert_close(affinity, channel_affinity(features[..., 1:], 'pearson'))
    affinity[:, 0].sum().backward()
    assert weight.grad.isfinite().all()
    for kind in ('cosine', 'pearson'):
        assert not channel_affinity(features, kind, weight.detach() * 0).any()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('per', ['image', 'batch'])
def test_gradcheck(kind, per):
    features = features_of(9, h=2).requires_grad_()
    weight = features_of(10, c=1, h=2).square()
    assert torch.autograd.gradcheck(lambda x: channel_affinity(x, kind, weight, per), features)


def test_affinity_from_unit_is_the_same_affinity():
    features = features_of(11)
    for kind in KINDS:
        unit = unit_vertices(features, 'pearson' if kind == 'pearson' else 'cosine')
        assert torch.equal(affinity_from_unit(unit, kind), channel_affinity(features, kind))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda x: unit_vertices(x, kind='rbf'), r"kind: got 'rbf', accepted is one of 'cosine', 'pearson'"),
        (lambda x: unit_vertices(x, per='level'), r"per: got 'level', accepted is one of 'image', 'batch'"),
        (lambda x: channel_affinity(x, 'euclid'), r"kind: got 'euclid'"),
        (lambda x: unit_vertices(x[0, 0]), r'features: got shape \(4, 3\)'),
        (lambda x: unit_vertices(x.long()), r'features: got a tensor of torch.int64'),
        (lambda x: unit_vertices(x, weight=x), r'weight: got shape \(2, 5, 4, 3\), accepted is shape \(2, 1, 4'),
        (lambda x: affinity_from_unit(x), r'unit: got shape \(2, 5, 4, 3\)'),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(features_of(0))
