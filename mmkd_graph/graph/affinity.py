"""Unit vertices: the channels of a feature map, flattened over space and brought to unit norm."""

import torch
from torch import Tensor

from .arguments import argument_error, check_choice
from .precision import no_autocast, widen

VERTEX_KINDS = ('cosine', 'pearson')
GROUPINGS = ('image', 'batch')

# A channel this much weaker than the strongest one beside it (or than its own mean, when the mean is
# removed) holds nothing but rounding errors in float32; dividing by its norm would make noise a vertex.
DEAD_RATIO = 1e-6


def unit_vertices(features: Tensor, kind: str = 'cosine', per: str = 'image') -> Tensor:
    r"""Every channel flattened over space and brought to unit norm.

    A positive rescaling of any channel leaves the result unchanged. A *dead* channel has a norm of at most
    ``1e-6`` times the largest norm of its map (for ``'pearson'``: or of its own norm before the mean was
    removed, so a constant channel is dead); it becomes a row of zeros that passes no gradient.

    Args:
        features: Feature maps of shape (N, C, H, W), or (N, C, L) with the space already flattened. Any unit.
            float16 and bfloat16 are read as float32, also under autocast.
        kind: ``'cosine'`` divides the channel by its norm; ``'pearson'`` removes its mean over space first.
        per: ``'image'`` flattens each image alone (B = N, L = H * W); ``'batch'`` flattens a channel over all
            images (B = 1, L = N * H * W).

    Returns:
        Tensor of shape (B, C, L) whose rows have norm 1 (0 where dead); float32, or float64 for float64
        input.

    Raises:
        ValueError: If an option is unknown or a shape does not fit.

    Example:
        >>> import torch
        >>> features = torch.tensor([[[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]])  # (1, 3, 2), the last one is dead
        >>> unit_vertices(features)
        tensor([[[0.6000, 0.8000],
                 [0.0000, 1.0000],
                 [0.0000, 0.0000]]])
    """
    check_choice('kind', kind, VERTEX_KINDS)
    check_choice('per', per, GROUPINGS)
    if features.dim() not in (3, 4) or features.shape[1] == 0:
        raise argument_error('features', f'shape {tuple(features.shape)}', '(N, C, H, W) or (N, C, L), C >= 1')
    with no_autocast(features):
        (features,) = widen(features)
        return _unit_rows(_grouped(features.flatten(2), per), kind)


def _grouped(flat: Tensor, per: str) -> Tensor:
    """(N, C, L) to (N, C, L) per image or (1, C, N * L) per batch."""
    return flat if per == 'image' else flat.transpose(0, 1).flatten(1).unsqueeze(0)


def _unit_rows(vertices: Tensor, kind: str) -> Tensor:
    if vertices.numel() == 0:
        return vertices
    # The unit vertices do not depend on the scale, so a detached one changes no gradient; it keeps the
    # squares below from overflowing or vanishing.
    peak = vertices.detach().abs().amax((1, 2), keepdim=True)
    vertices = vertices / torch.where(peak > 0, peak, 1)
    raw = vertices
    if kind == 'pearson':
        vertices = vertices - vertices.mean(-1, keepdim=True)
    square = vertices.square().sum(-1, keepdim=True)
    with torch.no_grad():
        least = square.amax(1, keepdim=True) * DEAD_RATIO**2
        dead = square <= least
        if kind == 'pearson':
            dead |= square <= raw.square().sum(-1, keepdim=True) * DEAD_RATIO**2
    # Two wheres: the inner one keeps the reciprocal finite, the outer one stops its gradient.
    return torch.where(dead, 0, vertices * torch.where(dead, 1, square).rsqrt())
