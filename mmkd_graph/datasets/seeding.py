"""Random numbers that depend on where a training is, not on how it came there."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, sync_random_seed
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import Dataset, Sampler

from mmkd_graph.registry import DATA_SAMPLERS

from .reading import UnreadableImage, name_images, unreadable


def seed_generators(*key: int, devices: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators with a key of integers.

    Args:
        *key: non-negative integers; generators of neighbouring keys are independent.
        devices: seed the generators of all accelerators too, not only the CPU's.

    Example:
        >>> seed_generators(0, 7)
        >>> first = random.random(), np.random.rand(), torch.rand(()).item()
        >>> seed_generators(0, 7)
        >>> first == (random.random(), np.random.rand(), torch.rand(()).item())
        True
    """
    python, numpy, torch_seed = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(python)
    np.random.seed(numpy)
    if devices:
        torch.manual_seed(torch_seed)
    else:
        torch.default_generator.manual_seed(torch_seed)


class _Place(int):
    """Index of a sample that knows which epoch asked for it, and as how many-th of its rank's samples."""

    epoch: int
    position: int


class _SeededItems:
    """What the data loader's fetcher calls instead of indexing the data set, in whichever process it works."""

    def __init__(self, dataset: Dataset, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        items = []
        for index in indices:
            if isinstance(index, _Place):
                seed_generators(self.seed, self.rank, index.epoch, index.position)
                index = int(index)
            try:
                items.append(self.dataset[index])
            except Exception as error:  # of a transform that mixes images
                if isinstance(error, UnreadableImage) or not hasattr(self.dataset, 'get_data_info'):
                    raise
                raise unreadable(self.dataset, index, error) from error
        return items


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Any sampler, whose samples take their random numbers from their position in the training.

    mmengine seeds a worker process when it starts and lets its generators run on, so a resumed run starts the
    sequence of augmentations again, and another number of workers gives other ones. Here Python's, NumPy's and
    torch's generators are seeded for every sample with the run's seed, the rank, the epoch and the position of the
    sample in it: the augmentations of a resumed run are those of an uninterrupted one, for any number of workers,
    persistent or not. The order of the samples stays that of the wrapped sampler. What cannot be read is an
    :class:`~mmkd_graph.datasets.reading.UnreadableImage` that names the image.

    ``tools/train.py`` wraps the sampler of every ``train_dataloader``. Transforms that keep a random generator of
    their own are not reached.

    Args:
        dataset: the data set (given by mmengine).
        sampler: config of the sampler to wrap.
        seed: the run's seed (given by mmengine; ``None`` with ``diff_rank_seed``).

    Example::

        train_dataloader = dict(
            sampler=dict(type='mmkd_graph.SeededSampler', sampler=dict(type='InfiniteSampler', shuffle=True)))
    """

    def __init__(self, dataset: Dataset, sampler: Mapping, seed: int | None = None) -> None:
        self.sampler = MMENGINE_DATA_SAMPLERS.build(dict(sampler), default_args=dict(dataset=dataset, seed=seed))
        seed = getattr(self.sampler, 'seed', None) if seed is None else seed
        name_images(dataset)
        # The hook of torch's data loader for whole batches. Indexing itself stays as it is for everybody else.
        dataset.__getitems__ = _SeededItems(dataset, sync_random_seed() if seed is None else seed, get_rank())
        self._start = 0
        # mmengine asks whether a sampler has `skip` before it takes the slow way to a resumed position
        if hasattr(self.sampler, 'skip'):
            self.skip = self._skip

    def __iter__(self) -> Iterator[int]:
        epoch = getattr(self.sampler, 'epoch', 0)
        for position, index in enumerate(self.sampler, self._start):
            place = _Place(index)
            place.epoch, place.position = epoch, position
            yield place

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # not set yet: being copied or unpickled
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def _skip(self, num_samples: int) -> None:
        """Go on at an absolute position (mmengine's ``InfiniteSampler.skip``)."""
        self.sampler.skip(num_samples)
        self._start = num_samples
