"""Samples take their random numbers from their position, whichever process makes them."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator

from mmkd_graph.datasets.seeding import SeededSampler, seed_generators


class Draws:
    """A data set that returns its index and one number of each generator."""

    metainfo = dict(classes=('a',))

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        assert type(index) is int
        return index, random.random(), float(np.random.rand()), torch.rand(()).item()

    def get_data_info(self, index: int) -> dict[str, int]:
        return dict(width=1 + index % 2, height=1)


def loader(kind: str = 'InfiniteSampler', seed: int | None = 3, **options: Any) -> Any:
    sampler = dict(type='mmkd_graph.SeededSampler', sampler=dict(type=kind, shuffle=True))
    options = dict(dict(batch_size=2, num_workers=0), **options)
    config = dict(dataset=Draws(), sampler=sampler, collate_fn=dict(type='default_collate'), **options)
    return Runner.build_dataloader(config, seed=seed)


def take(batches: Any, count: int) -> list[list[float]]:
    return [[tensor.tolist() for tensor in next(batches)] for _ in range(count)]


def test_the_order_is_that_of_the_wrapped_sampler() -> None:
    plain = Runner.build_dataloader(
        dict(dataset=Draws(), sampler=dict(type='InfiniteSampler', shuffle=True), batch_size=2, num_workers=0), seed=3
    )
    wanted = [int(index) for batch in take_indices(plain, 6) for index in batch]
    assert [int(index) for batch in take_indices(loader(), 6) for index in batch] == wanted


def take_indices(data: Any, count: int) -> list[list[int]]:
    batches = iter(data.batch_sampler)
    return [next(batches) for _ in range(count)]


def test_nothing_depends_on_the_workers_or_on_what_was_drawn_before() -> None:
    wanted = take(iter(loader()), 6)
    assert len({draw for _, *draws in wanted for kind in draws for draw in kind}) == 6 * 2 * 3
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert take(iter(loader(num_workers=2, persistent_workers=True)), 6) == wanted
    assert take(iter(loader(seed=4)), 6) != wanted


@pytest.mark.parametrize('options', [{}, dict(batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))])
def test_skipping_is_going_on(options: dict) -> None:
    """With and without mmengine's quick way, which asks the sampler to skip."""
    wanted = take(_InfiniteDataloaderIterator(loader(**options)), 6)[4:]
    batches = _InfiniteDataloaderIterator(loader(**options))
    if hasattr(batches, 'skip_iter'):
        batches.skip_iter(4)
    else:  # upstream mmengine
        take(batches, 4)
    assert take(batches, 2) == wanted


def test_every_epoch_has_numbers_of_its_own_and_the_same_ones_again() -> None:
    data = loader('DefaultSampler')

    def epoch(data: Any, number: int) -> list[list[float]]:
        data.sampler.set_epoch(number)
        return take(iter(data), 3)

    first, second = epoch(data, 0), epoch(data, 1)
    assert {tuple(draw) for _, draw, *_ in first}.isdisjoint(tuple(draw) for _, draw, *_ in second)
    assert epoch(loader('DefaultSampler'), 1) == second


def test_ranks_draw_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws(rank: int) -> Any:
        monkeypatch.setattr('mmkd_graph.datasets.seeding.get_rank', lambda: rank)
        return take(iter(loader()), 1)[0][1:]

    assert draws(0) == draws(0) != draws(1)


def test_a_wrapped_data_set_can_be_sent_to_a_process() -> None:
    """As data loaders do that spawn their workers."""
    dataset, index = pickle.loads(pickle.dumps((loader().dataset, next(iter(loader().sampler)))))
    assert dataset.__getitems__([index, index])[0] == loader().dataset.__getitems__([index])[0]


def test_neighbouring_keys_are_independent() -> None:
    draws = []
    for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        seed_generators(*key)
        draws.append(torch.rand(1000))
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_attributes_are_those_of_the_wrapped_sampler() -> None:
    sampler = SeededSampler(Draws(), dict(type='DefaultSampler', shuffle=False), seed=1)
    assert (len(sampler), sampler.seed, sampler.shuffle) == (5, 1, False)
    assert not hasattr(sampler, 'skip')
