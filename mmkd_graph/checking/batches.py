"""Some batches of a data set, read without any trace in the training that is going to read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, get_worker_info

from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.datasets.reading import name_images
from mmkd_graph.distillers.rng import preserved_rng


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

    One process is forked that reads them. Some transforms keep state (cached mosaics, for instance), and this way the
    state stays as it is here; random generators are put back too.

    Args:
        loader: the loader whose data set is read; its sampler is not touched.
        count: number of batches.

    Returns:
        The indices of the images of every batch, and the batches; the process ends when nobody asks for more.

    Raises:
        Exception: while a batch is asked for, whatever reading an image raises.
    """
    rank, ranks = get_dist_info()
    size = batch_size(loader)
    found = sample_indices(len(loader.dataset), count * size * ranks)
    indices = found[rank::ranks] or found
    # a data set of less than a batch gives the same images again
    indices = [indices[i % len(indices)] for i in range(count * size)]
    reader = DataLoader(
        loader.dataset,
        batch_size=size,
        sampler=indices,
        num_workers=1,
        collate_fn=loader.collate_fn,
        worker_init_fn=_name_images_here,
        multiprocessing_context='fork',
    )
    with preserved_rng():
        batches = iter(reader)  # draws the seed of the process
    return [indices[i : i + size] for i in range(0, len(indices), size)], batches


def _name_images_here(worker: int) -> None:
    """In the process that reads, so that the data set stays as it is."""
    name_images(get_worker_info().dataset)
