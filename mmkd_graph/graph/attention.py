"""Attention maps of feature maps and of channel graphs, in the line of attention transfer and FGD."""

import torch
from torch import Tensor

from .arguments import argument_error, check_number, check_square
from .precision import no_autocast, widen


def spatial_attention(
    features: Tensor, temperature: float = 0.5, normalize: bool = False, valid: Tensor | None = None
) -> Tensor:
    r"""Where a feature map is active: :math:`HW \cdot \mathrm{softmax}(\mathrm{mean}_c |F| / \tau)`.

    Args:
        features: Feature maps of shape (N, C, H, W) or (N, C, L). Not detached here.
        temperature: :math:`\tau` > 0, in the unit of the features (without unit with ``normalize``).
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
    features = _checked(features, temperature)
    with no_autocast(features):
        (features,) = widen(features)
        activity = features.abs().mean(1, keepdim=True)
        valid = None if valid is None else valid.flatten(2)
        weights = _softmax(activity.flatten(2), temperature, normalize, valid)
        return weights.reshape(activity.shape)


def channel_attention(features: Tensor, temperature: float = 0.5, normalize: bool = False) -> Tensor:
    r"""Which channels are active: :math:`C \cdot \mathrm{softmax}(\mathrm{mean}_{hw} |F| / \tau)`.

    Args:
        features: Feature maps of shape (N, C, H, W) or (N, C, L). Not detached here.
        temperature: :math:`\tau` > 0, in the unit of the features (without unit with ``normalize``).
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
    features = _checked(features, temperature)
    with no_autocast(features):
        (features,) = widen(features)
        activity = features.abs().flatten(2).mean(-1)
        weights = _softmax(activity, temperature, normalize)
        return weights.reshape(*weights.shape, *(1 for _ in features.shape[2:]))


def relational_attention(affinity: Tensor, temperature: float = 0.5) -> Tensor:
    r"""How much each edge matters in its graph: :math:`C \cdot \mathrm{softmax}_j(|A_{ij}| / \tau)`.

    Every row sums to C, so the mean entry is 1. The result is *not* symmetric, since each vertex shares out
    its own attention. As a weight of squared differences of two symmetric matrices, R and its symmetric part
    :math:`(R + R^T) / 2` give the same sum, so nothing would be gained by symmetrising here.

    Args:
        affinity: Affinities of shape (B, C, C), without unit. Not detached here.
        temperature: :math:`\tau` > 0, without unit.

    Returns:
        Weights of shape (B, C, C); float32, or float64 for float64 input.

    Raises:
        ValueError: If ``temperature`` is not > 0 or the shape does not fit.

    Example:
        >>> import torch
        >>> relational_attention(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor([[[1.7616, 0.2384],
                 [0.2384, 1.7616]]])
    """
    check_square('affinity', affinity)
    check_number('temperature', temperature, positive=True)
    with no_autocast(affinity):
        (affinity,) = widen(affinity, name='affinity')
        return _softmax(affinity.abs(), temperature, normalize=False)


def _checked(features: Tensor, temperature: float) -> Tensor:
    check_number('temperature', temperature, positive=True)
    if features.dim() not in (3, 4) or 0 in features.shape[1:]:
        raise argument_error('features', f'shape {tuple(features.shape)}', '(N, C, H, W) or (N, C, L), not empty')
    return features


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
