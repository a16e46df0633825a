"""Losses that are not finite: named, and stopped; infinite gradients are the loss scaling's business."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper

from mmkd_graph.hooks import NonFiniteLossHook


class Toy(BaseModel):
    """Loss = the weight times what the batch says, in two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer('seen', torch.zeros(1))

    def forward(self, inputs: torch.Tensor, mode: str = 'loss') -> dict[str, Any]:
        self.seen += inputs.sum()
        return dict(loss_cls=[self.weight * x for x in inputs], loss_kd=self.weight.sum(), acc=inputs[:1] * 0 + 1)


def prepare(
    hook: NonFiniteLossHook,
    wrapper: type = OptimWrapper,
    **options: Any,
) -> Any:
    """A training at its start."""
    model = Toy()
    optimizer = wrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)
    runner = SimpleNamespace(model=model, optim_wrapper=optimizer, distributed=False, iter=0)
    hook.before_train(runner)
    return runner


def step(hook: NonFiniteLossHook, runner: Any, *values: float) -> dict[str, torch.Tensor]:
    batch = dict(inputs=torch.tensor(values))
    hook.before_train_iter(runner, 0, batch)
    logged = runner.model.train_step(batch, runner.optim_wrapper)
    runner.iter += 1
    return logged


def test_the_term_and_its_level_are_named_before_the_weights_are_touched() -> None:
    hook = NonFiniteLossHook()
    runner = prepare(hook)
    step(hook, runner, 1.0, 2.0)
    before = runner.model.weight.clone()
    assert before != 1
    with pytest.raises(FloatingPointError, match=r'iteration 2, rank 0: loss_cls\[1\] = inf, loss_cls\[2\] = nan\. '):
        step(hook, runner, 1.0, float('inf'), float('nan'))
    assert torch.equal(runner.model.weight, before)


def test_the_images_of_the_batch_are_named() -> None:
    hook = NonFiniteLossHook()
    runner = prepare(hook)
    samples = [DetDataSample(metainfo=dict(img_id=i)) for i in range(18)]
    samples[0].set_metainfo(dict(img_path='there/7.jpg'))
    hook.before_train_iter(runner, 0, dict(inputs=torch.ones(1), data_samples=samples))
    with pytest.raises(
        FloatingPointError, match=r'\[0\] = nan, acc = nan; the images are there/7.jpg, 1, 2,.* 15 and 2 more'
    ):
        runner.model(torch.tensor([float('nan')]), mode='loss')


def test_infinite_gradients_are_left_to_the_loss_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    hook = NonFiniteLossHook()
    runner = prepare(hook, AmpOptimWrapper, loss_scale=1.0)
    scaler = torch.amp.GradScaler('cpu', init_scale=1e38, backoff_factor=1e-38)
    runner.optim_wrapper.loss_scaler = scaler
    runner.optim_wrapper.optim_context = lambda model: torch.enable_grad()
    step(hook, runner, 20.0)
    assert runner.model.weight == 1 and scaler.get_scale() == pytest.approx(1), (
        'the update is left out, the scale falls'
    )
    step(hook, runner, 20.0)
    assert runner.model.weight.item() == pytest.approx(1 - 0.1 * 21)
    with pytest.raises(FloatingPointError):
        step(hook, runner, float('nan'))


def test_copies_of_the_model_have_nothing_of_the_hook() -> None:
    hook = NonFiniteLossHook()
    runner = prepare(hook)
    other = copy.deepcopy(runner.model)
    hook.after_train(runner)
    assert torch.isnan(other(torch.tensor([float('nan')]), mode='loss')['loss_cls'][0]), 'not the model that is trained'
    assert not runner.model._forward_hooks
