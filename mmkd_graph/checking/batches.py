"""Some batches of a data set, read without any trace in the training that is going to read it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader

from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.datasets.reading import name_images
from mmkd_graph.distillers.rng import preserved_rng

_CHANGED_BY_READING = ('pipeline', 'transforms', 'dataset', 'datasets', 'prepare_data', '__getitems__')
"""Attributes of data sets that hold transforms, or data sets inside."""


def sample_indices(size: int, count: int) -> list[int]:
    """``count`` indices, evenly spaced over a data set of ``size``; fewer if it is smaller.

    Example:
        >>> sample_indices(100, 4), sample_indices(3, 4)
        ([0, 25, 50, 75], [0, 1, 2])
    """
    count = min(size, count)
    return [i * size // count for i in range(count)]


def metainfo_of(loader: DataLoader | None) -> dict[str, Any] | None:
    """What a loader's data set says of itself; of several, what all of them say; None if that is nothing."""
    return common_metainfo(getattr(loader.dataset, 'metainfo', None) if loader else None) or None


def batch_size(loader: DataLoader) -> int:
    """Images of one batch of one process."""
    size = getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size or 1
    return size if isinstance(size, int) else sum(size)


def sample_batches(loader: DataLoader, count: int) -> tuple[list[list[int]], Iterator[Any]]:
    """``count`` whole batches as the loader's data set and collation give them, of other images on every rank.

    They are read here, from a copy of the data set: some transforms keep state (cached mosaics, for instance), and this
    way the state stays as it is. Random generators are put back too. No process is forked: a process group has threads,
    and a child that is forked while one of them holds a lock may wait for that lock for ever.

    Args:
        loader: the loader whose data set is read; its sampler is not touched.
        count: number of batches.

    Returns:
        The indices of the images of every batch, and the batches; to ask for one raises what reading an image raises.
    """
    rank, ranks = get_dist_info()
    size = batch_size(loader)
    found = sample_indices(len(loader.dataset), count * size * ranks)
    indices = found[rank::ranks] or found
    # a data set of less than a batch gives the same images again
    indices = [indices[i % len(indices)] for i in range(count * size)]
    batches = [indices[i : i + size] for i in range(0, len(indices), size)]
    return batches, _read(loader, batches)


def _read(loader: DataLoader, batches: list[list[int]]) -> Iterator[Any]:
    dataset = _copied(loader.dataset)
    name_images(dataset)
    for batch in batches:
        with preserved_rng():
            data = loader.collate_fn([dataset[index] for index in batch])
        yield data


def _copied(dataset: Any) -> Any:
    """A data set whose transforms may change their state; the records of its images are shared."""
    memo: dict[int, Any] = {}
    inside, seen = [dataset], []
    while inside:
        one = inside.pop()
        seen.append(one)
        for name, value in getattr(one, '__dict__', {}).items():
            if isinstance(value, np.ndarray) or name in ('cat_img_map', 'data_list'):
                memo[id(value)] = value
            elif name in ('dataset', 'datasets'):
                inside += value if isinstance(value, (list, tuple)) else [value]
    try:
        return copy.deepcopy(dataset, dict(memo))
    except Exception:  # open files, locks: shared, as forked workers share them; what reading changes is copied
        for one in seen:
            memo.update((id(value), value) for name, value in vars(one).items() if name not in _CHANGED_BY_READING)
        return copy.deepcopy(dataset, memo)
