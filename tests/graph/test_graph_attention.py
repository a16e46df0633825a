"""Attention maps against an independent reading, and their means."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from mmkd_graph.graph import channel_attention, spatial_attention


def features_of(seed, dtype=torch.float64):
    return torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize('temperature', [0.1, 0.5, 2.0])
@pytest.mark.parametrize('normalize', [False, True])
def test_values_against_numpy(temperature, normalize):
    features = features_of(0)
    strength = np.abs(features.numpy())
    space, channel = strength.mean(1).reshape(2, 12), strength.mean((2, 3))
    if normalize:
        space, channel = space / space.mean(1, keepdims=True), channel / channel.mean(1, keepdims=True)
    wanted = 12 * softmax(space / temperature, axis=1).reshape(2, 1, 4, 3)
    np.testing.assert_allclose(spatial_attention(features, temperature, normalize).numpy(), wanted)
    wanted = 5 * softmax(channel / temperature, axis=1).reshape(2, 5, 1, 1)
    np.testing.assert_allclose(channel_attention(features, temperature, normalize).numpy(), wanted)


def test_mean_is_one():
    features = features_of(4)
    one = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(spatial_attention(features).mean((1, 2, 3)), one)
    torch.testing.assert_close(channel_attention(features).mean((1, 2, 3)), one)


@pytest.mark.parametrize('attention', [spatial_attention, channel_attention])
def test_normalize_removes_the_scale(attention):
    features = features_of(5)
    torch.testing.assert_close(attention(1000 * features, normalize=True), attention(features, normalize=True))
    assert not torch.allclose(attention(1000 * features), attention(features))


@pytest.mark.parametrize('attention', [spatial_attention, channel_attention])
@pytest.mark.parametrize('value', [0.0, 3.0])
def test_constant_maps_are_uniform(attention, value):
    features = torch.full((2, 5, 4, 3), value, requires_grad=True)
    weights = attention(features, normalize=True)
    torch.testing.assert_close(weights, torch.ones_like(weights))
    weights.square().sum().backward()
    assert features.grad.isfinite().all()


def test_flattened_maps_are_accepted():
    features = features_of(6)
    wanted = spatial_attention(features)
    assert torch.equal(spatial_attention(features.flatten(2)), wanted.flatten(2))
    wanted = channel_attention(features)
    assert torch.equal(channel_attention(features.flatten(2)), wanted.flatten(2))


@pytest.mark.parametrize('attention', [spatial_attention, channel_attention])
@pytest.mark.parametrize('normalize', [False, True])
def test_gradcheck(attention, normalize):
    features = features_of(7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, 0.5, normalize), features)


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf'), '1', True])
def test_bad_temperature(temperature):
    for attention in (spatial_attention, channel_attention):
        with pytest.raises(ValueError, match=r'temperature: got .* accepted is a finite number > 0'):
            attention(features_of(0), temperature)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r'features: got shape \(4, 3\)'):
        spatial_attention(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r'features: got shape \(1, 0, 2, 2\)'):
        channel_attention(torch.zeros(1, 0, 2, 2))
