"""Teacher's and student's channel graph of one level in one go: what the loss computes in every step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .affinity import AFFINITY_KINDS, DEAD_RATIO, GROUPINGS, centered, grouped, rbf
from .arguments import argument_error, check_choice, check_same_shape
from .precision import no_autocast, widen


class ChannelGraphs(NamedTuple):
    """The channel graphs of two feature maps.

    Attributes:
        student: Affinities of shape (B, C, C), with gradient; ``None`` without edges.
        teacher: Affinities of shape (B, C, C), without gradient; ``None`` without edges.
        cosine: Cosine between channel i of one and channel i of the other, (B, C), with gradient into the student;
            ``None`` without matching.

    Example:
        >>> import torch
        >>> ChannelGraphs(None, None, torch.ones(1, 3)).cosine.shape
        torch.Size([1, 3])
    """

    student: Tensor | None
    teacher: Tensor | None
    cosine: Tensor | None


def channel_graphs(
    student: Tensor,
    teacher: Tensor,
    kind: str = 'cosine',
    weight: Tensor | None = None,
    per: str = 'image',
    edges: bool = True,
    matched: bool = True,
) -> ChannelGraphs:
    r"""Affinities of both sides and the cosine of matched channels, as :func:`unit_vertices` defines them.

    The same as ``channel_affinity`` of either side and the inner products of their ``unit_vertices``, without the
    unit vertices: the norms are read off the Gram matrix, weight and norms enter as its row and column factors, and
    the whole backward pass is one matrix product with the student's features. No temporary of their size is kept
    for it. Its value differs from that of the plain functions by rounding.

    Args:
        student: Feature maps of shape (N, C, H, W) or (N, C, L). Gradient flows through them only.
        teacher: Feature maps of the same shape.
        kind: ``'cosine'``, ``'pearson'`` or ``'rbf'``, see :func:`channel_affinity`; the matched cosine is that of the
            centred channels for ``'pearson'``.
        weight: Optional non-negative spatial weight of shape (N, 1, H, W) or (N, 1, L), without gradient.
        per: one graph per ``'image'`` (B = N) or per ``'batch'`` (B = 1).
        edges: ``False`` leaves the affinities out.
        matched: ``False`` leaves the cosine out.

    Returns:
        :class:`ChannelGraphs` of float32, or float64 for float64 input.

    Raises:
        ValueError: If an option is unknown, a shape does not fit, or neither affinities nor cosine are asked for.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[3.0, 4.0], [0.0, 0.5]]])
        >>> teacher = torch.tensor([[[3.0, 4.0], [2.0, 0.0]]])
        >>> channel_graphs(student, teacher).cosine
        tensor([[1., 0.]])
    """
    check_choice('kind', kind, AFFINITY_KINDS)
    check_choice('per', per, GROUPINGS)
    if not (edges or matched):
        raise argument_error('edges, matched', 'False, False', 'at least one of them True')
    if student.dim() not in (3, 4) or 0 in student.shape:
        raise argument_error('student', f'shape {tuple(student.shape)}', '(N, C, H, W) or (N, C, L), not empty')
    check_same_shape('teacher', teacher, 'student', student)
    if weight is not None and (weight.shape[:2] != (len(student), 1) or weight[0].numel() != student[0, 0].numel()):
        accepted = f'shape {(len(student), 1, *student.shape[2:])}'
        raise argument_error('weight', f'shape {tuple(weight.shape)}', accepted)
    with no_autocast(student):
        student, teacher = widen(student, teacher.detach(), name='student, teacher')
        if weight is not None:
            student, teacher, weight = widen(student, teacher, weight.detach(), name='student, teacher, weight')
            weight = grouped(weight.flatten(2), per)
        flat, least = zip(
            *(_prepare(grouped(x.flatten(2), per), kind, weight) for x in (student, teacher)), strict=True
        )
        affinity_s, affinity_t, cosine = _ChannelGraphs.apply(*flat, weight, *least, edges, matched)
        if not edges:
            return ChannelGraphs(None, None, cosine)
        if kind == 'rbf':
            affinity_s, affinity_t = rbf(affinity_s), rbf(affinity_t)
        return ChannelGraphs(affinity_s, affinity_t, cosine)


def _prepare(features: Tensor, kind: str, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Features to compare, (B, C, L), and the squared norm (B, C) up to which a centred channel is rounding."""
    if kind != 'pearson':
        return features, None
    features = features / _peak(features)
    with torch.no_grad():
        square = features.square() if weight is None else features.square() * weight
        least = square.sum(-1) * DEAD_RATIO**2
    return centered(features, weight), least


