"""Attention maps of feature maps, in the line of attention transfer and FGD."""

import torch
from torch import Tensor

from .arguments import argument_error, check_number
from .precision import in_full_precision


@in_full_precision
def spatial_attention(
    features: Tensor, temperature: float = 0.5, normalize: bool = False, valid: Tensor | None = None
) -> Tensor:
    """Where a feature map is active: ``HW · softmax(mean_c |F| / τ)``.

    Args:
        features: Feature maps of shape (N, C, H, W) or (N, C, L). Not detached here.
        temperature: τ > 0, in the unit of the features (without unit with ``normalize``).
        normalize: Divide the map by its mean over space first, so that the same temperature means the same
            whatever the scale of the features.
        valid: Booleans of shape (N, 1, H, W) (or (N, 1, L)), False where a cell is padding. Such a cell has weight 0
            and leaves the others as they are.

    Returns:
        Weights of shape (N, 1, H, W) (or (N, 1, L)) with mean 1 over the valid cells; float32, or float64 for float64
        input.

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
    valid = None if valid is None else valid.flatten(2)
    return _softmax(activity.flatten(2), temperature, normalize, valid).reshape(activity.shape)


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


def _softmax(scores: Tensor, temperature: float, normalize: bool, valid: Tensor | None = None) -> Tensor:
    """Softmax over the last axis, times its length; of what is ``valid``, if that is given."""
    count: Tensor | int = scores.shape[-1]
    if valid is not None:
        scores = torch.where(valid, scores, 0)
        count = valid.sum(-1, keepdim=True)
    if normalize:
        mean = scores.sum(-1, keepdim=True) / count
        zero = mean == 0  # then every score is 0: the softmax is uniform, whatever it is divided by
        scores = scores / torch.where(zero, 1, mean)
    scores = scores / temperature
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    return count * torch.softmax(scores, dim=-1)
