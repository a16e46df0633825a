"""Relationship matching: semi-hard tuples of instances, and classifiers made of class centres."""

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import argument_error, check_integer, check_number
from .precision import in_full_precision
from .samples import kl_divergence, mean_of_samples


class Tuples(NamedTuple):
    """T tuples of an anchor, a positive of its class and up to n negatives of other classes.

    Attributes:
        anchors: (T,) indices of instances.
        positives: (T,) indices of instances.
        negatives: (T, n) indices of instances; anything where ``mask`` is False.
        mask: (T, n), True where there is a negative; at least one in every row.

    Example:
        >>> import torch
        >>> index = torch.tensor([0])
        >>> Tuples(index, index + 1, torch.tensor([[2]]), torch.tensor([[True]])).negatives.shape
        torch.Size([1, 1])
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    mask: Tensor


@torch.no_grad()
@in_full_precision
def semihard_tuples(
    embeddings: Tensor, labels: Tensor, margin: float = 0.2, num_negatives: int | None = None
) -> Tuples:
    """All pairs of one class with their semi-hard negatives: farther than the positive, by at most the margin.

    Of every ordered pair (a, p) of the same class the negatives are the n of other classes with ``0 < |e_a - e_n| -
    |e_a - e_p| <= m``. Pairs without one make no tuple. Nothing is drawn at random. The negatives of an anchor are
    sorted once, so that those of a pair are a slice: K² log K steps instead of K³.

    Args:
        embeddings: (K, D), unit vectors as a rule. Passes no gradient.
        labels: (K,) integers.
        margin: m > 0, in the unit of the distance.
        num_negatives: at most so many per tuple, the nearest to the anchor; ``None`` takes all. A pair with fewer
            keeps those that there are.

    Returns:
        :class:`Tuples`; T = 0 where mining finds nothing.

    Raises:
        ValueError: If an argument is out of range or the shapes do not fit.

    Source: semi-hard mining of FaceNet, arXiv 1503.03832, as REFILLED uses it, arXiv 2205.01915; its authors' code
    puts all semi-hard negatives of a pair into one tuple.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[0.0], [0.3], [0.4], [0.45], [0.9]])
        >>> tuples = semihard_tuples(embeddings, torch.tensor([0, 0, 1, 2, 3]))
        >>> tuples.anchors, tuples.positives, tuples.negatives
        (tensor([0]), tensor([1]), tensor([[2, 3]]))
    """
    check_number('margin', margin, positive=True)
    check_integer('num_negatives', num_negatives, 1, optional=True)
    if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1]:
        given = f'shapes {tuple(embeddings.shape)} and {tuple(labels.shape)}'
        raise argument_error('embeddings, labels', given, '(K, D) and (K,)')
    distance = pairwise_distance(embeddings)
    alike = labels.unsqueeze(0) == labels.unsqueeze(1)
    ranked, order = distance.masked_fill(alike, torch.inf).sort(dim=1, stable=True)
    first = torch.searchsorted(ranked, distance, right=True)
    count = torch.searchsorted(ranked, distance + margin, right=True) - first
    count.masked_fill_(~alike | torch.eye(len(labels), dtype=torch.bool, device=labels.device), 0)
    if num_negatives is not None:
        count.clamp_(max=num_negatives)
    anchors, positives = count.nonzero(as_tuple=True)
    first, count = first[anchors, positives].unsqueeze(1), count[anchors, positives].unsqueeze(1)
    places = torch.arange(int(count.max()) if len(count) else 0, device=labels.device)
    mask = places < count
    negatives = order[anchors.unsqueeze(1), torch.where(mask, first + places, 0)]
    return Tuples(anchors, positives, negatives, mask)


@in_full_precision
def pairwise_distance(embeddings: Tensor) -> Tensor:
    """Euclidean distances between all rows; between equal rows 0, with gradient 0.

    Args:
        embeddings: (K, D).

    Returns:
        (K, K) of float32, or float64 for float64 input.

    Raises:
        ValueError: If ``embeddings`` is not a matrix.

    Example:
        >>> import torch
        >>> pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    if embeddings.dim() != 2:
        raise argument_error('embeddings', f'shape {tuple(embeddings.shape)}', '(K, D)')
    # Through inner products, as for larger K by default, small distances would be rounding errors.
    return torch.cdist(embeddings, embeddings, compute_mode='donot_use_mm_for_euclid_dist')


