"""Eigensolvers for the smallest eigenvalues of normalised Laplacians. Nothing here is differentiated."""

import math

import torch
from torch import Tensor

# The Rayleigh-Ritz step decomposes blocks of at most this size: torch.linalg.eigh on CUDA is batched up to
# 32 x 32 and a sequential loop above.
MAX_BLOCK = 32
OVERSAMPLE = 16
MIN_OVERSAMPLE = 4
MAX_SUBSPACE_RANK = MAX_BLOCK - MIN_OVERSAMPLE
COLD_ROUNDS = 2
WARM_ROUNDS = 1
DEGREE = 6
# Share of independent columns in every block: above what float64 needs, below what float32 resolves.
TRACE = 1e-7


def exact_eigenpairs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """All eigenpairs, ascending, by ``torch.linalg.eigh``; NaN for a matrix that is not finite.

    In float32 LAPACK may give NaN for a finite matrix whose eigenvalues but one are next to nothing; such a matrix is
    solved again in float64.

    Args:
        matrix: Symmetric matrices of shape (B, C, C).

    Returns:
        Eigenvalues (B, C) and eigenvectors (B, C, C), as columns.

    Example:
        >>> import torch
        >>> exact_eigenpairs(torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]]))[0].abs().round(decimals=4)
        tensor([[0., 2.]])
    """
    symmetric = (matrix + matrix.mT) / 2
    bad = ~symmetric.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    # LAPACK raises on such matrices; in training, overflow should stay a NaN that a gradient scaler skips.
    values, vectors = torch.linalg.eigh(torch.where(bad, identity, symmetric))
    lost = ~(bad[:, 0, 0] | (values.isfinite().all(-1) & vectors.isfinite().flatten(1).all(-1)))
    if lost.any():
        again = torch.linalg.eigh(symmetric[lost].double())
        values, vectors = (x.index_put((lost,), y.to(x)) for x, y in zip((values, vectors), again, strict=True))
    return values.masked_fill(bad[:, 0], math.nan), vectors.masked_fill(bad, math.nan)


def subspace_eigenpairs(
    matrix: Tensor, rank: int, start: Tensor | None = None, rounds: int | None = None, degree: int = DEGREE
) -> tuple[Tensor, Tensor]:
    """The ``rank`` smallest eigenpairs, ascending, by Chebyshev-filtered subspace iteration.

    Each round applies to a block of vectors a Chebyshev polynomial that is small on the unwanted part of the
    spectrum, orthogonalises the block and rotates it to its Ritz vectors. The unwanted part begins at
    the largest Ritz value of the round before. It ends at a bound that the Frobenius norm gives: what the
    squares of the eigenvalues of ``I - L`` leave over after the Ritz values found so far. All of it stays on
    the device.

    Args:
        matrix: Symmetric matrices of shape (B, C, C) with eigenvalues in [0, 2].
        rank: Number of eigenpairs, at most :data:`MAX_SUBSPACE_RANK`; C must be larger than 32.
        start: Optional first guess (B, C, m) of any m >= 1, for example the eigenvectors of the step before.
            The block is filled up with fixed pseudo-random vectors, which are the whole block without
            ``start``.
        rounds: Number of rounds; by default 2, or 1 with ``start``.
        degree: Degree of the polynomial: multiplications with the matrix per round.

    Returns:
        Eigenvalues (B, rank) and eigenvectors (B, C, rank), as columns; NaN for a matrix that is not finite.

    Source: Y. Zhou, Y. Saad, M. L. Tiago, J. R. Chelikowsky, *Self-consistent-field calculations using
        Chebyshev-filtered subspace iteration*, J. Comput. Phys. 219 (2006).

    Example:
        >>> import torch
        >>> matrix = torch.diag(torch.linspace(0, 2, 64)).unsqueeze(0)
        >>> values, vectors = subspace_eigenpairs(matrix, 2, rounds=8)
        >>> values.round(decimals=3)
        tensor([[0.0000, 0.0320]])
    """
    if rounds is None:
        rounds = COLD_ROUNDS if start is None else WARM_ROUNDS
    graphs, size, _ = matrix.shape
    block = min(MAX_BLOCK, rank + OVERSAMPLE)
    generator = torch.Generator().manual_seed(20240508)
    spare = torch.randn(size, block, generator=generator, dtype=torch.float64).to(matrix.device, non_blocking=True)
    vectors = spare.to(matrix.dtype).expand(graphs, -1, -1)
    if start is None:
        # Nothing is known of the spectrum yet: plain powers of I - L, whose bulk lies around 0.
        for step in range(degree):
            if step == degree // 2:  # else the trivial vector would drown the others in rounding
                vectors = _orthonormal(vectors, spare)
            vectors = torch.baddbmm(vectors, matrix, vectors, alpha=-1)
        rounds -= 1
    else:
        # A graph that was not finite in the step before must not spoil this one.
        start = torch.nan_to_num(start.to(matrix.dtype)[..., :block], posinf=0, neginf=0)
        vectors = torch.cat([start, vectors[..., start.shape[-1] :]], dim=-1)
    # The squares of the eigenvalues of I - L add up to this; the last term is for rounding.
    square = torch.linalg.vector_norm(matrix, dim=(-2, -1)).square()
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    energy = square - 2 * trace + size + size * torch.finfo(matrix.dtype).eps * 8
    steepest = _steepest(degree, matrix.dtype)

    values, vectors, images = _rayleigh_ritz(matrix, vectors, spare)
    for _ in range(rounds):
        lower = values[:, -1].clamp(min=1e-3)
        rest = energy - (1 - values).clamp(min=0).square().sum(-1)
        upper = (1 + rest.clamp(min=0).sqrt()).clamp(max=2)
        # Steeper filters would leave nothing of the block but its first vector in this precision.
        upper = torch.maximum(upper, lower * ((steepest + 1) / (steepest - 1)))
        vectors = _chebyshev(matrix, vectors, images, lower.view(-1, 1, 1), upper.view(-1, 1, 1), degree)
        values, vectors, images = _rayleigh_ritz(matrix, vectors, spare)
    return values[:, :rank], vectors[..., :rank]


