"""Channel graphs: the channels of a feature map are vertices, their similarities are edges."""

import torch
from torch import Tensor

from .arguments import argument_error, check_choice
from .precision import no_autocast, widen

VERTEX_KINDS = ('cosine', 'pearson')
AFFINITY_KINDS = ('cosine', 'pearson', 'rbf')
GROUPINGS = ('image', 'batch')

# A channel this much weaker than the strongest one of its graph (or than its own mean, when the mean is
# removed) holds nothing but rounding errors in float32; dividing by its norm would make noise a vertex.
DEAD_RATIO = 1e-6


def unit_vertices(features: Tensor, kind: str = 'cosine', weight: Tensor | None = None, per: str = 'image') -> Tensor:
    r"""Vertices of the channel graph: every channel flattened over space and brought to unit norm.

    A positive rescaling of any channel leaves the result unchanged. A *dead* channel has a norm of at most
    ``1e-6`` times the largest norm of its graph (for ``'pearson'``: or of its own norm before the mean was
    removed, so a constant channel is dead); it becomes a row of zeros that passes no gradient.

    Args:
        features: Feature maps of shape (N, C, H, W), or (N, C, L) with the space already flattened. Any unit.
            float16 and bfloat16 are read as float32, also under autocast.
        kind: ``'cosine'`` divides the channel by its norm; ``'pearson'`` removes its mean over space first.
        weight: Optional non-negative spatial weight of shape (N, 1, H, W) or (N, 1, L), for example an
            attention map. Vertices are multiplied by its square root, so that their inner products are
            weighted sums over space; for ``'pearson'`` the mean that is removed is the weighted one.
            Values are not checked (that would wait for the GPU): a negative one gives NaN.
        per: ``'image'`` makes one graph per image (B = N, L = H * W); ``'batch'`` makes one graph of the
            whole batch (B = 1, L = N * H * W).

    Returns:
        Tensor of shape (B, C, L) whose rows have norm 1 (0 where dead); float32, or float64 for float64
        input.

    Raises:
        ValueError: If an option is unknown or a shape does not fit.

    Source: "each channel is a vertex" of the channels relational graph, arXiv 2405.08547.

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
    if weight is not None:
        expected = (features.shape[0], 1, *features.shape[2:])
        flat = (features.shape[0], 1, features[0, 0].numel() if len(features) else 0)
        if tuple(weight.shape) not in (expected, flat):
            raise argument_error('weight', f'shape {tuple(weight.shape)}', f'shape {expected} or {flat}')
    with no_autocast(features):
        if weight is None:
            (features,) = widen(features)
        else:
            features, weight = widen(features, weight)
            weight = grouped(weight.flatten(2), per)
        return _unit_rows(grouped(features.flatten(2), per), kind, weight)


def channel_affinity(
    features: Tensor, kind: str = 'cosine', weight: Tensor | None = None, per: str = 'image'
) -> Tensor:
    r"""Affinity matrix of the channel graph.

    ``'cosine'`` and ``'pearson'``: :math:`A_{ij} = \langle v_i, v_j\rangle / (|v_i||v_j|)`, in [-1, 1] up to
    rounding, diagonal 1; a dead channel (see :func:`unit_vertices`) has a row of zeros, diagonal included.

    ``'rbf'``: :math:`A_{ij} = \exp(-|u_i - u_j|^2 / 2 s^2)` on the cosine unit vertices, in [0, 1], diagonal
    1 always. :math:`s^2` is the mean squared distance over the pairs of live channels, so there is no scale
    to choose. It is *not* detached: the gradient is that of the formula as written. A dead channel has no
    edge.

    Args:
        features: Feature maps of shape (N, C, H, W) or (N, C, L).
        kind: ``'cosine'``, ``'pearson'`` or ``'rbf'``.
        weight: Optional non-negative spatial weight, see :func:`unit_vertices`.
        per: ``'image'`` (B = N) or ``'batch'`` (B = 1).

    Returns:
        Tensor of shape (B, C, C), without unit; float32, or float64 for float64 input.

    Raises:
        ValueError: If an option is unknown or a shape does not fit.

    Source: arXiv 2405.08547 (cosine); Pearson and rbf are options of this package.

    Example:
        >>> import torch
        >>> features = torch.tensor([[[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]]])
        >>> channel_affinity(features)
        tensor([[[1.0000, 0.8000, 0.0000],
                 [0.8000, 1.0000, 0.0000],
                 [0.0000, 0.0000, 0.0000]]])
    """
    check_choice('kind', kind, AFFINITY_KINDS)
    unit = unit_vertices(features, 'pearson' if kind == 'pearson' else 'cosine', weight, per)
    return affinity_from_unit(unit, kind)


def affinity_from_unit(unit: Tensor, kind: str = 'cosine') -> Tensor:
    """Affinity matrix from vertices that :func:`unit_vertices` has already normalised.

    For callers that need both: the vertices for a vertex term and the affinity for an edge term.

    Args:
        unit: Unit vertices of shape (B, C, L); dead channels are rows of zeros.
        kind: ``'cosine'``, ``'pearson'`` (both are the Gram matrix) or ``'rbf'``, see
            :func:`channel_affinity`.

    Returns:
        Tensor of shape (B, C, C); float32, or float64 for float64 input.

    Raises:
        ValueError: If ``kind`` is unknown or ``unit`` is not of shape (B, C, L).

    Example:
        >>> import torch
        >>> unit = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> affinity_from_unit(unit, 'rbf')
        tensor([[[1.0000, 1.0000, 0.4724],
                 [1.0000, 1.0000, 0.4724],
                 [0.4724, 0.4724, 1.0000]]])
    """
    check_choice('kind', kind, AFFINITY_KINDS)
    if unit.dim() != 3 or unit.shape[1] == 0:
        raise argument_error('unit', f'shape {tuple(unit.shape)}', '(B, C, L) with C >= 1')
    with no_autocast(unit):
        (unit,) = widen(unit, name='unit')
        gram = unit @ unit.mT
        return rbf(gram) if kind == 'rbf' else gram


def grouped(flat: Tensor, per: str) -> Tensor:
    """(N, C, L) to (N, C, L) per image or (1, C, N * L) per batch."""
    return flat if per == 'image' else flat.transpose(0, 1).flatten(1).unsqueeze(0)


def centered(flat: Tensor, weight: Tensor | None) -> Tensor:
    """Remove the mean over space, weighted by (B, 1, L), from channels (B, C, L)."""
    if weight is None:
        return flat - flat.mean(-1, keepdim=True)
    total = weight.sum(-1, keepdim=True)
    return flat - (flat * weight).sum(-1, keepdim=True) / torch.where(total == 0, 1, total)


def _unit_rows(vertices: Tensor, kind: str, weight: Tensor | None) -> Tensor:
    if vertices.numel() == 0:
        return vertices
    # The unit vertices do not depend on the scale, so a detached one changes no gradient; it keeps the
    # squares below from overflowing or vanishing.
    peak = vertices.detach().abs().amax((1, 2), keepdim=True)
    vertices = vertices / torch.where(peak > 0, peak, 1)
    raw = vertices
    if kind == 'pearson':
        vertices = centered(vertices, weight)
    if weight is not None:
        empty = weight == 0  # sqrt has no finite slope there
        root = torch.where(empty, 0, torch.where(empty, 1, weight).sqrt())
        vertices, raw = vertices * root, raw * root
    square = vertices.square().sum(-1, keepdim=True)
    with torch.no_grad():
        least = square.amax(1, keepdim=True) * DEAD_RATIO**2
        dead = square <= least
        if kind == 'pearson':
            dead |= square <= raw.square().sum(-1, keepdim=True) * DEAD_RATIO**2
    # Two wheres: the inner one keeps the reciprocal finite, the outer one stops its gradient.
    return torch.where(dead, 0, vertices * torch.where(dead, 1, square).rsqrt())


def rbf(gram: Tensor) -> Tensor:
    """Gaussian affinities from cosines (B, C, C) whose diagonal is 1, or 0 where a channel is dead."""
    channels = gram.shape[-1]
    norms = gram.diagonal(dim1=-2, dim2=-1)
    itself = torch.eye(channels, dtype=torch.bool, device=gram.device)
    live = norms.detach() > 0
    pairs = live.unsqueeze(-1) & live.unsqueeze(-2) & ~itself
    square = (norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * gram).clamp(min=0)
    square = torch.where(pairs, square, 0)
    count = pairs.sum((-2, -1), keepdim=True).clamp(min=1)
    scale = square.sum((-2, -1), keepdim=True) / count
    # All live channels equal: every distance is rounding, every edge is 1.
    flat = scale.detach() <= 8 * torch.finfo(gram.dtype).eps
    ratio = torch.where(flat, 0, square / torch.where(flat, 1, scale))
    return torch.where(pairs, torch.exp(-0.5 * ratio), itself.to(gram.dtype))
