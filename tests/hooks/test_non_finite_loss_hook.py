"""Losses that are not finite: named, stopped or left out; infinite gradients are the loss scaling's business."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper

from mmkd_graph.distillers import GradientRatio
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
    done: int = 0,
    last: int = -1,
    skipped: int = 0,
    **options: Any,
) -> Any:
    """A training that has ``done`` iterations behind it, of which ``skipped`` were left out, and ends at ``last``."""
    model = Toy()
    optimizer = wrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)
    logger = MMLogger.get_instance('non-finite')
    hub = MessageHub.get_instance('non-finite')
    hub.update_info('skipped_iterations', skipped)
    if last > 0:
        optimizer.initialize_count_status(model, done, last)
    runner = SimpleNamespace(
        model=model, optim_wrapper=optimizer, distributed=False, iter=done, message_hub=hub, logger=logger
    )
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


@pytest.mark.parametrize('action', ['raise', 'skip'])
def test_the_images_of_the_batch_are_named(action: str, caplog: pytest.LogCaptureFixture) -> None:
    hook = NonFiniteLossHook(action=action)
    runner = prepare(hook)
    runner.logger = logging.getLogger('images')
    samples = [DetDataSample(metainfo=dict(img_id=i)) for i in range(18)]
    samples[0].set_metainfo(dict(img_path='there/7.jpg'))
    hook.before_train_iter(runner, 0, dict(inputs=torch.ones(1), data_samples=samples))
    try:
        runner.model.parse_losses(dict(loss=torch.tensor(float('nan'))))
    except FloatingPointError as error:
        told = str(error)
    else:
        told = caplog.text
    assert 'loss = nan; the images are there/7.jpg, 1, 2,' in told and ' 15 and 2 more' in told


def test_skipped_iterations_change_nothing_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    hook = NonFiniteLossHook(action='skip', max_in_a_row=2)
    runner = prepare(hook)
    assert step(hook, runner, 1.0)['skipped'] == 0
    weight, seen = runner.model.weight.clone(), runner.model.seen.clone()
    assert step(hook, runner, float('nan'))['skipped'] == 1
    assert torch.equal(runner.model.weight, weight) and torch.equal(runner.model.seen, seen)
    assert runner.message_hub.get_info('skipped_iterations') == hook.skipped == 1
    step(hook, runner, 1.0)
    assert not torch.equal(runner.model.weight, weight)
    step(hook, runner, float('nan')), step(hook, runner, float('nan'))
    with pytest.raises(FloatingPointError, match='2 iterations before it were skipped in a row'):
        step(hook, runner, float('nan'))

    resumed = NonFiniteLossHook(action='skip')
    runner.message_hub.update_info('skipped_iterations', 5)
    resumed.before_train(SimpleNamespace(**vars(runner)))
    assert resumed.skipped == 5, 'the count survives a resume'


def test_a_skipped_iteration_makes_an_accumulation_longer() -> None:
    hook = NonFiniteLossHook(action='skip')
    runner = prepare(hook, accumulative_counts=2)
    step(hook, runner, 1.0)
    step(hook, runner, float('nan'))
    assert runner.model.weight == 1 and torch.isfinite(runner.model.weight.grad).all()
    step(hook, runner, 3.0)
    assert runner.model.weight.item() == pytest.approx(1 - 0.1 * ((1 + 1) + (3 + 1)) / 2)


def test_an_accumulation_resumes_in_step_after_a_skip_and_ends_with_its_last_window() -> None:
    values = [1.0, float('nan'), *(float(i) for i in range(3, 13))]
    hook = NonFiniteLossHook(action='skip')
    runner = prepare(hook, last=12, accumulative_counts=4)
    weights = []
    for i, value in enumerate(values, 1):
        step(hook, runner, value)
        weights.append(runner.model.weight.item())
        if i == 8:
            kept = runner.model.weight.detach().clone(), runner.model.weight.grad.clone()
    stepped = [i for i, (a, b) in enumerate(zip([1.0, *weights], weights, strict=False), 1) if a != b]
    assert stepped == [5, 9, 12], 'eleven passes: two windows of four and the three that are left'
    slopes = [[2, 4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]
    assert weights[-1] == pytest.approx(1 - 0.1 * sum(sum(window) / len(window) for window in slopes))

    resumed = prepare(hook, done=8, last=12, skipped=1, accumulative_counts=4)
    with torch.no_grad():
        resumed.model.weight.copy_(kept[0])
    resumed.model.weight.grad = kept[1]
    for value in values[8:]:
        step(hook, resumed, value)
    assert torch.equal(resumed.model.weight, runner.model.weight)


def test_a_skipped_pass_of_a_measured_weight_is_measured_again() -> None:
    hook = NonFiniteLossHook(action='skip')
    runner = prepare(hook)
    runner.model.ratio = GradientRatio(ratio=1.0, iterations=2)
    runner.model.ratio.observe(task=1.0, loss=1.0)
    hook.before_train_iter(runner, 0, None)
    runner.model.ratio.observe(task=9.0, loss=1.0)
    assert not runner.model.ratio.measuring
    runner.model.parse_losses(dict(loss=torch.tensor(float('nan'))))
    assert runner.model.ratio.measuring and runner.model.ratio.value == 1
    runner.model.ratio.observe(task=3.0, loss=1.0)
    again = GradientRatio(ratio=1.0, iterations=2)
    again.load_state_dict(runner.model.ratio.state_dict())
    assert again.value == runner.model.ratio.value == 2


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
    assert other.weight is not runner.model.weight
    hook.after_train(runner)
    assert 'parse_losses' not in vars(runner.model) and 'update_params' not in vars(runner.optim_wrapper)


@pytest.mark.parametrize('options', [dict(action='ignore'), dict(max_in_a_row=0), dict(max_in_a_row=True)])
def test_bad_arguments_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=f'NonFiniteLossHook: {next(iter(options))}='):
        NonFiniteLossHook(**options)
