"""What a loss may compare, and samples of all ranks, with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather, get_rank, get_world_size
from torch import Tensor


def check_samples(samples: str, accepted: Sequence[str], gather: bool) -> None:
    """Raise ``ValueError`` unless a loss can take these samples, and gather them if asked: cells are each rank's own.

    Args:
        samples: what the config asks for.
        accepted: what the loss can compare.
        gather: whether the samples of all ranks are to be taken together.

    Example:
        >>> check_samples('pixels', ('cells', 'images'), gather=False)
        Traceback (most recent call last):
        ...
        ValueError: samples='pixels'; accepted: 'cells', 'images'
    """
    if samples not in accepted:
        raise ValueError(f'samples={samples!r}; accepted: {", ".join(map(repr, accepted))}')
    if samples == 'cells' and gather:
        raise ValueError("gather=True; accepted with samples='cells': False")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        sizes = [int(n) for n in all_gather(torch.tensor([len(own)], device=own.device))]
        rank = get_rank()
        ctx.part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        if not any(sizes):
            return own.clone()
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        return torch.cat([part[:size] for part, size in zip(all_gather(padded), sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[ctx.part] * get_world_size()


def gather_samples(own: Tensor) -> Tensor:
    """The samples of all ranks, in the order of the ranks; every rank must call it, also with none.

    Made for a loss that every rank then computes from the same samples, under DistributedDataParallel, which averages
    gradients over ranks. Each rank's samples reach the weights through that rank alone, so their gradient is multiplied
    by the number of ranks; the average is then that of one process with all samples. Parameters that the loss itself
    holds get their whole gradient on every rank, and the average changes nothing.

    Args:
        own: (K, …), this rank's samples; K may differ between ranks, the rest not.

    Returns:
        (K_0 + K_1 + …, …). Without a process group, ``own``.

    Example:
        >>> import torch
        >>> gather_samples(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    return own if get_world_size() == 1 else _Gather.apply(own)
