"""Two gloo processes that gather their samples compute what one process with all samples does."""

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

from mmkd_graph.losses import DistillContext, MHGDLoss, PyramidSpec, REFILLEDLoss
from mmkd_graph.losses.gathering import gather_samples

STRIDES = (8, 16)
LOSSES = {
    'mhgd': lambda **kwargs: MHGDLoss(pool_size=2, num_heads=4, samples='instances', **kwargs),
    'refilled': lambda **kwargs: REFILLEDLoss(num_classes=3, margin=0.5, samples='instances', **kwargs),
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


def train(name: str, rank: int | None, **kwargs: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    loss = LOSSES[name](**kwargs)
    loss.bind(PyramidSpec(STRIDES, (6, 6), (6, 6), name))
    plain = Model(loss)
    model = plain if rank is None else DistributedDataParallel(plain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    values, grads = [], []
    for step in (0, 1, 0):
        inputs, samples = data(step)
        optimizer.zero_grad()
        value = model(inputs[part], samples[part])
        value.backward()
        values.append(value.item())
        grads.append({k: p.grad.clone() for k, p in plain.named_parameters()})
        optimizer.step()
    return dict(values=values, grads=grads, state=plain.state_dict())


def work(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    own = (torch.arange(3 * rank, dtype=torch.float32).reshape(rank, 3) + 1).requires_grad_()
    whole = gather_samples(own)
    (whole * torch.arange(3)).sum().backward()
    result: dict[str, Any] = dict(
        gathered=whole.detach(), grad=own.grad, nothing=gather_samples(torch.zeros(0, 2, requires_grad=True))
    )
    for name in LOSSES:
        result[name] = train(name, rank, gather=True)
        result[f'{name}, apart'] = train(name, rank)
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


def test_samples_of_different_number_are_gathered_with_gradient(ranks):
    for rank, result in enumerate(ranks):
        assert torch.equal(result['gathered'], torch.tensor([[1.0, 2.0, 3.0]]))
        # times two, for the average over two ranks
        assert torch.equal(result['grad'], torch.tensor([[0.0, 2.0, 4.0]] * rank).reshape(-1, 3))
        assert result['nothing'].shape == (0, 2) and result['nothing'].requires_grad


@pytest.mark.parametrize('name', LOSSES)
def test_two_gathering_ranks_train_like_one_with_all_samples(ranks, name):
    wanted = train(name, None)
    assert all(value > 1e-3 for value in wanted['values'])
    for result in ranks:
        assert result[name]['values'] == pytest.approx(wanted['values'], rel=1e-4)
        for found, grads in zip(result[name]['grads'], wanted['grads'], strict=True):
            assert any(g.abs().max() > 1e-4 for g in grads.values())
            for key, grad in grads.items():
                torch.testing.assert_close(found[key], grad, rtol=1e-3, atol=1e-5, msg=key)
        for key, value in wanted['state'].items():
            torch.testing.assert_close(result[name]['state'][key], value, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize('name', LOSSES)
def test_ranks_that_do_not_gather_run_and_agree(ranks, name):
    one, other = (result[f'{name}, apart']['state'] for result in ranks)
    # Running statistics are each rank's own until the next step, as those of batch normalisation always are.
    assert all(torch.equal(one[key], other[key]) for key in one if 'running' not in key)


def test_class_centres_are_those_of_all_ranks_without_gathering_too(ranks):
    wanted = train('refilled', None)['state']
    found = ranks[0]['refilled, apart']['state']
    assert torch.equal(found['loss.counts'], wanted['loss.counts'])
    torch.testing.assert_close(found['loss.centers'], wanted['loss.centers'])
