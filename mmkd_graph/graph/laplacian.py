"""From affinities to the normalised graph Laplacian."""

import torch
from torch import Tensor

from .arguments import check_choice, check_integer, check_square
from .precision import no_autocast, widen

ADJACENCY_MODES = ('clamp', 'shift', 'abs')


def adjacency(affinity: Tensor, mode: str = 'clamp', knn: int | None = None) -> Tensor:
    r"""Non-negative edge weights without self-loops.

    The result is exactly symmetric (the affinity is averaged with its transpose first).

    Args:
        affinity: Affinities of shape (B, C, C), in [-1, 1].
        mode: ``'clamp'``: :math:`\max(A, 0)`; ``'shift'``: :math:`(A + 1) / 2`; ``'abs'``: :math:`|A|`. With
            ``'shift'`` unrelated channels, dead ones included, are joined by edges of weight 1/2.
        knn: Keep the edge between i and j only if one of them is among the other's ``knn`` heaviest
            neighbours (ties are all kept, so the choice does not depend on the order of the channels). Which
            edges stay is decided without gradient. ``None``, or a number of at least C - 1, keeps every edge.

    Returns:
        Weights of shape (B, C, C), >= 0, diagonal 0; float32, or float64 for float64 input.

    Raises:
        ValueError: If ``mode`` is unknown, ``knn`` is not a positive integer or the shape does not fit.

    Example:
        >>> import torch
        >>> affinity = torch.tensor([[[1.0, 0.8, -0.4], [0.8, 1.0, 0.2], [-0.4, 0.2, 1.0]]])
        >>> adjacency(affinity)
        tensor([[[0.0000, 0.8000, 0.0000],
                 [0.8000, 0.0000, 0.2000],
                 [0.0000, 0.2000, 0.0000]]])
        >>> adjacency(affinity, 'shift', knn=1)
        tensor([[[0.0000, 0.9000, 0.0000],
                 [0.9000, 0.0000, 0.6000],
                 [0.0000, 0.6000, 0.0000]]])
    """
    check_choice('mode', mode, ADJACENCY_MODES)
    check_square('affinity', affinity)
    if knn is not None:
        check_integer('knn', knn, 1)
    with no_autocast(affinity):
        (affinity,) = widen(affinity, name='affinity')
        weights = (affinity + affinity.mT) / 2
        if mode == 'shift':
            weights = (weights + 1) / 2
        weights = weights.abs() if mode == 'abs' else weights.relu()
        channels = weights.shape[-1]
        drop = torch.eye(channels, dtype=torch.bool, device=weights.device)
        if knn is not None and knn < channels - 1:
            offered = weights.detach().masked_fill(drop, -1)
            least = offered.topk(knn, dim=-1).values[..., -1:]
            near = offered >= least
            drop = drop | ~(near | near.mT)
        return weights.masked_fill(drop, 0)


def normalized_laplacian(weights: Tensor) -> Tensor:
    r"""Symmetric normalised Laplacian :math:`L = I - D^{-1/2} W D^{-1/2}`.

    Its eigenvalues lie in [0, 2], and 0 comes as often as the graph has connected components. An isolated
    vertex has a row of zeros, diagonal included, and so counts as a component (the convention of
    ``scipy.sparse.csgraph.laplacian``). A vertex is isolated if its degree is at most machine epsilon times
    the largest degree of its graph, which is rounding; this also keeps the gradient finite there.

    Args:
        weights: Symmetric weights of shape (B, C, C), >= 0, as :func:`adjacency` gives them. The diagonal is
            ignored. Values are not checked.

    Returns:
        Laplacians of shape (B, C, C), exactly symmetric; float32, or float64 for float64 input.

    Raises:
        ValueError: If the shape does not fit.

    Source: F. Chung, *Spectral Graph Theory*, 1997, chapter 1.

    Example:
        >>> import torch
        >>> weights = torch.tensor([[[0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> normalized_laplacian(weights)
        tensor([[[ 1., -1.,  0.],
                 [-1.,  1.,  0.],
                 [ 0.,  0.,  0.]]])
    """
    check_square('weights', weights)
    with no_autocast(weights):
        (weights,) = widen(weights, name='weights')
        itself = torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
        weights = weights.masked_fill(itself, 0)
        degree = weights.sum(-1)
        with torch.no_grad():
            isolated = degree <= degree.amax(-1, keepdim=True) * torch.finfo(degree.dtype).eps
        root = torch.where(isolated, 0, torch.where(isolated, 1, degree).rsqrt())
        edges = weights * (root.unsqueeze(-1) * root.unsqueeze(-2))
        return torch.diag_embed((~isolated).to(edges.dtype)) - edges
