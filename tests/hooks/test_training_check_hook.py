"""The check at the start of a training leaves no trace in a good one and stops a bad one, on all ranks."""

from __future__ import annotations

import copy
import os
import random
import socket
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

from mmkd_graph.checking import CheckFailed, check_runner
from mmkd_graph.checking import losses as checked_losses
from mmkd_graph.distillers.gradient_norms import LossFailed
from mmkd_graph.losses import PyramidLoss
from mmkd_graph.registry import HOOKS, MODELS
from mmkd_graph.testing import save_weights, tiny_retinanet

CRG = dict(type='mmkd_graph.CRGLoss')
RATIO = dict(CRG, loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5, iterations=2))
HOOK = dict(type='mmkd_graph.TrainingCheckHook')


class Remembering(Dataset):
    """Six images with a box each; what is read depends on what was read before, and on all random generators."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, broken_rank: int | None = None) -> None:
        self.read = 0
        self.broken_rank = broken_rank

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.broken_rank is not None and dist.get_rank() == self.broken_rank:
            raise FileNotFoundError(f'no image {index % 2}')
        self.read += 1
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), img_id=index))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[4.0, 4, 44, 52], [10, 4, 30, 30]]), labels=torch.tensor([index % 3, self.read % 3])
        )
        shade = random.random() + np.random.rand() + index + self.read
        image = torch.randint(0, 50, (3, 64, 64), dtype=torch.uint8) + int(shade * 4)
        return dict(inputs=image, data_samples=sample)


class Five(Remembering):
    def __len__(self) -> int:
        return 5


@MODELS.register_module(force=True)
class OddLoss(PyramidLoss):
    """A term that is not what it should be; its own state moves in every pass."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer('passes', torch.tensor(0.0))
        self.calls = 0

    def forward(self, student: tuple, teacher: tuple, context: Any) -> dict[str, torch.Tensor]:
        self.passes += 1
        self.calls += 1
        if self.kind == 'raises':
            raise ValueError('model.losses.odd.num_classes=2, but the batch has the label 2')
        value = student[0].mean() * (1 + self.passes + self.calls + torch.rand(()))
        if self.kind == 'detached':
            value = value.detach() + 0 * student[0].sum()
        return dict(odd=value * dict(nan=torch.nan, zero=0.0).get(self.kind, 1.0))


def build(
    work_dir: Path, teacher: dict, losses: dict, hooks: list, dataset: Dataset | None = None, **more: Any
) -> Runner:
    student = more.pop('student', tiny_retinanet())
    return Runner(
        model=copy.deepcopy(dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=losses)),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dataset or Remembering(),
            sampler=more.pop('sampler', dict(type='InfiniteSampler', shuffle=True)),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=more.pop('train_cfg', dict(by_epoch=False, max_iters=3)),
        optim_wrapper=more.pop('optim_wrapper', dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)),
        custom_hooks=hooks,
        randomness=dict(seed=3),
        log_level='WARNING',
        experiment_name=uuid.uuid4().hex,
        default_scope='mmdet',
        **more,
    )


def outcome(runner: Runner) -> dict[str, Any]:
    """Weights, buffers, curves, what the next draws would be, and what a loss and the data remember."""
    model = getattr(runner.model, 'module', runner.model)
    curves = {
        name: buffer.data[0].tolist()
        for name, buffer in runner.message_hub.log_scalars.items()
        if 'loss' in name or 'kd.' in name
    }
    return dict(
        state=model.state_dict(),
        curves=curves,
        draws=[random.random(), np.random.rand(), torch.rand(()).item()],
        remembered=[runner.train_dataloader.dataset.read]
        + [loss.calls for loss in model.distill.losses.values() if isinstance(loss, OddLoss)],
    )


def assert_equal(one: dict, other: dict) -> None:
    assert one['state'].keys() == other['state'].keys()
    assert all(torch.equal(one['state'][key], value) for key, value in other['state'].items())
    assert {k: v for k, v in one.items() if k != 'state'} == {k: v for k, v in other.items() if k != 'state'}


def test_what_a_loss_raises_stops_the_training_in_a_line(teacher: dict, tmp_path: Path) -> None:
    runner = build(tmp_path, teacher, dict(odd=dict(type='OddLoss', kind='raises')), [HOOK])
    with pytest.raises(CheckFailed, match=r'^FAIL +model\.losses\.odd\.num_classes: 2, but the batch has'):
        runner.train()


