"""Channel graphs of local windows: their edges and their whole spectrum from matrices as small as a window.

The graph of a whole map does not change when its cells are permuted; the graphs of windows of p × p cells do. A window
of C channels and L = p² cells gives C unit rows ``S̃`` (C × L), one vertex per channel:

- affinities ``A = S̃S̃ᵀ``, cosines between the channels,
- edge weights ``W = (11ᵀ + A) / 2`` in [0, 1], self loops kept (the renormalisation of GCN, arXiv 1609.02907),
- ``M = D^-½ W D^-½`` with the degrees D; ``I - M`` is the normalised Laplacian.

With the roots of the degrees, ``û ∝ D^½ 1`` of length 1, ``M = ûûᵀ + YYᵀ``, where Y (C × L) are the rows, centred and
divided by the roots. û is the trivial eigenvector, of eigenvalue 1, and everything else follows from matrices of L × L,
without one of C × C and without an iterative solver.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, rows * columns, c).mT


class WindowLevels:
    """Which of K windows side by side belongs to which of S maps: every operation is one for all maps.

    Args:
        counts: windows of each map.
        device: where they are. Nothing waits for it.

    Example:
        >>> import torch
        >>> levels = WindowLevels([2, 1], torch.device('cpu'))
        >>> levels.sums(torch.tensor([[1.0, 2.0, 4.0]]))
        tensor([[3., 4.]])
        >>> levels.spread(torch.tensor([[3.0, 4.0]]))
        tensor([[3., 3., 4.]])
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        levels, windows = torch.arange(len(counts)), torch.tensor(counts)
        index = levels.repeat_interleave(windows)
        self.index = index.to(device, non_blocking=True)  # (K,)
        self.member = (index == levels.unsqueeze(1)).to(device, non_blocking=True)  # (S, K)
        self.windows = windows.to(device, non_blocking=True)  # (S,)

    def sums(self, values: Tensor) -> Tensor:
        """(N, S) sums of (N, K) values, or (N, S, C) of (N, K, C). What is not finite in one map makes NaN of all."""
        return (values.unsqueeze(1) * (self.member if values.dim() == 2 else self.member.unsqueeze(-1))).sum(2)

    def largest(self, values: Tensor) -> Tensor:
        """(N, S) maxima of (N, K) values."""
        return values.unsqueeze(1).masked_fill(~self.member, -torch.inf).amax(2)

    def spread(self, values: Tensor) -> Tensor:
        """Each window's value (N, K, …) of values of the maps (N, S, …)."""
        return values.index_select(1, self.index)


@in_full_precision
def unit_rows(windows: Tensor, levels: WindowLevels | None = None) -> Tensor:
    """Rows of length 1; channels without a direction give a zero row and take no gradient.

    Args:
        windows: (N, K, C, L) of :func:`cut_windows`, of features between 1e-15 and 1e15, so that their squares are
            numbers. What is dead is measured by the mean over an image's windows.
        levels: where the windows are those of several maps; then what is dead is measured map by map.

    Returns:
        (N, K, C, L).

    Example:
        >>> import torch
        >>> unit_rows(torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]]]))
        tensor([[[[0.6000, 0.8000],
                  [0.0000, 0.0000]]]])
    """
    energy = windows.square().sum(-1, keepdim=True)
    mean = energy.detach().mean(2)
    if levels is None:
        mean = mean.mean(1, keepdim=True)
    else:
        mean = levels.spread(levels.sums(mean.squeeze(-1)) / levels.windows).unsqueeze(-1)
    least = (DEAD**2 * mean).clamp(min=torch.finfo(mean.dtype).tiny).unsqueeze(-1)
    # NaN stays NaN.
    return windows * (torch.maximum(energy, least).rsqrt() * (energy > least))


@in_full_precision
def window_attention(
    activities: Tensor, valid: Tensor, counts: Tensor, levels: WindowLevels, temperature: float
) -> Tensor:
    """:func:`~mmkd_graph.graph.spatial_attention` of maps that are cut into windows.

    Args:
        activities: (N, K, L) of the cells, >= 0; those of cells that are not valid are 0.
        valid: (N, K, L), 1 for a cell of the image and 0 for padding.
        counts: (N, S) valid cells of each map.
        levels: of the windows.
        temperature: τ > 0, of activities divided by their mean over a map.

    Returns:
        (N, K, L) weights with a mean of 1 over a map's valid cells, 0 elsewhere.

    Example:
        >>> import torch
        >>> activities = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])
        >>> valid = torch.tensor([[[1, 1], [1, 0]]])
        >>> window_attention(activities, valid, torch.tensor([[2, 1]]), WindowLevels([1, 1], torch.device('cpu')), 0.5)
        tensor([[[0.0360, 1.9640],
                 [1.0000, 0.0000]]])
    """
    mean = levels.sums(activities.sum(-1)) / counts
    unit = (temperature * mean).clamp(min=torch.finfo(mean.dtype).tiny)  # of a map of zeros
    scores = activities / levels.spread(unit).unsqueeze(-1)
    weights = (scores - levels.spread(levels.largest(scores.amax(-1))).unsqueeze(-1)).exp() * valid
    return weights * levels.spread(counts / levels.sums(weights.sum(-1))).unsqueeze(-1)