def _steepest(degree: int, dtype: torch.dtype) -> float:
    """Argument at which the Chebyshev polynomial of this degree reaches the largest useful amplification."""
    amplification = torch.finfo(dtype).eps ** -1.4
    return math.cosh(math.acosh(amplification) / degree)


def _chebyshev(matrix: Tensor, block: Tensor, images: Tensor, lower: Tensor, upper: Tensor, degree: int) -> Tensor:
    """Multiple of a Chebyshev polynomial of the matrix, small on [lower, upper], times the block.

    ``images`` is the matrix times the block. The n-th polynomial is scaled by half the interval's half-width
    to the n, which makes the recurrence one product and one sum; the length of the columns does not matter.
    """
    center, quarter = (upper + lower) / 2, ((upper - lower) / 4).square()
    before, now = block, (images - center * block) / 2
    for _ in range(degree - 1):
        before, now = now, torch.baddbmm(torch.addcmul(center * now, quarter, before), matrix, now, beta=-1)
    return now


def _rayleigh_ritz(matrix: Tensor, block: Tensor, spare: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values and vectors of the span of the block, and the matrix times these vectors."""
    basis = _orthonormal(block, spare)
    images = matrix @ basis
    values, rotation = exact_eigenpairs(basis.mT @ images)
    return values, basis @ rotation, images @ rotation


def _orthonormal(block: Tensor, spare: Tensor) -> Tensor:
    """Orthonormal basis (B, C, m) of the span of a block, by a Cholesky factor of its Gram matrix in float64.

    That is matrix products, where Householder's QR is a loop over columns, on the GPU even over matrices. Where a graph
    has fewer distinct eigenvalues than the block has columns, filtered columns depend on each other; a trace of
    ``spare``, independent columns of the same shape, completes the basis there, as rounding does in QR.
    """
    length = torch.linalg.vector_norm(block, dim=-2, keepdim=True)
    wide = (block / length.clamp(min=torch.finfo(block.dtype).tiny)).double() + TRACE * spare
    factor = torch.linalg.cholesky_ex(wide.mT @ wide, upper=True).L
    return torch.linalg.solve_triangular(factor, wide, upper=True, left=False).to(block.dtype)
