"""Samples of a batch: unit length, divergence of their distributions, and means over any number of them."""

import torch
from torch import Tensor

from .precision import in_full_precision


@in_full_precision
def unit_length(samples: Tensor) -> Tensor:
    """Bring every sample to length 1; one of zeros stays and passes no gradient.

    Args:
        samples: (K, …), any unit; K may be 0. A positive factor of a sample changes nothing.

    Returns:
        The same shape; float32, or float64 for float64 input.

    Example:
        >>> import torch
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    rows = samples.flatten(1)
    # The direction does not depend on the scale, so a detached one changes no gradient. It keeps squares in range.
    peak = rows.detach().abs().amax(dim=1, keepdim=True)
    rows = rows / peak.masked_fill(peak == 0, 1)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # Two masks: the inner one keeps the quotient finite, the outer one stops its gradient.
    return torch.where(peak == 0, 0, rows / length.masked_fill(peak == 0, 1)).view_as(samples)


@in_full_precision
def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p · (log p - log q).

    Args:
        log_p: (…, n) logarithms of distributions over the last axis.
        log_q: (…, n).

    Returns:
        (…), each >= 0.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.1438)
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@in_full_precision
def mean_of_samples(values: Tensor) -> Tensor:
    """Mean of (K,) values; of no values an exact 0, still attached.

    Example:
        >>> import torch
        >>> mean_of_samples(torch.ones(0))
        tensor(0.)
    """
    return values.sum() / max(len(values), 1)
