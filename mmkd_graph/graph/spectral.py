"""Spectral embeddings of channel graphs, gauge-free distances between them, and their gradients.

Eigenvectors have arbitrary signs, and arbitrary rotations inside repeated eigenvalues, so nothing here
compares them entry by entry. ``laplacian_s`` and ``laplacian_t`` belong to student and teacher; the teacher's
passes no gradient.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import (
    argument_error,
    check_choice,
    check_integer,
    check_number,
    check_same_shape,
    check_square,
)
from .laplacian import laplacian_product
from .precision import no_autocast, widen
from .solvers import DEGREE, MAX_BLOCK, MAX_SUBSPACE_RANK, exact_eigenpairs, subspace_eigenpairs

SOLVERS = ('exact', 'subspace')
CG_ITERATIONS = 16
LEAST_SPREAD = 1e-3
"""Spread of eigenvalues below which :func:`residual_distance` no longer tells a taper from rounding."""


class Spectrum(NamedTuple):
    """Part of the eigendecomposition of a batch of Laplacians.

    Attributes:
        values: Eigenvalues of shape (B, k), ascending.
        vectors: Orthonormal eigenvectors of shape (B, C, k), as columns.

    Example:
        >>> import torch
        >>> Spectrum(torch.zeros(1, 1), torch.ones(1, 1, 1)).values.shape
        torch.Size([1, 1])
    """

    values: Tensor
    vectors: Tensor


@torch.no_grad()
def spectral_embedding(
    laplacian: Tensor,
    k: int,
    solver: str = 'exact',
    skip_trivial: bool = False,
    start: Tensor | None = None,
    rounds: int | None = None,
    degree: int = DEGREE,
) -> Spectrum:
    """Eigenvectors of the ``k`` smallest eigenvalues. Passes no gradient.

    Where the eigenvalues number k and k + 1 are equal, the span of the first k eigenvectors is undefined: any
    choice is as good as another, and two solvers need not agree. Choose k at a gap, or let
    :func:`residual_distance` taper the embedding, so that the end of the list does not matter.

    Args:
        laplacian: Symmetric Laplacians of shape (B, C, C), eigenvalues in [0, 2].
        k: Number of eigenpairs. At most C are there (C - 1 with ``skip_trivial``), and that many are returned
            if k is larger. A single channel has nothing but its trivial vector, which is then kept.
        solver: ``'exact'``: ``torch.linalg.eigh``. ``'subspace'``: Chebyshev-filtered subspace iteration with
            Rayleigh-Ritz steps of at most 32 x 32, made for larger C on the GPU, where ``eigh`` is not
            batched; its accuracy depends on the gap after k, ``rounds`` and ``degree``. With C <= 32 both are
            exact.
        skip_trivial: Leave out the first eigenvector (eigenvalue 0). On a graph of several connected
            components it is an arbitrary one out of those with eigenvalue 0, and the span of the others is
            then undefined.
        start: For ``'subspace'``: first guess (B, C, m), m >= 1, such as the eigenvectors of the step before;
            the more of them beyond k (up to k + 16 are used, at most 32), the better. Without it the
            iteration starts from fixed pseudo-random vectors; the global generator is not used.
        rounds: For ``'subspace'``: number of rounds; by default 2, or 1 with ``start``.
        degree: For ``'subspace'``: multiplications with the Laplacian per round.

    Returns:
        :class:`Spectrum` of float32, or float64 for a float64 Laplacian. NaN for graphs that are not finite.

    Raises:
        ValueError: If an argument is out of range, or k is more than 28 (27 with ``skip_trivial``) for
            ``'subspace'`` on more than 32 channels.

    Source: M. Belkin, P. Niyogi, *Laplacian eigenmaps*, Neural Computation 15 (2003), with the normalised
    Laplacian.

    Example:
        >>> import torch
        >>> laplacian = torch.tensor([[[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> spectrum = spectral_embedding(laplacian, k=2)  # two connected components
        >>> spectrum.values.abs().round(decimals=4)
        tensor([[0., 0.]])
        >>> spectrum.vectors.shape
        torch.Size([1, 3, 2])
    """
    check_square('laplacian', laplacian)
    channels = laplacian.shape[-1]
    _check_solver(laplacian.shape, k, solver, skip_trivial, start, rounds, degree)
    with no_autocast(laplacian):
        (laplacian,) = widen(laplacian, name='laplacian')
        skip, kept = _kept(channels, k, skip_trivial)
        values, vectors = _smallest(laplacian, skip + kept, solver, start, rounds, degree)
        return Spectrum(values[:, skip : skip + kept], vectors[..., skip : skip + kept])


def spectral_projector(
    laplacian: Tensor,
    k: int,
    diffusion_time: float = 0.0,
    solver: str = 'exact',
    damping: float = 1e-3,
    skip_trivial: bool = False,
    start: Tensor | None = None,
    rounds: int | None = None,
    degree: int = DEGREE,
    cg_iterations: int = CG_ITERATIONS,
) -> Tensor:
    r"""Differentiable projector :math:`P = U_k\,\mathrm{diag}(e^{-t\lambda})\,U_k^T` on the embedding.

    P is the same for every sign and rotation of the eigenvectors. Its gradient follows Daleckii and Krein: in
    the basis of the eigenvectors each entry of the incoming gradient is multiplied by a divided difference of
    :math:`f(\lambda) = e^{-t\lambda}` on the kept eigenvalues, 0 on the dropped ones. Only gaps between kept
    and dropped eigenvalues stand in a denominator, and they are damped; equal kept eigenvalues have the limit
    :math:`f'(\lambda)`. Autograd through ``eigh`` would divide by every gap.

    Args:
        laplacian: Symmetric Laplacians of shape (B, C, C), eigenvalues in [0, 2].
        k: Number of eigenpairs, see :func:`spectral_embedding`. With k >= C and t = 0, P is the identity
            whatever the graph.
        diffusion_time: t >= 0. The diffusion map's weights; 0 gives the orthogonal projector.
        solver: ``'exact'`` or ``'subspace'``, see :func:`spectral_embedding`. The subspace solver does not
            know the dropped eigenvectors; its gradient solves for their part with conjugate gradients.
        damping: Added to each gap between a kept and a dropped eigenvalue, >= 0, in the unit of the
            eigenvalues. It bounds the gradient by 1 / damping. With 0 the gradient is exact; pairs without
            any gap are left out.
        skip_trivial: Leave out the first eigenvector.
        start: First guess for ``'subspace'``.
        rounds: Number of rounds for ``'subspace'``.
        degree: Degree of the polynomial for ``'subspace'``.
        cg_iterations: Steps of conjugate gradients in the backward pass of ``'subspace'``.

    Returns:
        Tensor of shape (B, C, C), symmetric, rank min(k, C); float32, or float64 for a float64 Laplacian.

    Raises:
        ValueError: As :func:`spectral_embedding`; also if ``diffusion_time`` or ``damping`` is negative.

    Source: Daleckii & Krein (1965); N. J. Higham, *Functions of Matrices*, 2008, chapter 3.

    Example:
        >>> import torch
        >>> laplacian = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
        >>> spectral_projector(laplacian, k=1)
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    check_square('laplacian', laplacian)
    _check_solver(laplacian.shape, k, solver, skip_trivial, start, rounds, degree)
    check_number('diffusion_time', diffusion_time)
    check_number('damping', damping)
    check_integer('cg_iterations', cg_iterations, 1)
    with no_autocast(laplacian):
        (laplacian,) = widen(laplacian, name='laplacian')
        return _SpectralProjector.apply(
            laplacian, k, diffusion_time, solver, damping, skip_trivial, start, rounds, degree, cg_iterations
        )


def projection_distance(
    laplacian_s: Tensor,
    laplacian_t: Tensor,
    k: int,
    diffusion_time: float = 0.0,
    solver: str = 'exact',
    damping: float = 1e-3,
    skip_trivial: bool = False,
) -> Tensor:
    r"""Distance of two spectral embeddings as subspaces: :math:`\frac{1}{2k}\|P_T - P_S\|_F^2`.

    With t = 0 this is :math:`1 - \|U_T^T U_S\|_F^2 / k`, in [0, 1], the mean squared sine of the angles
    between the subspaces. It sees *which* vectors are embedded, and with t > 0 also their eigenvalues. It
    does not see the eigenvalues at t = 0, nor anything of the eigenvectors after k. Where there is no gap
    after k it jumps.

    Args:
        laplacian_s: Student's Laplacians, (B, C, C). Gradient flows through them only.
        laplacian_t: Teacher's Laplacians, (B, C, C).
        k: Number of eigenpairs; the distance is divided by the number that there are, min(k, C).
        diffusion_time: t >= 0, see :func:`spectral_projector`.
        solver: ``'exact'`` or ``'subspace'``.
        damping: Damping of the gaps in the gradient.
        skip_trivial: Leave out the first eigenvector.

    Returns:
        Distances of shape (B,), without unit.

    Raises:
        ValueError: As :func:`spectral_projector`; also if the shapes differ.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> teacher = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]]])
        >>> projection_distance(student, teacher, k=2)  # |u_T u_S|^2 = 1/4 for the dropped vectors
        tensor([0.3750])
    """
    check_square('laplacian_s', laplacian_s)
    check_same_shape('laplacian_t', laplacian_t, 'laplacian_s', laplacian_s)
    laplacian_s, laplacian_t = widen(laplacian_s, laplacian_t.detach(), name='laplacian_s, laplacian_t')
    projector_s = spectral_projector(laplacian_s, k, diffusion_time, solver, damping, skip_trivial)
    projector_t = spectral_projector(laplacian_t, k, diffusion_time, solver, damping, skip_trivial)
    kept = _kept(laplacian_s.shape[-1], k, skip_trivial)[1]
    return 0.5 * (projector_t - projector_s).square().sum((-2, -1)) / kept


def residual_distance(
    laplacian_s: Tensor,
    laplacian_t: Tensor,
    spectrum_t: Spectrum,
    diffusion_time: float = 0.0,
    taper: bool = False,
) -> Tensor:
    r"""How far the teacher's embedding is from embedding the student's graph.

    .. math:: \|(L_S - L_T)\,U_T\,\mathrm{diag}(w)\|_F^2 / k,
        \quad w_i = e^{-t\lambda_i}\,\frac{\lambda_{k+1} - \lambda_i}{\lambda_{k+1} - \lambda_1}

    The fraction is there with ``taper`` only. A weight that falls to 0 at the first eigenvalue left out makes the
    distance a continuous function of both graphs: it is the same whichever eigenvectors a solver returns where
    eigenvalues repeat across k, as they do on levels of one or two cells, and no gap after k is needed.

    Since :math:`L_T U_T = U_T \Lambda_T`, this is the residual of the teacher's eigenpairs in the student's
    eigenproblem. Only the teacher is decomposed. The distance is quadratic in :math:`L_S`, so the gradient is
    one matrix product: no eigensolver on the student's side, no gap in a denominator, finite everywhere.

    It is 0 exactly if the teacher's eigenpairs are eigenpairs of the student; by Davis and Kahan's theorem a
    small value bounds the angle to *an* invariant subspace of the student with about these eigenvalues. It
    sees eigenvalues as well as vectors. It does not see what the student does outside the teacher's
    embedding: an extra small eigenvalue there puts another vector among the student's first k, and the
    subspaces may then be as far apart as :func:`projection_distance` can tell while this distance is 0.
    :func:`heat_distance` has no such freedom.

    Args:
        laplacian_s: Student's Laplacians, (B, C, C). Gradient flows through them only.
        laplacian_t: Teacher's Laplacians, (B, C, C).
        spectrum_t: Teacher's eigenpairs, from :func:`spectral_embedding`: k of them, or k + 1 with ``taper``.
        diffusion_time: t >= 0; weights that favour the small eigenvalues.
        taper: The last eigenpair is the first that is left out. A spread of the eigenvalues below 1e-3 counts as
            1e-3, so that equal ones have weight 0 and not that of their rounding.

    Returns:
        Distances of shape (B,), without unit.

    Raises:
        ValueError: If shapes do not fit, ``diffusion_time`` is negative, or there is but one eigenpair to taper.

    Source: the residual bound of C. Davis, W. M. Kahan, *The rotation of eigenvectors by a perturbation III*,
    1970.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
        >>> spectrum = spectral_embedding(teacher, k=1)
        >>> residual_distance(torch.zeros(1, 2, 2), teacher, spectrum).abs() < 1e-6  # the blind spot
        tensor([True])
        >>> residual_distance(torch.eye(2).unsqueeze(0), teacher, spectrum)
        tensor([1.0000])
    """
    check_square('laplacian_s', laplacian_s)
    check_same_shape('laplacian_t', laplacian_t, 'laplacian_s', laplacian_s)
    check_number('diffusion_time', diffusion_time)
    with no_autocast(laplacian_s):
        laplacian_s, laplacian_t = widen(laplacian_s, laplacian_t.detach(), name='laplacian_s, laplacian_t')
        embedding = _weighted_embedding(laplacian_t, spectrum_t, diffusion_time, taper)
        residual = (laplacian_s - laplacian_t) @ embedding
        return residual.square().sum((-2, -1)) / embedding.shape[-1]


def residual_of_weights(
    weights_s: Tensor,
    laplacian_t: Tensor,
    spectrum_t: Spectrum,
    diffusion_time: float = 0.0,
    taper: bool = False,
) -> Tensor:
    """:func:`residual_distance`, from the student's edge weights instead of its Laplacian.

    The student's Laplacian is never formed: it is only needed times the embedding, and so is its gradient.

    Args:
        weights_s: Student's edge weights, (B, C, C), as :func:`adjacency` gives them. Gradient flows through them only.
        laplacian_t: Teacher's Laplacians, (B, C, C).
        spectrum_t: Teacher's eigenpairs, see :func:`residual_distance`.
        diffusion_time: t >= 0.
        taper: See :func:`residual_distance`.

    Returns:
        Distances of shape (B,), without unit.

    Raises:
        ValueError: As :func:`residual_distance`.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
        >>> spectrum = spectral_embedding(teacher, k=1)
        >>> residual_of_weights(torch.tensor([[[0.0, 3.0], [3.0, 0.0]]]), teacher, spectrum).abs() < 1e-6
        tensor([True])
    """
    check_square('weights_s', weights_s)
    check_same_shape('laplacian_t', laplacian_t, 'weights_s', weights_s)
    check_number('diffusion_time', diffusion_time)
    with no_autocast(weights_s):
        weights_s, laplacian_t = widen(weights_s, laplacian_t.detach(), name='weights_s, laplacian_t')
        embedding = _weighted_embedding(laplacian_t, spectrum_t, diffusion_time, taper)
        residual = laplacian_product(weights_s, embedding) - laplacian_t @ embedding
        return residual.square().sum((-2, -1)) / embedding.shape[-1]


def _weighted_embedding(laplacian: Tensor, spectrum: Spectrum, diffusion_time: float, taper: bool) -> Tensor:
    """Eigenvectors (B, C, k) times their weights, in the Laplacian's type and without gradient."""
    values, vectors = (x.detach().to(laplacian.dtype) for x in spectrum)
    graphs, channels, _ = laplacian.shape
    if vectors.dim() != 3 or vectors.shape[:2] != (graphs, channels) or vectors.shape[2] <= int(taper):
        accepted = f'({graphs}, {channels}, k) with k >= {1 + int(taper)}'
        raise argument_error('spectrum_t', f'vectors of shape {tuple(vectors.shape)}', accepted)
    if values.shape != (graphs, vectors.shape[2]):
        accepted = f'({graphs}, {vectors.shape[2]})'
        raise argument_error('spectrum_t', f'values of shape {tuple(values.shape)}', accepted)
    count, weight = vectors.shape[-1], torch.exp(-diffusion_time * values)
    if taper:
        count, last = count - 1, values[:, -1:]
        weight = weight * ((last - values).clamp(min=0) / (last - values[:, :1]).clamp(min=LEAST_SPREAD))
    return vectors[..., :count] * weight[:, None, :count]


def heat_distance(laplacian_s: Tensor, laplacian_t: Tensor, diffusion_time: float = 1.0) -> Tensor:
    r"""Residual over the teacher's whole spectrum: :math:`\|(L_S - L_T)\,e^{-t L_T}\|_F^2 / C`.

    The matrix exponential needs no eigensolver (``torch.linalg.matrix_exp``). As it is invertible, the
    distance is 0 only for equal Laplacians: it sees every eigenvector and eigenvalue, the smooth ones most,
    the others with a weight of down to :math:`e^{-4t}`. So there is no k and no gap to choose; the price is
    that it cares for the end of the spectrum too. With t = 0 it is the plain squared difference of the
    Laplacians.

    Args:
        laplacian_s: Student's Laplacians, (B, C, C). Gradient flows through them only.
        laplacian_t: Teacher's Laplacians, (B, C, C).
        diffusion_time: t >= 0.

    Returns:
        Distances of shape (B,), without unit.

    Raises:
        ValueError: If the shapes differ or ``diffusion_time`` is negative.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
        >>> heat_distance(torch.zeros(1, 2, 2), teacher)  # (2 exp(-2))^2 / 2
        tensor([0.0366])
    """
    check_square('laplacian_s', laplacian_s)
    check_same_shape('laplacian_t', laplacian_t, 'laplacian_s', laplacian_s)
    check_number('diffusion_time', diffusion_time)
    with no_autocast(laplacian_s):
        laplacian_s, laplacian_t = widen(laplacian_s, laplacian_t.detach(), name='laplacian_s, laplacian_t')
        difference = laplacian_s - laplacian_t
        if diffusion_time > 0:
            difference = difference @ torch.linalg.matrix_exp(-diffusion_time * laplacian_t)
        return difference.square().sum((-2, -1)) / laplacian_s.shape[-1]


class _SpectralProjector(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        laplacian: Tensor,
        k: int,
        diffusion_time: float,
        solver: str,
        damping: float,
        skip_trivial: bool,
        start: Tensor | None,
        rounds: int | None,
        degree: int,
        cg_iterations: int,
    ) -> Tensor:
        channels = laplacian.shape[-1]
        skip, kept = _kept(channels, k, skip_trivial)
        # The exact gradient needs every eigenvector, the other one only those up to the last that is kept.
        whole = solver == 'exact' or channels <= MAX_BLOCK
        count = channels if whole else skip + kept
        values, vectors = _smallest(laplacian, count, solver, start, rounds, degree)
        ctx.save_for_backward(values, vectors, *(() if whole else (laplacian,)))
        ctx.kept = slice(skip, skip + kept)
        ctx.diffusion_time, ctx.damping, ctx.cg_iterations = diffusion_time, damping, cg_iterations
        basis = vectors[..., ctx.kept]
        weight = torch.exp(-diffusion_time * values[:, ctx.kept]).unsqueeze(-2)
        return (basis * weight) @ basis.mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, vectors, *rest = ctx.saved_tensors
        with no_autocast(grad):
            grad = (grad + grad.mT) / 2
            # Columns of the kept part only: dropped/dropped pairs have no part in the gradient.
            basis = vectors[..., ctx.kept]
            turned = grad @ basis
            inside = vectors.mT @ turned
            factor = _divided_difference(values, ctx.kept, ctx.diffusion_time, ctx.damping)
            # A kept/kept pair comes up in both halves of the symmetric sum below, hence by half in each.
            half = vectors @ (factor * inside)
            if rest:
                weight = torch.exp(-ctx.diffusion_time * values[:, ctx.kept]).unsqueeze(-2)
                shift = values[:, ctx.kept].unsqueeze(-2) - ctx.damping
                half = half - weight * _solve_outside(rest[0], shift, vectors, turned, ctx.cg_iterations)
            half = half @ basis.mT
            return half + half.mT, *(None,) * 9


def _divided_difference(values: Tensor, kept: slice, time: float, damping: float) -> Tensor:
    """Divided differences of f = exp(-t x) on kept, 0 on dropped values, (B, m, k); kept pairs halved."""
    chosen = values[:, kept].unsqueeze(-2)
    gap = values.unsqueeze(-1) - chosen
    # Dropped eigenvalues lie above the kept ones, but for the trivial one. Their order and not the sign of a
    # gap of nothing but rounding decides.
    above = torch.arange(values.shape[-1], device=values.device).unsqueeze(-1) >= kept.stop
    width = torch.where(above, gap, -gap).clamp(min=0) + damping
    slope = torch.where(width > 0, torch.exp(-time * chosen) / torch.where(width > 0, width, 1), 0)
    factor = torch.where(above, -slope, slope)
    # (f(a) - f(b)) / (a - b) = -t f(min(a, b)) (1 - exp(-y)) / y, y = t |a - b|: no cancellation.
    y = time * gap[:, kept].abs()
    flat = y < 1e-12
    quotient = torch.where(flat, 1, -torch.expm1(-y) / torch.where(flat, 1, y))
    lowest = torch.minimum(values[:, kept].unsqueeze(-1), chosen)
    factor[:, kept] = -0.5 * time * torch.exp(-time * lowest) * quotient
    return factor


def _solve_outside(laplacian: Tensor, shift: Tensor, basis: Tensor, right: Tensor, iterations: int) -> Tensor:
    """Solve (L - shift) x = r column by column, x and r orthogonal to ``basis``, by conjugate gradients."""

    def outside(block: Tensor) -> Tensor:
        return block - basis @ (basis.mT @ block)

    def ratio(above: Tensor, below: Tensor) -> Tensor:
        return torch.where(below > 0, above / torch.where(below > 0, below, 1), 0)

    rest = outside(right)
    solution, step, square = torch.zeros_like(rest), rest, rest.square().sum(-2, keepdim=True)
    for _ in range(iterations):
        image = laplacian @ step - shift * step
        length = ratio(square, (step * image).sum(-2, keepdim=True))
        # Rounding along the basis would never be reduced, and outgrow the rest in the end.
        solution, rest = solution + length * step, outside(rest - length * image)
        before, square = square, rest.square().sum(-2, keepdim=True)
        step = rest + ratio(square, before) * step
    return solution


def _kept(channels: int, k: int, skip_trivial: bool) -> tuple[int, int]:
    """Number of eigenpairs to skip and number to keep."""
    skip = int(skip_trivial and channels > 1)
    return skip, min(k, channels - skip)


def _smallest(
    laplacian: Tensor, count: int, solver: str, start: Tensor | None, rounds: int | None, degree: int
) -> tuple[Tensor, Tensor]:
    if solver == 'exact' or laplacian.shape[-1] <= MAX_BLOCK:
        values, vectors = exact_eigenpairs(laplacian)
        return values[:, :count], vectors[..., :count]
    return subspace_eigenpairs(laplacian, count, start, rounds, degree)


def _check_solver(
    shape: torch.Size,
    k: int,
    solver: str,
    skip_trivial: bool,
    start: Tensor | None,
    rounds: int | None,
    degree: int,
) -> None:
    check_integer('k', k, 1)
    check_choice('solver', solver, SOLVERS)
    check_integer('degree', degree, 1)
    if rounds is not None:
        check_integer('rounds', rounds, 1)
    if start is not None and (start.dim() != 3 or start.shape[:2] != shape[:2] or start.shape[2] == 0):
        raise argument_error('start', f'shape {tuple(start.shape)}', f'({shape[0]}, {shape[1]}, m) with m >= 1')
    if solver == 'subspace' and shape[-1] > MAX_BLOCK:
        most = MAX_SUBSPACE_RANK - int(skip_trivial)
        if k > most:
            accepted = f"at most {most} for solver='subspace' on more than {MAX_BLOCK} channels"
            raise argument_error('k', k, accepted)