def _peak(features: Tensor) -> Tensor:
    """Largest absolute value of each graph, (B, 1, 1), without gradient; 1 where all is 0."""
    peak = features.detach().abs().amax((1, 2), keepdim=True)
    return torch.where(peak > 0, peak, 1)


class _ChannelGraphs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        weight: Tensor | None,
        least_s: Tensor | None,
        least_t: Tensor | None,
        edges: bool,
        matched: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        # Inner products are divided by the peak, so that neither squares of large features overflow nor those of
        # small ones vanish; norms carry its root, and it drops out of every cosine.
        peak_s, peak_t = _peak(student), _peak(teacher)
        factor_s, factor_t = ((1 if weight is None else weight) / peak for peak in (peak_s, peak_t))
        affinity_s, inverse_s = _affinity(student, factor_s, least_s, peak_s, edges)
        affinity_t, inverse_t = _affinity(teacher, factor_t, least_t, peak_t, edges)
        ratio = (peak_s / peak_t).sqrt()
        cosine = None
        if matched:
            cosine = (student * (teacher * (factor_s * ratio))).sum(-1) * inverse_s * inverse_t
        ctx.save_for_backward(student, teacher, factor_s, ratio, inverse_s, inverse_t, cosine, affinity_s)
        if edges:
            ctx.mark_non_differentiable(affinity_t)
        return affinity_s, affinity_t, cosine

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_affinity: Tensor | None, _teacher: Tensor | None, grad_cosine: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        student, teacher, factor, ratio, inverse_s, inverse_t, cosine, affinity = ctx.saved_tensors
        with no_autocast(student):
            # Norms only matter along the channel itself: a term on the diagonal.
            along = 0
            if cosine is not None:
                matched = teacher * (grad_cosine * inverse_s * inverse_t * ratio.squeeze(-1)).unsqueeze(-1)
                along = grad_cosine * cosine
            if affinity is None:
                grad = matched - student * (along * inverse_s.square()).unsqueeze(-1)
            else:
                both = grad_affinity + grad_affinity.mT
                along = along + (both * affinity).sum(-1)
                kernel = both * (inverse_s.unsqueeze(-1) * inverse_s.unsqueeze(-2))
                kernel.diagonal(dim1=-2, dim2=-1).sub_(along * inverse_s.square())
                grad = kernel @ student if cosine is None else torch.baddbmm(matched, kernel, student)
            return grad.mul_(factor), None, None, None, None, None, None


def _affinity(
    features: Tensor, factor: Tensor, least: Tensor | None, peak: Tensor, edges: bool
) -> tuple[Tensor | None, Tensor]:
    """Affinity (B, C, C) or None, and the inverse norms (B, C), 0 where dead."""
    scaled = features * factor
    gram = scaled @ features.mT if edges else None
    square = gram.diagonal(dim1=-2, dim2=-1) if edges else (scaled * features).sum(-1)
    dead = square <= square.amax(-1, keepdim=True) * DEAD_RATIO**2
    if least is not None:
        dead |= square <= least / peak.squeeze(-1)
    inverse = torch.where(dead, 0, torch.where(dead, 1, square).rsqrt())
    return gram.mul_(inverse.unsqueeze(-1) * inverse.unsqueeze(-2)) if edges else None, inverse
