"""Low-pass filters of feature maps: what networks of different kinds agree on."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import argument_error, check_integer
from .precision import in_full_precision


@in_full_precision
def low_pass(features: Tensor, scale: int) -> Tensor:
    """Average every channel over windows of ``scale`` × ``scale`` cells, side by side: one cell per window.

    Cells that the last window lacks at the bottom and right repeat the border, so a map smaller than the window
    becomes one cell, and a constant map stays as it is, whatever its size.

    Args:
        features: Feature maps of shape (N, C, H, W). Any unit. float16 and bfloat16 are read as float32, also
            under autocast. N may be 0.
        scale: s, side of the window in cells; 1 leaves the map as it is.

    Returns:
        Maps of shape (N, C, ceil(H / s), ceil(W / s)). float32, or float64 for float64 input.

    Raises:
        ValueError: If the shape does not fit or s < 1.

    Source: LFCC, arXiv 2405.18524.

    Example:
        >>> import torch
        >>> low_pass(torch.tensor([[[[1.0, 3.0, 5.0]]]]), 2)
        tensor([[[[2., 5.]]]])
    """
    if features.dim() != 4 or 0 in features.shape[1:]:
        raise argument_error('features', f'shape {tuple(features.shape)}', '(N, C, H, W), only N may be 0')
    check_integer('scale', scale, 1)
    return F.avg_pool2d(_whole_windows(features, scale), scale)


def _whole_windows(features: Tensor, scale: int) -> Tensor:
    height, width = features.shape[-2:]
    bottom, right = -height % scale, -width % scale
    if not bottom and not right:
        return features
    # By index: F.pad's replication refuses an empty batch.
    rows = torch.arange(height + bottom, device=features.device).clamp(max=height - 1)
    columns = torch.arange(width + right, device=features.device).clamp(max=width - 1)
    return features[..., rows, :][..., columns]
