"""Unit vertices: values, invariances, dead channels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkd_graph.graph import unit_vertices

KINDS = ('cosine', 'pearson')


def features_of(seed, n=2, c=5, h=4, w=3, dtype=torch.float64):
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('per', ['image', 'batch'])
def test_values_against_numpy(kind, per):
    features = features_of(0)
    maps = features.flatten(2).numpy()
    if per == 'batch':
        maps = maps.transpose(1, 0, 2).reshape(1, 5, -1)
    if kind == 'pearson':
        maps = maps - maps.mean(2, keepdims=True)
    wanted = maps / np.linalg.norm(maps, axis=2, keepdims=True)
    np.testing.assert_allclose(unit_vertices(features, kind, per).numpy(), wanted, atol=1e-12)


def test_products_of_pearson_are_numpy_corrcoef():
    features = features_of(2, n=1)
    unit = unit_vertices(features, 'pearson')[0].numpy()
    np.testing.assert_allclose(unit @ unit.T, np.corrcoef(features[0].flatten(1).numpy()), atol=1e-12)


@pytest.mark.parametrize('per', ['image', 'batch'])
def test_flattened_maps_are_accepted(per):
    features = features_of(3)
    wanted = unit_vertices(features, 'pearson', per)
    assert wanted.shape == ((2, 5, 12) if per == 'image' else (1, 5, 24))
    assert torch.equal(unit_vertices(features.flatten(2), 'pearson', per), wanted)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    powers=st.lists(st.floats(-2, 2), min_size=5, max_size=5),
)
def test_positive_rescaling_of_channels_changes_nothing(seed, kind, powers):
    features = features_of(seed)
    scaled = features * (10 ** torch.tensor(powers, dtype=torch.float64)).view(1, 5, 1, 1)
    torch.testing.assert_close(unit_vertices(scaled, kind), unit_vertices(features, kind), atol=1e-9, rtol=0)


@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_extreme_scales_neither_overflow_nor_vanish(scale):
    features = features_of(5, dtype=torch.float32)
    torch.testing.assert_close(unit_vertices(features * scale), unit_vertices(features))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('value', [0.0, 1e-8])
def test_dead_channel_is_zero_and_takes_no_gradient(kind, value):
    features = features_of(6, dtype=torch.float32)
    features[0, 2] *= value
    features.requires_grad_()
    unit = unit_vertices(features, kind)
    others = [0, 1, 3, 4]
    assert not unit[0, 2].any()
    (unit * torch.arange(12.0)).square().sum().backward()
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
    unit = unit_vertices(features, kind)
    unit.square().sum().backward()
    assert unit.isfinite().all() and features.grad.isfinite().all()
    if kind == 'pearson' or value == 0:
        assert not unit.any()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shape', [(1, 8, 1, 2), (2, 1, 4, 4), (1, 1, 1, 1), (1, 6, 1, 1)])
def test_few_positions_or_channels(kind, shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    unit = unit_vertices(features, kind)
    unit.sum().backward()
    assert unit.shape == (shape[0], shape[1], shape[2] * shape[3])
    assert unit.isfinite().all() and features.grad.isfinite().all()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('per', ['image', 'batch'])
def test_gradcheck(kind, per):
    features = features_of(9, h=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unit_vertices(x, kind, per), features)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda x: unit_vertices(x, kind='rbf'), r"kind: got 'rbf', accepted is one of 'cosine', 'pearson'"),
        (lambda x: unit_vertices(x, per='level'), r"per: got 'level', accepted is one of 'image', 'batch'"),
        (lambda x: unit_vertices(x[0, 0]), r'features: got shape \(4, 3\)'),
        (lambda x: unit_vertices(x.long()), r'features: got a tensor of torch.int64'),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(features_of(0))
