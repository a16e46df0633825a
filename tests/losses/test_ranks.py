"""Losses of samples on two gloo processes: each compares its own, the class centres are those of both."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import annotated
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmkd_graph.losses import DistillContext, LFCCLoss, MHGDLoss, PyramidSpec, REFILLEDLoss

STRIDES = (8, 16)
LOSSES = {
    'lfcc': lambda: LFCCLoss(embed_channels=4, output_size=2, scales=(1, 2), samples='instances'),
    'mhgd': lambda: MHGDLoss(pool_size=2, num_heads=4, samples='instances'),
    'refilled': lambda: REFILLEDLoss(num_classes=3, margin=0.5, samples='instances'),
}


class Model(nn.Module):
    """Two convolutions for a student, and a loss."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(3, 6, 3, stride, 1) for stride in (1, 2))
        self.loss = loss

    def forward(self, inputs: torch.Tensor, samples: list) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        kernels = torch.randn(2, 6, 3, 3, 3, generator=generator)
        teacher = tuple(
            nn.functional.conv2d(inputs, kernel, stride=s, padding=1) for kernel, s in zip(kernels, (1, 2), strict=True)
        )
        terms = self.loss(tuple(level(inputs) for level in self.levels), teacher, DistillContext(samples, STRIDES, ()))
        return torch.stack(list(terms.values())).sum()


def data(step: int) -> tuple[torch.Tensor, list]:
    """Four images: six boxes, none, one and two (the second rank has few, in the second step none at all)."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(4, 3, 12, 12, generator=generator)
    samples = []
    for count in (6, 0, 1, 2) if step == 0 else (3, 4, 0, 0):
        corner = torch.rand(count, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 40], dim=1)
        samples.append(annotated(boxes, torch.arange(count) % 3 // 2))
    return inputs, samples


def train(name: str, rank: int | None) -> dict[str, Any]:
    torch.manual_seed(0)
    loss = LOSSES[name]()
    loss.bind(PyramidSpec(STRIDES, (6, 6), (6, 6), name))
    plain = Model(loss)
    model = plain if rank is None else DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    for step in (0, 1, 0):
        inputs, samples = data(step)
        optimizer.zero_grad()
        value = model(inputs[part], samples[part])
        value.backward()
        optimizer.step()
    return plain.state_dict()


def work(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    result = {name: train(name, rank) for name in LOSSES}
    torch.save(result, f'{out}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out: Path = tmp_path_factory.mktemp('ranks')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, str(out)), nprocs=2)
    return [torch.load(out / f'{rank}.pth') for rank in range(2)]


@pytest.mark.parametrize('name', LOSSES)
def test_ranks_with_few_samples_or_none_run_and_agree(ranks, name):
    one, other = (result[name] for result in ranks)
    # Running statistics are each rank's own until the next step, as those of batch normalisation always are.
    assert all(torch.equal(one[key], other[key]) for key in one if 'running' not in key)


def test_class_centres_are_those_of_all_ranks(ranks):
    wanted = train('refilled', None)
    found = ranks[0]['refilled']
    assert torch.equal(found['loss.counts'], wanted['loss.counts'])
    torch.testing.assert_close(found['loss.centers'], wanted['loss.centers'])
