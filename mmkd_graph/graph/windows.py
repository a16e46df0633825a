r"""Channel graphs of local windows: their edges and their whole spectrum from matrices as small as a window.

The graph of a whole map does not change when its cells are permuted; the graphs of windows of p × p cells do. A window
of C channels and L = p² cells gives C unit rows :math:`\tilde S \in R^{C \times L}`, one vertex per channel:

- affinities :math:`A = \tilde S \tilde S^T`, cosines between the channels,
- edge weights :math:`W = (1 1^T + A) / 2` in [0, 1], self loops kept (the renormalisation of GCN, arXiv 1609.02907),
- :math:`M = D^{-1/2} W D^{-1/2}` with the degrees :math:`D`; :math:`I - M` is the normalised Laplacian.

With :math:`B = [1, \tilde S] / \sqrt 2` is :math:`W = B B^T`, so that M has rank L + 1 at most and everything follows
from matrices of (L + 1) × (L + 1), without one of C × C and without an iterative solver.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .arguments import argument_error, check_integer
from .precision import in_full_precision
from .singular import exact_eigenpairs

DEAD = 1e-4
"""A channel whose length in a window is below this share of the mean length has no direction there: a zero row."""


class Spectrum(NamedTuple):
    """Eigenpairs of B graphs.

    Attributes:
        values: (B, m) eigenvalues of M in [0, 1], ascending; those of the normalised Laplacian are 1 - values.
        vectors: (B, C, m), orthonormal columns where the value is not 0 within rounding, else zero.

    Example:
        >>> import torch
        >>> Spectrum(torch.zeros(1, 1), torch.ones(1, 3, 1)).vectors.shape
        torch.Size([1, 3, 1])
    """

    values: Tensor
    vectors: Tensor


@in_full_precision
def cut_windows(features: Tensor, size: int) -> Tensor:
    """Cut maps into windows of ``size`` × ``size`` cells, from the top left; maps that are smaller stay whole.

    Args:
        features: (N, C, H, W).
        size: cells per side, >= 1.

    Returns:
        (N, K, C, L): K windows of L cells; zeros fill up the last ones where ``size`` does not divide the sides.

    Raises:
        ValueError: if an argument is out of range or the shape does not fit.

    Example:
        >>> import torch
        >>> cut_windows(torch.arange(6.0).reshape(1, 1, 2, 3), 2)[0, :, 0]
        tensor([[0., 1., 3., 4.],
                [2., 0., 5., 0.]])
    """
    check_integer('size', size, 1)
    if features.dim() != 4 or 0 in features.shape[1:]:
        raise argument_error('features', f'shape {tuple(features.shape)}', '(N, C, H, W), not empty')
    n, c, h, w = features.shape
    rows, columns = min(size, h), min(size, w)
    if h % rows or w % columns:
        features = F.pad(features, (0, -w % columns, 0, -h % rows))
    grid = features.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # N, C, windows, rows, windows, columns
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, c, rows * columns)


@in_full_precision
def unit_rows(windows: Tensor) -> Tensor:
    """Rows of length 1; channels without a direction give a zero row and take no gradient.

    Args:
        windows: (N, K, C, L) of :func:`cut_windows`, of features between 1e-15 and 1e15, so that their squares are
            numbers. What is dead is measured by the mean over an image's windows.

    Returns:
        (N, K, C, L).

    Example:
        >>> import torch
        >>> unit_rows(torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]]]))
        tensor([[[[0.6000, 0.8000],
                  [0.0000, 0.0000]]]])
    """
    length = torch.linalg.vector_norm(windows, dim=-1, keepdim=True)
    least = DEAD * length.detach().square().mean((1, 2), keepdim=True).sqrt()
    alive = ~(length <= least)  # NaN is to stay NaN
    return windows * torch.where(alive, torch.where(alive, length, 1).reciprocal(), 0)


@in_full_precision
def edge_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    r"""How far the affinities of channels are from the teacher's, without a matrix of channels × channels.

    :math:`|\tilde S \tilde S^T - \tilde T \tilde T^T|^2`, from three Gram matrices of cells.

    Args:
        student: (…, C, L) unit rows.
        teacher: (…, C, L') unit rows of the same channels.

    Returns:
        The squared distance >= 0 and the teacher's energy :math:`|\tilde T \tilde T^T|^2`, both of shape (…).

    Example:
        >>> import torch
        >>> edge_distance(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        (tensor(2.), tensor(4.))
    """
    energy = _energy(teacher)
    # In float32 the identity falls below 0 by rounding where both are nearly equal.
    return (_energy(student) + energy - 2 * (student.mT @ teacher).square().sum((-2, -1))).clamp(min=0), energy


@in_full_precision
def graph_factor(rows: Tensor) -> Tensor:
    r"""The matrix :math:`\hat B` with :math:`M = \hat B \hat B^T`, see the module.

    Args:
        rows: (…, C, L) unit or zero rows. Every degree is at least 1 (C / 2 of a zero row).

    Returns:
        (…, C, L + 1).

    Example:
        >>> import torch
        >>> b = graph_factor(torch.tensor([[1.0], [-1.0]]))
        >>> b @ b.mT  # two channels that are each other's negative: no edge between them
        tensor([[1.0000, 0.0000],
                [0.0000, 1.0000]])
    """
    twice = rows.shape[-2] + rows @ rows.sum(-2, keepdim=True).mT  # the degrees
    root = twice.rsqrt()
    return torch.cat([root, rows * root], dim=-1)


@in_full_precision
def spectrum(factor: Tensor) -> Spectrum:
    """Every eigenpair that is not 0, from the small matrix; without gradient.

    Args:
        factor: (B, C, m) of :func:`graph_factor`. ``torch.linalg.eigh`` on CUDA is batched for m <= 32.

    Returns:
        See :class:`Spectrum`; NaN for graphs that are not finite.

    Example:
        >>> import torch
        >>> values, vectors = spectrum(graph_factor(torch.tensor([[[1.0], [-1.0]]])))
        >>> values.round(decimals=4)
        tensor([[1., 1.]])
    """
    with torch.no_grad():
        values, small = exact_eigenpairs(factor.mT @ factor)
        values = values.clamp(min=0)
        there = ~(values <= factor.shape[-1] * torch.finfo(factor.dtype).eps)
        scale = torch.where(there, values, 1).rsqrt()
        return Spectrum(values, torch.where(there.unsqueeze(-2), factor @ (small * scale.unsqueeze(-2)), 0))


@in_full_precision
def spectral_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    r"""How far the teacher's spectral embedding is from one of the student's graph: :math:`|(M_S - M_T) U \Lambda|^2`.

    U are the teacher's eigenvectors and :math:`\Lambda` its eigenvalues but for the trivial pair (eigenvalue 1, the
    roots of the degrees), which says nothing of the graph: the coordinates of its diffusion map after one step. The
    distance is free of the choice of signs and bases, and no eigenvector is computed: with the trivial pair taken out
    of :math:`\hat B_T`, it is :math:`|(M_S - M_T) M'_T|^2`. It cannot see what the student's graph has outside of the
    space of the teacher's eigenvectors.

    Args:
        student: (…, C, m) of :func:`graph_factor`.
        teacher: (…, C, m).

    Returns:
        The squared distance >= 0, and :math:`|\Lambda^2|^2`, that of a student without any structure; both of shape
        (…). The latter is 0 within rounding where the teacher's graph has no structure: a constant window.

    Source: spectral embedding, Belkin & Niyogi 2003; diffusion maps, Coifman & Lafon 2006.

    Example:
        >>> import torch
        >>> b = graph_factor(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        >>> spectral_distance(b, b)[0].item() < 1e-12
        True
    """
    # û = D^½ 1 / |D^½ 1| is B̂ v with v = B̂ᵀ û, X = B̂_T - û vᵀ has the other eigenpairs, and wanted is
    # |(M_S - M_T) X Xᵀ|². With Δ = B̂_S - B̂_T is (M_S - M_T) X = Δ (B̂_Sᵀ X) + B̂_T (Δᵀ X): all follows from small
    # matrices, and nothing large is subtracted where both graphs are nearly equal. B̂'s first column is D^-½ / √2.
    root = F.normalize(teacher[..., :1].reciprocal(), dim=-2)
    delta = student - teacher
    v, w = teacher.mT @ root, delta.mT @ root
    gram, both, own = teacher.mT @ teacher, delta.mT @ teacher, delta.mT @ delta
    rest, moved = gram - v * v.mT, both - w * v.mT  # B̂_Tᵀ X = Xᵀ X, and Δᵀ X
    student = rest + moved
    squared = student.mT @ own @ student + 2 * student.mT @ both @ moved + moved.mT @ gram @ moved
    return (squared * rest).sum((-2, -1)).clamp(min=0), _energy(rest)


def _energy(rows: Tensor) -> Tensor:
    """|X Xᵀ|² of (…, C, L) by way of the smaller Gram matrix."""
    return (rows.mT @ rows).square().sum((-2, -1))