@in_full_precision
def edge_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """How far the affinities of channels are from the teacher's, without a matrix of channels × channels.

    ``‖S̃S̃ᵀ - T̃T̃ᵀ‖²``, from three Gram matrices of cells.

    Args:
        student: (…, C, L) unit rows.
        teacher: (…, C, L') unit rows of the same channels.

    Returns:
        The squared distance >= 0 and the teacher's energy ``‖T̃T̃ᵀ‖²``, both of shape (…).

    Example:
        >>> import torch
        >>> edge_distance(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        (tensor(2.), tensor(4.))
    """
    own, energy, both = _gram(student), _gram(teacher), student.mT @ teacher
    own, energy, both = (x.square().sum((-2, -1)) for x in (own, energy, both))
    # In float32 the identity falls below 0 by rounding where both are nearly equal.
    return (own + energy - 2 * both).clamp(min=0), energy


@in_full_precision
def spectrum(rows: Tensor) -> Spectrum:
    """Every eigenpair that is not 0, from the small matrix; without gradient.

    Args:
        rows: (B, C, L), unit or zero. ``torch.linalg.eigh`` on CUDA is batched for L <= 32.

    Returns:
        See :class:`Spectrum`, with m = L + 1; NaN for graphs that are not finite.

    Example:
        >>> import torch
        >>> values, vectors = spectrum(torch.tensor([[[1.0], [-1.0]]]))
        >>> values.round(decimals=4)
        tensor([[1., 1.]])
    """
    with torch.no_grad():
        trivial, rest = _factor(rows)
        values, small = exact_eigenpairs(rest.mT @ rest)
        values = values.clamp(min=0)
        there = ~(values <= rest.shape[-1] * torch.finfo(rest.dtype).eps)
        scale = torch.where(there, values, 1).rsqrt()
        vectors = torch.where(there.unsqueeze(-2), rest @ (small * scale.unsqueeze(-2)), 0)
        one = trivial.square().sum(-2)
        return Spectrum(torch.cat([values, one], dim=-1), torch.cat([vectors, trivial], dim=-1))


@in_full_precision
def spectral_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """How far the teacher's spectral embedding is from one of the student's graph: ``‖(M_S - M_T) UΛ‖²``.

    U are the teacher's eigenvectors and Λ its eigenvalues but for the trivial pair, which says nothing of the graph:
    the coordinates of its diffusion map after one step. The distance is free of the choice of signs and bases, and no
    eigenvector is computed: it is ``‖(M_S - M_T) Y_T Y_Tᵀ‖²``. It cannot see what the student's graph has outside of
    the space of the teacher's eigenvectors.

    Args:
        student: (…, C, L) unit or zero rows.
        teacher: (…, C, L).

    Returns:
        The squared distance >= 0, and ``‖Λ²‖²``, that of a student without any structure; both of shape
        (…). The latter is 0 within rounding where the teacher's graph has no structure: a constant window.

    Source: spectral embedding, Belkin & Niyogi 2003; diffusion maps, Coifman & Lafon 2006.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> spectral_distance(rows, rows)[0].item()
        0.0
    """
    # With Δ = Y_S - Y_T, G = Y_TᵀY_T, R = ΔᵀY_T, F = G + R and a = Y_Tᵀ(û_S - û_T) is
    # (M_S - M_T) Y_T = û_S aᵀ + Δ F + Y_T R. All follows from small matrices, nothing large is subtracted where both
    # graphs are nearly equal, and û_Sᵀ Y_S = 0 leaves û_SᵀΔ = -aᵀ.
    (student_root, student), (root, teacher) = _factor(student), _factor(teacher)
    delta = student - teacher
    gram, own, moved = teacher.mT @ teacher, _gram(delta), delta.mT @ teacher
    both, away = gram + moved, teacher.mT @ (student_root - root)
    # ‖û_S aᵀ + ΔF + Y_T R‖², each product weighed by G once more.
    squared = (own @ both + 2 * moved @ moved) * (both @ gram) + (gram @ moved) * (moved @ gram)
    trivial = gram @ away
    distance = squared.sum((-2, -1)) + (trivial * (away - 2 * trivial)).sum((-2, -1))
    return distance.clamp(min=0), (gram @ gram).square().sum((-2, -1))


def _factor(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The trivial eigenvector û (…, C, 1) and Y (…, C, L) of M, see the module.

    With ``r = (2 D 1)^-½``, ``m = S̃ᵀ1`` and ``q² = 1ᵀ 2 D 1``, ``û = 1 / (r q)`` and ``Y_i = r_i (S̃_i - c_i m)``, where
    ``c_i = (r_i^-2 + q) / (q (q + C))``: the columns of ``diag(r) [1, S̃]``, reflected so that the first one is û. Every
    degree is at least 1 (C / 2 of a zero row).
    """
    count, mean = rows.shape[-2], rows.sum(-2, keepdim=True)
    twice = count + rows @ mean.mT  # the degrees
    q = twice.sum(-2, keepdim=True).sqrt()
    centred = torch.addcmul(rows, (twice + q) / (q * (q + count)), mean, value=-1)
    return twice.sqrt() / q, centred * twice.rsqrt()


def _gram(rows: Tensor) -> Tensor:
    """XᵀX of (…, C, L), for functions that are symmetric in it: of the two equal gradients one is doubled."""
    product = rows.mT @ rows.detach()
    return 2 * product - product.detach()
