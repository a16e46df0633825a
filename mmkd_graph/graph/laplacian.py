"""From affinities to the normalised graph Laplacian."""

import torch
from torch import Tensor

from .arguments import argument_error, check_choice, check_integer, check_square
from .precision import no_autocast, widen

ADJACENCY_MODES = ('clamp', 'shift', 'abs')


def adjacency(affinity: Tensor, mode: str = 'clamp', knn: int | None = None) -> Tensor:
    r"""Non-negative edge weights without self-loops.

    Args:
        affinity: Symmetric affinities of shape (B, C, C), in [-1, 1]. The result is as symmetric as they are.
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
        weights = (affinity + 1) / 2 if mode == 'shift' else affinity
        weights = weights.abs() if mode == 'abs' else weights.relu()
        channels = weights.shape[-1]
        itself = torch.eye(channels, dtype=torch.bool, device=weights.device)
        keep = ~itself
        if knn is not None and knn < channels - 1:
            offered = weights.detach().masked_fill(itself, -1)
            least = offered.topk(knn, dim=-1).values[..., -1:]
            near = offered >= least
            keep = keep & (near | near.mT)
        return weights * keep.to(weights.dtype)


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
        Laplacians of shape (B, C, C), as symmetric as the weights; float32, or float64 for float64 input.

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
        live, root = _inverse_root_degree(weights)
        edges = weights * (root.unsqueeze(-1) * root.unsqueeze(-2))
        return torch.diag_embed(live) - edges


def laplacian_product(weights: Tensor, block: Tensor) -> Tensor:
    r"""The Laplacian of :func:`normalized_laplacian` times a few vectors, without forming it.

    For a block of few columns this, and its gradient, costs a fraction of the passes over (B, C, C) tensors.

    Args:
        weights: Symmetric weights of shape (B, C, C), >= 0, with a diagonal of zeros, as :func:`adjacency` gives them.
        block: Vectors of shape (B, C, k), as columns.

    Returns:
        Tensor of shape (B, C, k); float32, or float64 if one of both is.

    Raises:
        ValueError: If a shape does not fit.

    Example:
        >>> import torch
        >>> weights = torch.tensor([[[0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> laplacian_product(weights, torch.tensor([[[1.0], [0.0], [5.0]]]))
        tensor([[[ 1.],
                 [-1.],
                 [ 0.]]])
    """
    check_square('weights', weights)
    if block.dim() != 3 or block.shape[:2] != weights.shape[:2]:
        accepted = f'({weights.shape[0]}, {weights.shape[1]}, k)'
        raise argument_error('block', f'shape {tuple(block.shape)}', accepted)
    with no_autocast(weights):
        weights, block = widen(weights, block, name='weights, block')
        live, root = (x.unsqueeze(-1) for x in _inverse_root_degree(weights))
        return live * block - root * (weights @ (root * block))


def _inverse_root_degree(weights: Tensor) -> tuple[Tensor, Tensor]:
    """1 where a vertex has edges and 0 where not, and degree ** -0.5 or 0; both (B, C)."""
    degree = weights.sum(-1)
    with torch.no_grad():
        isolated = degree <= degree.amax(-1, keepdim=True) * torch.finfo(degree.dtype).eps
    root = torch.where(isolated, 0, torch.where(isolated, 1, degree).rsqrt())
    return (~isolated).to(degree.dtype), root
