"""Masks over the positions of a pyramid level: where the objects are, and random ones."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .arguments import argument_error, check_number


def foreground_mask(boxes: Sequence[Tensor], size: Sequence[int], stride: float) -> Tensor:
    """Scale mask of the objects: every object shares a total of 1 out among its cells.

    A box of cells ``floor(x1 / stride)`` to ``ceil(x2 / stride)``, both included, and likewise in y, gives each of
    them 1 / their number; cells beyond the border of the level count in the number. Where boxes overlap, the
    smallest one counts, that is the maximum. Cells of no box are 0.

    All boxes of the batch are drawn at once: (N, B, H, W) values for a time, B the most boxes of an image.

    Args:
        boxes: For each of N >= 1 images its boxes of shape (B_i, 4), x1 y1 x2 y2 in pixels of the padded batch;
            B_i may be 0.
        size: (H, W) of the level in cells.
        stride: Pixels per cell, > 0.

    Returns:
        Mask of shape (N, 1, H, W), float32.

    Raises:
        ValueError: If ``stride`` is not > 0, there are no images or the boxes are not of shape (B_i, 4).

    Source: FGD, arXiv 2111.11837; the paper leaves the rounding open, this is that of the authors' code.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 16.0, 8.0], [16.0, 0.0, 24.0, 0.0]])
        >>> foreground_mask([boxes], (2, 5), 8)
        tensor([[[[0.1667, 0.1667, 0.5000, 0.5000, 0.0000],
                  [0.1667, 0.1667, 0.1667, 0.0000, 0.0000]]]])
    """
    check_number('stride', stride, positive=True)
    if not boxes or any(b.dim() != 2 or b.shape[1] != 4 for b in boxes):
        raise argument_error('boxes', f'shapes {[tuple(b.shape) for b in boxes]}', '(B_i, 4) for each image')
    # NaN lies in no range: an image with fewer boxes than others is filled up with boxes that hold no cell.
    cells = pad_sequence([b.float() for b in boxes], batch_first=True, padding_value=torch.nan) / stride
    height, width = size
    if cells.shape[1] == 0:
        return cells.new_zeros(len(boxes), 1, height, width)
    left, top = cells[..., :2].floor().unbind(-1)
    right, bottom = cells[..., 2:].ceil().unbind(-1)
    in_row = _between(torch.arange(height, device=cells.device), top, bottom)
    in_column = _between(torch.arange(width, device=cells.device), left, right)
    share = 1 / ((right - left + 1) * (bottom - top + 1))
    inside = in_row.unsqueeze(-1) & in_column.unsqueeze(-2)
    return torch.where(inside, share[..., None, None], 0).amax(1, keepdim=True)


def background_mask(foreground: Tensor) -> Tensor:
    """The cells of no object, which share a total of 1 out among themselves in each image.

    Args:
        foreground: Mask of shape (N, 1, H, W), > 0 where an object is.

    Returns:
        Mask of the same shape; an image without background has zeros only.

    Source: FGD, arXiv 2111.11837.

    Example:
        >>> import torch
        >>> background_mask(torch.tensor([[[[0.5, 0.5, 0.0, 0.0]]], [[[0.0, 0.0, 0.0, 0.0]]]])).flatten(1)
        tensor([[0.0000, 0.0000, 0.5000, 0.5000],
                [0.2500, 0.2500, 0.2500, 0.2500]])
    """
    background = (foreground == 0).to(foreground.dtype)
    return background / background.sum((2, 3), keepdim=True).clamp(min=1)


def random_mask(count: int, size: Sequence[int], ratio: float, generator: torch.Generator) -> Tensor:
    """Hide each position of each image with probability ``ratio``, in all channels together.

    Args:
        count: Number N of images.
        size: (H, W) of the level in cells.
        ratio: Probability that a position is hidden, in [0, 1].
        generator: Where the random numbers come from; the global generators are left alone.

    Returns:
        Mask of shape (N, 1, H, W), float32, on the generator's device: 0 where hidden, 1 elsewhere.

    Raises:
        ValueError: If ``ratio`` is not in [0, 1].

    Source: MGD, arXiv 2205.01529.

    Example:
        >>> import torch
        >>> random_mask(1, (2, 6), 0.65, torch.Generator().manual_seed(0))
        tensor([[[[0., 1., 0., 0., 0., 0.],
                  [0., 1., 0., 0., 0., 0.]]]])
    """
    check_number('ratio', ratio)
    if ratio > 1:
        raise argument_error('ratio', ratio, 'a number in [0, 1]')
    drawn = torch.rand(count, 1, *size, generator=generator, device=generator.device)
    return (drawn >= ratio).float()


def _between(positions: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Which of (L,) positions lie in the closed ranges (N, B): (N, B, L)."""
    return (positions >= first.unsqueeze(-1)) & (positions <= last.unsqueeze(-1))
