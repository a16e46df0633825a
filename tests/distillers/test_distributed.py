"""Two gloo processes with half the batch each train like one process with the whole batch."""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import save_weights, tiny_retinanet
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

STEPS = 6


def samples(count: int) -> dict[str, list]:
    """``count`` images of 64x96 with the same two boxes each.

    mmdet's RetinaHead divides by the positive anchors of its own rank: only with equally many on every rank is its
    loss that of the whole batch.
    """
    generator = torch.Generator().manual_seed(1)
    data: dict[str, list] = dict(inputs=[], data_samples=[])
    corner = torch.rand(2, 2, generator=generator) * 30
    for i in range(count):
        sample = DetDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0), img_id=i))
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + 30], dim=1), labels=torch.tensor([i % 3, (i + 1) % 3])
        )
        data['inputs'].append(torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=generator))
        data['data_samples'].append(sample)
    return data


def build(checkpoint: str) -> Any:
    init_default_scope('mmdet')
    torch.manual_seed(0)
    student = tiny_retinanet()
    student['backbone'].update(norm_eval=True, norm_cfg=dict(type='BN', requires_grad=False))
    model = MMDET_MODELS.build(
        dict(
            type='mmkd_graph.GraphDistiller',
            student=student,
            teacher=dict(config=tiny_retinanet(base_channels=16, fpn_channels=32), checkpoint=checkpoint),
            losses=dict(
                crg=dict(type='mmkd_graph.CRGLoss'),
                cwd=dict(type='mmkd_graph.CWDLoss'),
                fgd=dict(type='mmkd_graph.FGDLoss'),
            ),
        )
    )
    model.init_weights()
    return model


def curve(model: Any, data: dict[str, list]) -> list[dict[str, float]]:
    """Every loss term of every step, averaged over the ranks."""
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)))
    steps = []
    for _ in range(STEPS):
        logged = model.train_step(copy.deepcopy(data), wrapper)
        values = torch.stack([value.detach() for value in logged.values()])
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        steps.append(dict(zip(logged, values.tolist(), strict=True)))
    return steps


def work(rank: int, port: int, checkpoint: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model = MMDistributedDataParallel(build(checkpoint).train())
    data = {key: value[rank::2] for key, value in samples(4).items()}
    sent: list[int] = []

    def counted(state, bucket):  # DDP can not read postponed annotations
        sent.append(bucket.buffer().numel() * bucket.buffer().element_size())
        return allreduce_hook(state, bucket)

    model.register_comm_hook(dist.group.WORLD, counted)
    steps = curve(model, data)
    if rank == 0:
        torch.save(dict(steps=steps, state=model.module.state_dict(), sent=sum(sent)), out)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.timeout(180)
def test_two_ranks_follow_the_curve_of_one(tmp_path: Path) -> None:
    checkpoint = save_weights(tiny_retinanet(base_channels=16, fpn_channels=32), tmp_path / 'teacher.pth')
    single = build(checkpoint).train()
    wanted = curve(single, samples(4))
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, checkpoint, str(tmp_path / 'two.pth')), nprocs=2)
    two = torch.load(tmp_path / 'two.pth')
    gradients = {name: p.nbytes for name, p in single.named_parameters() if p.requires_grad}
    learned = sum(size for name, size in gradients.items() if name.startswith('distill.'))
    student = sum(p.nbytes for p in single.student.parameters() if p.requires_grad)
    assert 0 < learned < student
    assert two['sent'] == STEPS * (student + learned), 'bytes sent for gradients, the teacher adds none'
    for one_step, two_step in zip(wanted, two['steps'], strict=True):
        assert one_step.keys() == two_step.keys()
        for term, value in one_step.items():
            assert two_step[term] == pytest.approx(value, abs=1e-4), term
    for key, value in single.state_dict().items():
        torch.testing.assert_close(two['state'][key], value, atol=1e-4, rtol=1e-4, msg=key)
    assert wanted[-1]['loss'] < wanted[0]['loss']
