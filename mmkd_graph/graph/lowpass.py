"""Low-pass filters of feature maps at several scales: what networks of different kinds agree on."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import argument_error, check_integer
from .precision import no_autocast, widen


def low_pass_kernel(logits: Tensor) -> Tensor:
    r"""Depthwise low-pass kernels from free parameters: a softmax over each channel's window.

    A softmax is positive and sums to 1, so whatever the logits are, the frequency response
    :math:`K(f) = \sum_x k_x e^{-2 \pi i f x}` has :math:`K(0) = 1` and :math:`|K(f)| \le 1`. Equal logits give the
    average over the window.

    Args:
        logits: Free parameters of shape (C, s, s), without unit.

    Returns:
        Kernels of shape (C, s, s), each with sum 1; float32, or float64 for float64 input.

    Raises:
        ValueError: If the shape does not fit.

    Source: LFCC, arXiv 2405.18524 (low-pass filters at several scales).

    Example:
        >>> import torch
        >>> low_pass_kernel(torch.zeros(1, 2, 2))
        tensor([[[0.2500, 0.2500],
                 [0.2500, 0.2500]]])
    """
    if logits.dim() != 3 or logits.shape[1] != logits.shape[2] or logits.numel() == 0:
        raise argument_error('logits', f'shape {tuple(logits.shape)}', '(C, s, s) with C >= 1 and s >= 1')
    with no_autocast(logits):
        (logits,) = widen(logits, name='logits')
        return torch.softmax(logits.flatten(1), dim=1).view_as(logits)


def low_pass(features: Tensor, kernel: Tensor | int) -> Tensor:
    """Filter every channel with its own kernel and keep one cell per window.

    Windows lie side by side. Cells that the last window lacks at the bottom and right repeat the border, so a map
    smaller than the window becomes one cell, and a constant map stays as it is, whatever its size.

    Args:
        features: Feature maps of shape (N, C, H, W). Any unit. float16 and bfloat16 are read as float32, also
            under autocast. N may be 0.
        kernel: Kernels of shape (C, s, s), as from :func:`low_pass_kernel`; or s alone for the average.

    Returns:
        Maps of shape (N, C, ceil(H / s), ceil(W / s)), linear in ``features``; with kernels that are positive and
        sum to 1 every cell is a weighted mean of cells. float32, or float64 for float64 input.

    Raises:
        ValueError: If a shape does not fit or s < 1.

    Source: LFCC, arXiv 2405.18524.

    Example:
        >>> import torch
        >>> low_pass(torch.tensor([[[[1.0, 3.0, 5.0]]]]), 2)
        tensor([[[[2., 5.]]]])
    """
    if features.dim() != 4 or 0 in features.shape[1:]:
        raise argument_error('features', f'shape {tuple(features.shape)}', '(N, C, H, W), only N may be 0')
    if isinstance(kernel, Tensor):
        if kernel.dim() != 3 or kernel.shape[0] != features.shape[1] or kernel.shape[1] != kernel.shape[2]:
            accepted = f'(C, s, s) with the C = {features.shape[1]} of features'
            raise argument_error('kernel', f'shape {tuple(kernel.shape)}', accepted)
        scale = kernel.shape[-1]
    else:
        check_integer('kernel', kernel, 1)
        scale = kernel
    with no_autocast(features):
        if not isinstance(kernel, Tensor):
            (features,) = widen(features)
            return F.avg_pool2d(_whole_windows(features, scale), scale)
        features, kernel = widen(features, kernel)
        return F.conv2d(_whole_windows(features, scale), kernel.unsqueeze(1), stride=scale, groups=features.shape[1])


def multi_scale_low_pass(
    features: Tensor, scales: Sequence[int] = (1, 2, 4, 8), logits: Mapping[int, Tensor] | None = None
) -> tuple[Tensor, ...]:
    """Filter the same maps at several scales.

    Args:
        features: Feature maps of shape (N, C, H, W), see :func:`low_pass`.
        scales: Sides of the windows in cells; 1 leaves the map as it is.
        logits: Free parameters of shape (C, s, s) by scale s, see :func:`low_pass_kernel`. A scale without any takes
            the average over each window.

    Returns:
        One map of shape (N, C, ceil(H / s), ceil(W / s)) per scale.

    Raises:
        ValueError: If a shape does not fit or a scale is below 1.

    Source: LFCC, arXiv 2405.18524.

    Example:
        >>> import torch
        >>> [tuple(x.shape) for x in multi_scale_low_pass(torch.rand(2, 16, 8, 5))]
        [(2, 16, 8, 5), (2, 16, 4, 3), (2, 16, 2, 2), (2, 16, 1, 1)]
    """
    logits = logits or {}
    for scale, given in logits.items():
        if given.shape[-1] != scale:
            raise argument_error(f'logits[{scale}]', f'shape {tuple(given.shape)}', f'(C, {scale}, {scale})')
    return tuple(low_pass(features, low_pass_kernel(logits[s]) if s in logits else s) for s in scales)


def _whole_windows(features: Tensor, scale: int) -> Tensor:
    height, width = features.shape[-2:]
    bottom, right = -height % scale, -width % scale
    if not bottom and not right:
        return features
    # By index: F.pad's replication refuses an empty batch.
    rows = torch.arange(height + bottom, device=features.device).clamp(max=height - 1)
    columns = torch.arange(width + right, device=features.device).clamp(max=width - 1)
    return features[..., rows, :][..., columns]
