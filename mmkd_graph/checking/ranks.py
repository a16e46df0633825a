"""Whether all processes of a training will take part in the same iterations."""

from __future__ import annotations

from mmengine.dist import all_gather_object
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from .findings import FAIL, Finding

_KEY = 'train_dataloader'


def check_ranks(runner: Runner) -> list[Finding]:
    """Compare the size of the training set and the batches of an epoch between the processes.

    Where they differ, some process is still inside of an epoch when another one has left it, and waits for ever in the
    next sum over all processes (of gradients, or of a loss that adds up its statistics). All ranks have to call this,
    and all get the same findings.

    Args:
        runner: its training data loader is built.
    """
    own = _sizes(runner)
    ranks = all_gather_object(own)
    for what, key, values, advice in (
        ('training images', f'{_KEY}.dataset', [rank[0] for rank in ranks], 'every process has to see the same files'),
        (
            'batches an epoch',
            f'{_KEY}.sampler',
            [rank[1] for rank in ranks],
            'they would wait for each other for ever: use round_up=True, or a sampler that gives all ranks as many',
        ),
    ):
        if len({*values}) > 1:
            found = f'the processes have {", ".join(map(str, values))} {what}'
            return [Finding(FAIL, key, found, advice)]
    return []


def _sizes(runner: Runner) -> tuple[int | None, int | None]:
    """Images and batches of this process; None where there is no such number or it does not matter."""
    loader = runner.train_dataloader
    if not isinstance(loader, DataLoader):
        return None, None
    try:
        images = len(loader.dataset)
        # loops that count iterations begin a new epoch by themselves
        batches = len(loader) if isinstance(runner.train_loop, EpochBasedTrainLoop) else None
    except TypeError:  # without a length
        return None, None
    return images, batches