def test_among_several_ranks_it_is_raised(teacher: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one rank's own batch: turned into a finding, the other ranks would wait for it for ever."""
    monkeypatch.setattr(checked_losses, 'get_world_size', lambda: 2)
    runner = build(tmp_path, teacher, dict(odd=dict(type='OddLoss', kind='raises')), [HOOK])
    with pytest.raises(LossFailed, match=r'^model\.losses\.odd\.num_classes=2, but the batch has the label 2'):
        runner.train()


def test_hooks_that_never_begin_are_told(teacher: dict, tmp_path: Path) -> None:
    runner = build(tmp_path, teacher, dict(crg=CRG), [HOOK])
    runner.cfg.update(custom_hooks=[dict(type='EMAHook', begin_iter=7)], train_cfg=dict(max_iters=3))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    (finding,) = (x for x in check_runner(runner) if x.key.startswith('custom_hooks'))
    assert finding.level == 'warning' and 'begin_iter=7, but the training ends after 3 iterations' in finding.found


@pytest.mark.parametrize('kind', ['OptimWrapper', 'AmpOptimWrapper'])
def test_the_training_is_the_same_to_the_last_bit(tmp_path: Path, teacher: dict, kind: str) -> None:
    if kind == 'AmpOptimWrapper' and not torch.cuda.is_available():
        pytest.skip('mmengine has automatic mixed precision on accelerators only')
    wrapper = dict(type=kind, optimizer=dict(type='SGD', lr=0.01, momentum=0.9), accumulative_counts=2)
    losses = dict(crg=RATIO, odd=dict(type='OddLoss', kind='good'))
    outcomes = []
    for name, hooks in (('with', [HOOK]), ('without', [])):
        runner = build(tmp_path / name, teacher, losses, hooks, optim_wrapper=copy.deepcopy(wrapper))
        runner.train()
        outcomes.append(outcome(runner))
    assert_equal(*outcomes)
    assert outcomes[0]['remembered'] == [6, 3], 'two images and a pass of the loss per iteration, none for the check'
    # and on resume
    resumed = build(
        tmp_path / 'resumed',
        teacher,
        losses,
        [HOOK],
        optim_wrapper=wrapper,
        resume=True,
        load_from=str(tmp_path / 'with' / 'iter_2.pth'),
    )
    resumed.train()
    assert resumed.iter == 3


@pytest.mark.parametrize(
    ('loss', 'words'),
    [
        ('nan', 'model.losses.odd: odd is nan'),
        ('zero', 'model.losses.odd: every term is zero in 3 batches'),
        ('detached', 'model.losses.odd: no gradient reaches the student'),
    ],
)
def test_losses_that_train_nothing(tmp_path: Path, teacher: dict, loss: str, words: str) -> None:
    runner = build(tmp_path, teacher, dict(crg=CRG, odd=dict(type='OddLoss', kind=loss)), [HOOK])
    with pytest.raises(CheckFailed) as stopped:
        runner.train()
    assert words in str(stopped.value) and len(stopped.value.failures) == 1
    assert runner.iter == 0
    logged_only = dict(type='OddLoss', kind=loss, loss_weight=0)
    build(tmp_path / 'logged', teacher, dict(crg=CRG, odd=logged_only), [HOOK]).train()


def test_heads_and_pictures(tmp_path: Path, teacher: dict) -> None:
    with pytest.raises(CheckFailed, match=r'model\.student\.bbox_head\.num_classes: bbox_head has 5 classes'):
        build(tmp_path / 'a', teacher, dict(crg=CRG), [HOOK], student=tiny_retinanet(num_classes=5)).train()

    class Broken(Remembering):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise FileNotFoundError('no image 7')

    with pytest.raises(CheckFailed, match=r'FAIL +train_dataloader\.dataset: FileNotFoundError: no image 7'):
        build(tmp_path / 'b', teacher, dict(crg=CRG), [HOOK], Broken()).train()


def test_labels_that_the_classes_do_not_have(tmp_path: Path, teacher: dict) -> None:
    class Outside(Remembering):
        metainfo = dict(classes=('a', 'b'))

    words = r'train_dataloader\.dataset\.metainfo\.classes: . boxes in the first batches, .* have labels as 2, where 2'
    with pytest.raises(CheckFailed, match=words):
        build(tmp_path, teacher, dict(crg=CRG), [HOOK], Outside(), student=tiny_retinanet(num_classes=2)).train()


def test_a_plain_detector_is_left_alone(tmp_path: Path) -> None:
    class Plain:
        model = torch.nn.Linear(1, 1)

    HOOKS.build(HOOK).before_train(Plain())


def work(rank: int, port: int, folder: str, teacher: dict) -> None:
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    init_default_scope('mmdet')
    address = f'tcp://127.0.0.1:{port}'
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
    more = dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=wrapper))
    losses = dict(crg=RATIO, odd=dict(type='OddLoss', kind='good'))
    outcomes = []
    for name, hooks in (('with', [HOOK]), ('without', [])):
        runner = build(Path(folder, name), teacher, losses, hooks, **more)
        runner.train()
        outcomes.append(outcome(runner))
    assert_equal(*outcomes)
    # only one rank can not read its images
    runner = build(Path(folder, 'broken'), teacher, losses, [HOOK], Remembering(broken_rank=1), **more)
    with pytest.raises(CheckFailed) as stopped:
        runner.train()
    Path(folder, f'words-{rank}.txt').write_text(str(stopped.value))
    # three images for one rank, two for the other
    epochs = dict(
        sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
        train_cfg=dict(by_epoch=True, max_epochs=1),
    )
    runner = build(Path(folder, 'uneven'), teacher, losses, [HOOK], Five(), **epochs, **more)
    with pytest.raises(CheckFailed, match=r'train_dataloader\.sampler: the processes have 2, 1 batches an epoch'):
        runner.train()
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.timeout(180)
def test_two_ranks_agree(tmp_path: Path) -> None:
    wide = tiny_retinanet(base_channels=16, fpn_channels=32)
    teacher = dict(config=wide, checkpoint=save_weights(wide, tmp_path / 'teacher.pth'))
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path), teacher), nprocs=2)
    words = [Path(tmp_path, f'words-{rank}.txt').read_text() for rank in (0, 1)]
    assert words[0] == words[1] and 'train_dataloader.dataset: FileNotFoundError: no image' in words[0]
