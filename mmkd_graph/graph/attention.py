"""Attention maps of feature maps, in the line of attention transfer and FGD."""

import torch
from torch import Tensor

from .arguments import argument_error, check_number
from .precision import in_full_precision


@in_full_precision
def spatial_attention(features: Tensor, temperature: float = 0.5, normalize: bool = False) -> Tensor:
    """Where a feature map is active: ``HW · softmax(mean_c |F| / τ)``.

    Args:
        features: Feature maps of shape (N, C, H, W) or (N, C, L). Not detached here.
        temperature: τ > 0, in the unit of the features (without unit with ``normalize``).
        normalize: Divide the map by its mean over space first, so that the same temperature means the same
            whatever the scale of the features.

    Returns:
        Weights of shape (N, 1, H, W) (or (N, 1, L)) with mean 1 over space; float32, or float64 for float64 input.

    Raises:
        ValueError: If ``temperature`` is not > 0 or the shape does not fit.

    Source: Zagoruyko & Komodakis, arXiv 1612.03928; FGD, arXiv 2111.11837.

    Example:
        >>> import torch
        >>> spatial_attention(torch.tensor([[[[0.0, -1.0], [0.0, 1.0]]]]))
        tensor([[[[0.2384, 1.7616],
                  [0.2384, 1.7616]]]])
    """
    _check(features, temperature)
    activity = features.abs().mean(1, keepdim=True)
    return _softmax(activity.flatten(2), temperature, normalize).reshape(activity.shape)


@in_full_precision
def channel_attention(features: Tensor, temperature: float = 0.5, normalize: bool = False) -> Tensor:
    """Which channels are active: ``C · softmax(mean_hw |F| / τ)``.

    Args:
        features: Feature maps of shape (N, C, H, W) or (N, C, L). Not detached here.
        temperature: τ > 0, in the unit of the features (without unit with ``normalize``).
        normalize: Divide the map by its mean over channels first.

    Returns:
        Weights of shape (N, C, 1, 1) (or (N, C, 1)) with mean 1 over channels; float32, or float64 for
        float64 input.

    Raises:
        ValueError: If ``temperature`` is not > 0 or the shape does not fit.

    Source: FGD, arXiv 2111.11837.

    Example:
        >>> import torch
        >>> channel_attention(torch.tensor([[[[0.0, 0.0]], [[-1.0, 1.0]]]])).flatten()
        tensor([0.2384, 1.7616])
    """
    _check(features, temperature)
    weights = _softmax(features.abs().flatten(2).mean(-1), temperature, normalize)
    return weights.reshape(*weights.shape, *(1 for _ in features.shape[2:]))


def _check(features: Tensor, temperature: float) -> None:
    check_number('temperature', temperature, positive=True)
    if features.dim() not in (3, 4) or 0 in features.shape[1:]:
        raise argument_error('features', f'shape {tuple(features.shape)}', '(N, C, H, W) or (N, C, L), not empty')


def _softmax(scores: Tensor, temperature: float, normalize: bool) -> Tensor:
    """Softmax over the last axis, times its length."""
    if normalize:
        mean = scores.mean(-1, keepdim=True)
        zero = mean == 0  # then every score is 0: the softmax is uniform, whatever it is divided by
        scores = scores / torch.where(zero, 1, mean)
    return scores.shape[-1] * torch.softmax(scores / temperature, dim=-1)
