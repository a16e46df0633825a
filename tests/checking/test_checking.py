"""Findings of several ranks, batches read without a trace, and detections compared with plain loops."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmkd_graph import findings
from mmkd_graph.checking import FAIL, OK, WARNING, CheckFailed, Finding, batches, step
from mmkd_graph.checking.accuracy import overlap
from mmkd_graph.checking.batches import batch_size, sample_batches
from mmkd_graph.checking.step import iterations


def test_ranks_agree_on_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [
        [Finding(OK, 'a', 'loss 1'), Finding(OK, 'b', 'loss 2'), Finding(WARNING, 'c', 'odd')],
        [Finding(OK, 'a', 'loss 3'), Finding(FAIL, 'b', 'loss nan', 'stop'), Finding(WARNING, 'c', 'odd')],
    ]
    monkeypatch.setattr(findings, 'all_gather_object', lambda own: ranks)
    for own in ranks:
        assert findings.agreed(own) == [ranks[0][0], ranks[0][2], ranks[1][1]]


def test_a_finding_is_one_line_and_failures_are_the_message() -> None:
    broken = Finding(FAIL, 'model', 'missing:\n  a,\n  b', 'name\nanother')
    assert str(broken) == 'FAIL     model: missing: a, b; name another'
    assert str(CheckFailed([Finding(OK, 'x', 'fine'), broken])) == str(broken)


class Numbers(Dataset):
    """What is read depends on what was read before, and on every generator."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[int, int]:
        self.read += 1
        random.random(), np.random.rand(), torch.rand(())
        return index, self.read


@pytest.mark.parametrize('count', [1, 2, 4])
def test_batches_are_read_without_a_trace(count: int) -> None:
    loader = DataLoader(Numbers(), batch_size=2, collate_fn=list)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    wanted = random.random(), np.random.rand(), torch.rand(()).item()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    indices, batches = sample_batches(loader, count)
    read = list(batches)
    assert [[item[0] for item in batch] for batch in read] == indices
    assert [len(batch) for batch in read] == [batch_size(loader)] * count
    assert {i for batch in indices for i in batch} <= set(range(5))
    assert loader.dataset.read == 0
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == wanted


class Locked(Numbers):
    """A data set with something that cannot be copied, and a transform with a state."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.pipeline = threading.Lock(), [dict(seen=0)]

    def __getitem__(self, index: int) -> tuple[int, int]:
        with self.lock:
            self.pipeline[0]['seen'] += 1
        return super().__getitem__(index)


def test_a_data_set_that_cannot_be_copied_whole_is_read_all_the_same() -> None:
    loader = DataLoader(Locked(), batch_size=2, collate_fn=list)
    assert len(list(sample_batches(loader, 2)[1])) == 2
    assert loader.dataset.pipeline == [dict(seen=0)] and loader.dataset.read == 0


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(w, 0) * max(h, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def test_every_rank_reads_something_of_a_small_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, 'get_dist_info', lambda: (5, 8))
    loader = DataLoader(list(range(3)), batch_size=2)
    indices, read = sample_batches(loader, 1)
    assert len(indices) == 1 and len(next(iter(read))) == 2


def test_several_data_sets_speak_for_all_where_their_classes_are_the_same() -> None:
    def loader(*metainfo: dict) -> SimpleNamespace:
        return SimpleNamespace(dataset=SimpleNamespace(metainfo=list(metainfo)))

    cats, also = dict(classes=('cat',), palette=[1]), dict(classes=['cat'], palette=[2])
    assert batches.metainfo_of(loader(cats, also)) == dict(classes=('cat',))
    assert batches.metainfo_of(loader(cats, dict(classes=('dog',)))) is None
    assert batches.metainfo_of(SimpleNamespace(dataset=[])) is None and batches.metainfo_of(None) is None


def test_overlap_is_what_loops_say() -> None:
    generator = torch.Generator().manual_seed(0)

    def boxes(count: int) -> torch.Tensor:
        corner = torch.rand(count, 2, generator=generator) * 4
        return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator)], 1)

    def labels(count: int) -> torch.Tensor:
        return torch.randint(0, 3, (count,), generator=generator)

    detections = [(boxes(n), labels(n), torch.rand(n, generator=generator)) for n in (9, 0, 3, 5)]
    truths = [(boxes(n), labels(n)) for n in (3, 2, 4, 0)]
    total = found = named = 0
    for (given, kinds, scores), (wanted, classes) in zip(detections, truths, strict=True):
        ranked = sorted(range(len(given)), key=lambda i: -scores[i].item())[: 2 * len(wanted)]
        for box, kind in zip(wanted.tolist(), classes.tolist(), strict=True):
            total += 1
            covering = [i for i in ranked if iou(given[i].tolist(), box) >= 0.5]
            found += bool(covering)
            named += bool(covering) and kinds[covering[0]].item() == kind
    seen = overlap(detections, truths)
    assert 0 < named < found < total
    assert (seen.boxes, seen.found, seen.named) == (total, pytest.approx(found / total), pytest.approx(named / found))


def test_no_training_is_projected_from_a_step_that_is_not_warm() -> None:
    cfg = dict(train_cfg=dict(max_iters=400))
    first = step._time(cfg, [28.5], 10, 4, 1)
    assert 'the first step of 4 images takes 28.5 s' in first.found and '400' not in first.found
    assert '400 iterations on 1 process take 200 s' in step._time(cfg, [28.5, 0.5], 10, 4, 1).found.replace(
        '3.3 min', '200 s'
    )


def test_iterations_of_the_whole_training() -> None:
    for images, batch, gpus in ((7, 2, 2), (8, 2, 2), (9, 2, 2), (5, 3, 1)):
        per_rank = -(-images // gpus)
        assert iterations(dict(max_epochs=3), images, batch, gpus) == 3 * -(-per_rank // batch)
    assert iterations(dict(type='IterBasedTrainLoop', max_iters=9), 7, 2, 2) == 9
    assert iterations(dict(), 7, 2, 2) is None
