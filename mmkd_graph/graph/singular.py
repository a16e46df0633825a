"""Leading right singular vectors of feature maps, with a fixed sign and gradients that stay finite."""

import math

import torch
from torch import Tensor

from .arguments import argument_error, check_integer, check_number
from .precision import in_full_precision

# A singular value below 1e-3 of the largest is, squared, within rounding of zero in float32: no direction of its own.
DEAD_RATIO = 1e-6


@in_full_precision
def leading_vectors(maps: Tensor, k: int = 1, damping: float = 1e-2) -> Tensor:
    """The k leading right singular vectors of each map, read as a matrix of L = H·W cells and C channels.

    Each points to the side of most cells (the sum of its products with them is not negative), so nothing depends on
    the sign that the solver happens to give. A vector whose singular value is below 1e-3 of the largest is zero and
    passes no gradient, as are all of a map of zeros. A map with a value that is not finite gives NaN.

    The vectors come from the eigenvectors of the L × L inner products of the cells, without gradient. The gradient is
    that of first-order perturbation, ``dv_i = Σ_j v_j v_jᵀ d(XᵀX) v_i / (λ_i - λ_j)`` with all j other than i, those of
    eigenvalue 0 too, and with gap / (gap² + (damping · λ₁)²) in place of 1 / gap: bounded, and 0 between equal
    eigenvalues. Autograd through ``svd`` would divide by those gaps.

    Args:
        maps: (B, C, H, W) or (B, C, L). ``torch.linalg.eigh`` on CUDA is batched for up to 32 cells and a loop above.
        k: number of vectors; at most min(C, L) are there, and that many are returned if k is larger.
        damping: >= 0, in the unit of the largest eigenvalue. With 0 the gradient is exact; equal eigenvalues are left
            out of it.

    Returns:
        (B, k, C), rows of unit length or zero; float32, or float64 for float64 input. Derivatives of the gradient
        are not those of the function.

    Raises:
        ValueError: If ``k`` or ``damping`` is out of range or the shape does not fit.

    Source: the compression of feature maps in KD-SVD (Lee, Kim, Song, ECCV 2018), used by MHGD, arXiv 1907.02226.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[3.0, 3.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, -1.0]]])  # 3 channels, 3 cells
        >>> leading_vectors(maps, k=2).round(decimals=4)
        tensor([[[ 0.6000,  0.8000,  0.0000],
                 [ 0.0000,  0.0000, -1.0000]]])
    """
    check_integer('k', k, 1)
    check_number('damping', damping)
    if maps.dim() not in (3, 4) or 0 in maps.shape[1:]:
        raise argument_error('maps', f'shape {tuple(maps.shape)}', '(B, C, H, W) or (B, C, L), not empty')
    cells = maps.flatten(2).mT
    if not len(cells):
        return cells[:, :k]
    # The vectors do not depend on the scale, so a detached one changes no gradient.
    peak = cells.detach().abs().amax((1, 2), keepdim=True)
    finite = peak.isfinite()
    cells = torch.where(finite, cells / torch.where(peak > 0, peak, 1), 0)
    fixed = cells.detach()
    values, left = exact_eigenpairs(fixed @ fixed.mT)
    values, left = values.flip(1), left.flip(2)
    k = min(k, *fixed.shape[1:])
    top = torch.where(values[:, :1] > 0, values[:, :1], 1)
    live = values > DEAD_RATIO * top
    vectors = torch.where(live[:, None, :k], fixed.mT @ left[..., :k], 0)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    vectors = torch.where((fixed @ vectors).sum(1, keepdim=True) < 0, -vectors, vectors)
    vectors = torch.where(finite, vectors, torch.nan)
    if not cells.requires_grad or not torch.is_grad_enabled():
        return vectors.mT
    change = cells.mT @ (cells @ vectors)
    change = change - change.detach()  # zero; its gradient is that of d(XᵀX) vᵢ
    edge = (damping * top).square().unsqueeze(1)
    own = values[:, None, :k]
    null = torch.where(live[:, None, :k], _damped(own, edge), 0)
    known = torch.where(live[:, None, :k], _damped(own - values.unsqueeze(2), edge), 0)
    share = torch.where(live.unsqueeze(2), (known - null) / torch.where(live, values, 1).unsqueeze(2), 0)
    along = fixed.mT @ (left @ (share * (left.mT @ (fixed @ change))))
    return (vectors + null * change + along).mT


def align_vectors(student: Tensor, teacher: Tensor) -> Tensor:
    """Of each sample's student vectors the one with the largest absolute cosine to the teacher's, with its sign.

    Args:
        student: (B, k, C), rows of unit length or zero.
        teacher: (B, C), rows of unit length or zero. Passes no gradient.

    Returns:
        (B, C).

    Raises:
        ValueError: If the shapes do not fit.

    Source: MHGD, arXiv 1907.02226.

    Example:
        >>> import torch
        >>> align_vectors(torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]]), torch.tensor([[0.8, 0.6]]))
        tensor([[1., -0.]])
    """
    if student.dim() != 3 or student.shape[1] == 0 or (student[:, 0].shape != teacher.shape):
        given = f'shapes {tuple(student.shape)} and {tuple(teacher.shape)}'
        raise argument_error('student, teacher', given, '(B, k, C) and (B, C)')
    cosine = (student.detach() @ teacher.detach().unsqueeze(2)).squeeze(2)
    best = cosine.abs().argmax(dim=1, keepdim=True)
    sign = torch.where(cosine.gather(1, best) < 0, -1, 1)
    return sign * student.take_along_dim(best.unsqueeze(2), dim=1).squeeze(1)


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


def _damped(gap: Tensor, edge: Tensor) -> Tensor:
    """gap / (gap² + edge), 0 where both are 0."""
    square = gap.square() + edge
    return torch.where(square > 0, gap / torch.where(square > 0, square, 1), 0)