@in_full_precision
def tuple_divergence(student: Tensor, teacher: Tensor, tuples: Tuples, temperature: float = 4.0) -> Tensor:
    """How differently two models compare the members of tuples with their anchor.

    A model's distribution over a tuple is ``softmax(-d / τ)`` of the distances from the anchor to the positive and to
    each negative; the value is the mean over tuples of KL(teacher ‖ student).

    Args:
        student: (K, D) embeddings, unit vectors as a rule.
        teacher: (K, D') embeddings of the same instances. Passes no gradient.
        tuples: see :func:`semihard_tuples`.
        temperature: τ > 0, in the unit of the distances.

    Returns:
        Scalar >= 0; without tuples 0, still attached to ``student``.

    Raises:
        ValueError: If ``temperature`` is not > 0 or the shapes do not fit.

    Source: REFILLED, arXiv 2205.01915.

    Example:
        >>> import torch
        >>> student, labels = torch.tensor([[0.0], [0.3], [0.4]]), torch.tensor([0, 0, 1])
        >>> tuples = semihard_tuples(student, labels)
        >>> tuple_divergence(student, 5 * student, tuples, temperature=0.5).round(decimals=4)
        tensor(0.0697)
    """
    check_number('temperature', temperature, positive=True)
    if len(student) != len(teacher):
        raise argument_error('teacher', f'{len(teacher)} instances', f'those of student, {len(student)}')
    anchors = tuples.anchors.unsqueeze(1)
    others = torch.cat([tuples.positives.unsqueeze(1), tuples.negatives], dim=1)
    there = torch.cat([torch.ones_like(anchors, dtype=torch.bool), tuples.mask], dim=1)

    def log_comparison(embeddings: Tensor) -> Tensor:
        scores = -pairwise_distance(embeddings)[anchors, others] / temperature
        # Not -inf: the logarithm of what is not there is multiplied by 0.
        return scores.masked_fill(~there, -1e4).log_softmax(dim=1)

    return mean_of_samples(kl_divergence(log_comparison(teacher.detach()), log_comparison(student)))


@in_full_precision
def center_divergence(logits: Tensor, teacher: Tensor, centers: Tensor, temperature: float = 2.0) -> Tensor:
    """How a classifier differs from the one that the teacher's class centres make.

    The teacher's distribution is ``softmax_c(⟨e, μ_c / |μ_c|⟩ / τ)``; the value is the mean over instances of
    KL(teacher ‖ student).

    Args:
        logits: (K, n), the student's over n classes.
        teacher: (K, D) embeddings of the same instances, not normalised. Passes no gradient.
        centers: (n, D) mean embeddings of the same classes. Passes no gradient.
        temperature: τ > 0, of both.

    Returns:
        Scalar >= 0; without instances or with a single class 0, still attached to ``logits``.

    Raises:
        ValueError: If ``temperature`` is not > 0 or the shapes do not fit.

    Source: REFILLED, arXiv 2205.01915.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> center_divergence(torch.zeros(2, 2), embeddings, centers=embeddings).round(decimals=4)
        tensor(0.3278)
    """
    check_number('temperature', temperature, positive=True)
    if logits.shape != (len(teacher), len(centers)) or teacher.shape[1:] != centers.shape[1:]:
        given = f'shapes {tuple(logits.shape)}, {tuple(teacher.shape)} and {tuple(centers.shape)}'
        raise argument_error('logits, teacher, centers', given, '(K, n), (K, D) and (n, D)')
    scores = teacher.detach() @ torch.nn.functional.normalize(centers.detach(), dim=1).mT
    log_s, log_t = ((x / temperature).log_softmax(dim=1) for x in (logits, scores))
    return mean_of_samples(kl_divergence(log_t, log_s))
