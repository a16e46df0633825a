"""The schedule is the formula, stops what it stops, and goes on where it was after a resume."""

from __future__ import annotations

import copy
import math
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.data import Dataset

from mmkd_graph.hooks import LossScheduleHook, loss_schedule_hook
from mmkd_graph.registry import HOOKS


class Boxes(Dataset):
    """Six images of 64x64 with one box each."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), img_id=index))
        corner = torch.rand(1, 2, generator=generator) * 30
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + 30], dim=1), labels=torch.tensor([index % 3])
        )
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
        return dict(inputs=image, data_samples=sample)


CRG = dict(type='mmkd_graph.CRGLoss', edge_weight=0, spectral_weight=0)
MSE = dict(type='mmkd_graph.FitNetLoss')
SCORE = dict(type='mmkd_graph.ScoreKDLoss')


class Recorder(LossScheduleHook):
    """Notes what the model was given, and how often the teacher ran."""

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.calls: list[int] = []
        model = getattr(runner.model, 'module', runner.model)
        model.teacher.model.backbone.register_forward_hook(lambda *_: self.calls.append(runner.iter))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.seen.append((runner.iter, {key: value.item() for key, value in outputs.items()}))


def train(
    work_dir: Path,
    models: tuple[dict, dict],
    hooks: list,
    losses: dict | None = None,
    iters: int | None = None,
    epochs: int | None = None,
    **options: Any,
) -> Runner:
    """Train for ``iters`` iterations, or for ``epochs`` of three iterations each."""
    loop = dict(by_epoch=True, max_epochs=epochs) if epochs else dict(by_epoch=False, max_iters=iters)
    checkpoint = dict(type='CheckpointHook', interval=1 if epochs else 4, by_epoch=bool(epochs))
    model = options.pop('model', None) or dict(
        type='mmkd_graph.GraphDistiller', student=models[0], teacher=models[1], losses=losses or dict(crg=CRG)
    )
    runner = Runner(
        model=copy.deepcopy(model),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Boxes(),
            sampler=dict(type='DefaultSampler' if epochs else 'InfiniteSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(checkpoint=checkpoint),
        custom_hooks=hooks,
        randomness=dict(seed=3),
        log_level='WARNING',
        experiment_name=uuid.uuid4().hex,
        default_scope='mmdet',
        **options,
    )
    runner.train()
    return runner


@pytest.fixture
def models(student, teacher) -> tuple[dict, dict]:
    return student, teacher


def logged(runner: Runner, name: str) -> list[float]:
    return runner.message_hub.get_scalar(f'train/kd.{name}.factor').data[0].tolist()


# ------------------------------------------------------------------------------------------------ the factor


def test_the_factor_is_the_formula():
    hook = LossScheduleHook(begin=2, warmup=4, policy='cosine', end=16, end_ratio=0.3, stop=20, by_epoch=False)
    for time in range(30):
        if time < 2 or time >= 20:
            wanted = 0.0
        elif time < 6:
            wanted = (time - 2) / 4
        elif time < 16:
            wanted = 0.3 + 0.7 * (1 + math.cos(math.pi * (time - 6) / 10)) / 2
        else:
            wanted = 0.3
        assert hook.factor(time, last=30) == pytest.approx(wanted, abs=1e-12), time


def test_linear_decay_ends_with_the_training_by_default():
    hook = LossScheduleHook(policy='linear')
    assert [hook.factor(t, last=8) for t in (0, 2, 4, 8)] == [1.0, 0.75, 0.5, 0.0]
    assert LossScheduleHook().factor(10**6, last=1) == 1.0


@given(
    begin=st.integers(0, 5),
    warmup=st.integers(0, 5),
    policy=st.sampled_from(['linear', 'cosine']),
    ratio=st.floats(0, 1),
    last=st.integers(1, 30),
)
def test_it_rises_once_and_falls_once_between_0_and_1(begin, warmup, policy, ratio, last):
    hook = LossScheduleHook(begin=begin, warmup=warmup, policy=policy, end_ratio=ratio)
    curve = np.array([hook.factor(t, last) for t in range(begin, max(last, begin + warmup) + 1)])
    assert (curve >= 0).all() and (curve <= 1).all()
    assert (np.diff(curve[: warmup + 1]) >= 0).all() and (np.diff(curve[warmup:]) <= 1e-12).all()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(begin=-1), ['LossScheduleHook.begin', '-1', '>= 0']),
        (dict(warmup='1'), ['LossScheduleHook.warmup']),
        (dict(losses=[]), ['LossScheduleHook.losses', '[]']),
        (dict(policy='step'), ['LossScheduleHook.policy', 'step', "'cosine'"]),
        (dict(end=5), ["policy='constant'", 'end=5', 'stop']),
        (dict(end_ratio=0.1), ["policy='constant'", 'end_ratio=0.1']),
        (dict(policy='linear', begin=2, warmup=3, end=5), ['LossScheduleHook.end', '> 5']),
        (dict(begin=3, stop=3), ['LossScheduleHook.stop', 'got 3', '> 3']),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError) as caught:
        LossScheduleHook(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value


# ------------------------------------------------------------------------------------------------ in a runner


def test_iterations_one_loss_of_two_and_the_teacher_rests_when_none_is_left(tmp_path, models):
    hooks = [Recorder('crg', warmup=2, stop=5, by_epoch=False), LossScheduleHook(['mse'], stop=3, by_epoch=False)]
    runner = train(tmp_path, models, hooks, dict(crg=CRG, mse=MSE), iters=7)
    assert logged(runner, 'crg') == [0, 0.5, 1, 1, 1, 0, 0]
    assert logged(runner, 'mse') == [1, 1, 1, 0, 0, 0, 0]
    seen = [outputs for _, outputs in hooks[0].seen]
    assert ['loss_kd.crg.vertex' in outputs for outputs in seen] == [False, True, True, True, True, False, False]
    assert ['loss_kd.mse.mse' in outputs for outputs in seen] == [True, True, True, False, False, False, False]
    assert hooks[0].calls == [0, 1, 2, 3, 4], 'the teacher ran with no loss left'


def test_epochs_count_in_fractions(tmp_path, models):
    hook = Recorder(begin=1, warmup=1, policy='linear', end=4, end_ratio=0.4)
    runner = train(tmp_path, models, [hook], epochs=4)
    thirds = [0, 0, 0, 0, 1 / 3, 2 / 3, *(1 - 0.6 * i / 6 for i in range(6))]
    assert logged(runner, 'crg') == pytest.approx(thirds)
    assert hook.calls == list(range(4, 12))


def weights(runner: Runner) -> dict[str, Tensor]:
    return runner.model.state_dict()


@pytest.mark.parametrize(('loss', 'ema'), [(CRG, False), (CRG, True), (SCORE, True)])
def test_a_resumed_run_goes_on_exactly(tmp_path, models, loss, ema):
    """Cut while warming up and while the weight is measured."""
    measured = dict(kd=dict(loss, loss_weight=dict(type='GradientRatio', ratio=0.5, iterations=5)))

    def hooks() -> list:
        average = [dict(type='EMAHook', momentum=0.1)] if ema else []
        return [
            *average,
            dict(type='mmkd_graph.LossScheduleHook', warmup=6, policy='cosine', end=9, end_ratio=0.1, by_epoch=False),
        ]

    whole = train(tmp_path / 'whole', models, hooks(), measured, iters=8)
    train(tmp_path / 'part', models, hooks(), measured, iters=4)
    resumed = train(tmp_path / 'part', models, hooks(), measured, iters=8, resume=True)
    assert logged(resumed, 'kd') == logged(whole, 'kd')
    scale = weights(resumed)['distill.weights.kd.scale']
    assert scale.isfinite() and scale == weights(whole)['distill.weights.kd.scale']
    assert all(torch.equal(weights(whole)[key], value) for key, value in weights(resumed).items())


def test_the_model_may_be_wrapped(models):
    model = MMDET_MODELS.build(
        dict(type='mmkd_graph.GraphDistiller', student=models[0], teacher=models[1], losses=dict(crg=CRG))
    )
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        scalars = {}
        runner = SimpleNamespace(
            model=MMDistributedDataParallel(model),
            hooks=[],
            train_loop=None,
            iter=1,
            max_iters=9,
            message_hub=SimpleNamespace(update_scalar=scalars.__setitem__),
        )
        hook = LossScheduleHook(warmup=4, by_epoch=False)
        hook.before_train(runner)
        hook.before_train_iter(runner, 1)
        assert scalars == {'train/kd.crg.factor': 0.25}
        assert [weight.factor for weight in model.distill.weights.values()] == [0.25]
    finally:
        torch.distributed.destroy_process_group()


def test_what_the_run_does_not_have_is_refused(tmp_path, models):
    def run(*hooks: LossScheduleHook, **options: Any) -> None:
        train(tmp_path, models, list(hooks), **{'iters': 1, **options})

    with pytest.raises(ValueError, match=r'LossScheduleHook\.losses: cgr not in the model; accepted: crg'):
        run(LossScheduleHook('cgr', by_epoch=False))
    with pytest.raises(ValueError, match=r'by_epoch=True .* counts iterations'):
        run(LossScheduleHook())
    with pytest.raises(ValueError, match='crg has two schedules'):
        run(LossScheduleHook(by_epoch=False), LossScheduleHook('crg', by_epoch=False))
    with pytest.raises(ValueError, match='the model is a RetinaNet'):
        run(LossScheduleHook(by_epoch=False), model=models[0])


def test_a_warm_up_beyond_the_training_is_told(tmp_path, models, monkeypatch):
    told = []
    monkeypatch.setattr(loss_schedule_hook, 'print_log', lambda message, *args, **kwargs: told.append(message))
    train(tmp_path, models, [LossScheduleHook(warmup=500)], epochs=1)
    assert 'begin + warmup is 500 epochs, the training has 1: the weight of crg' in told[0]


def test_a_config_line_builds_it():
    hook = HOOKS.build(dict(type='mmkd_graph.LossScheduleHook', losses=['crg'], stop=8))
    assert isinstance(hook, LossScheduleHook)
    assert hook.losses == ('crg',)
