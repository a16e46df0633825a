"""Contrast between samples: the teacher's view of a sample against its views of the others."""

from torch import Tensor

from .arguments import argument_error, check_number, check_same_shape
from .precision import in_full_precision
from .samples import mean_of_samples


@in_full_precision
def info_nce(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    """InfoNCE over samples, ``-1/K Σ_i log softmax_j(⟨s_i, t_j⟩ / τ)`` at ``j = i``.

    The positive of student sample i is the teacher's i, its negatives are the teacher's others. Embeddings that are all
    equal are not a minimum: if the teacher's are, the value is log K; if the student's are, it is at least that
    (Jensen). Right pairings go below it.

    Args:
        student: Unit vectors of shape (K, D), without unit.
        teacher: Unit vectors of shape (K, D), in the same order. Not detached here.
        temperature: τ > 0, without unit.

    Returns:
        A scalar >= 0 (up to rounding); exactly 0, with zero gradient, for one sample or none; float32, or float64 for
        float64 input.

    Raises:
        ValueError: If ``temperature`` is not > 0 or a shape does not fit.

    Source: van den Oord et al., arXiv 1807.03748; over samples of teacher and student: LFCC, arXiv 2405.18524.

    Example:
        >>> import torch
        >>> info_nce(torch.eye(2), torch.eye(2), temperature=1.0)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    check_number('temperature', temperature, positive=True)
    if student.dim() != 2:
        raise argument_error('student', f'shape {tuple(student.shape)}', '(K, D)')
    check_same_shape('teacher', teacher, 'student', student)
    scores = student @ teacher.mT / temperature
    return -mean_of_samples(scores.log_softmax(dim=1).diagonal())
