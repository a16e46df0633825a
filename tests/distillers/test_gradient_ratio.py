"""A loss weight by gradient ratio is what it says, is fixed once, survives a resume and agrees between ranks."""

from __future__ import annotations

import copy
import functools
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import save_weights, tiny_retinanet
from methods import METHODS, options
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

from mmkd_graph.distillers import GradientRatio, GraphDistiller, gradient_norms
from mmkd_graph.distillers.gradient_norms import gradient_norm

CRG = dict(type='mmkd_graph.CRGLoss')
SGD = dict(type='SGD', lr=0.01, momentum=0.9)


def ratio(r: float = 0.5, iterations: int = 3) -> dict[str, Any]:
    return dict(type='mmkd_graph.GradientRatio', ratio=r, iterations=iterations)


def distiller(student, teacher, weight, loss=None, seed=0, **kwargs) -> GraphDistiller:
    torch.manual_seed(seed)
    losses = dict(kd=dict(loss or CRG, loss_weight=weight))
    config = dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=losses, **kwargs)
    model = MMDET_MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return model.train()


def train(model, batch, steps, **wrapper) -> list[dict[str, float]]:
    wrapper = build_optim_wrapper(model, dict(dict(optimizer=SGD), **wrapper))
    return [step(model, batch, wrapper) for _ in range(steps)]


def step(model, batch, wrapper) -> dict[str, float]:
    return {key: value.item() for key, value in model.train_step(copy.deepcopy(batch), wrapper).items()}


def norms_by_backward(model, batch) -> tuple[float, float]:
    """Norms at the tap of the task losses and of the weighted distillation terms in one pass, read from ``.grad``."""
    kept = []
    handle = model.neck.register_forward_hook(lambda _m, _i, out: kept.extend(out))
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    handle.remove()
    for x in kept:
        x.retain_grad()
    norms = []
    for distilled in (False, True):
        for x in kept:
            x.grad = None
        wanted = {key: value for key, value in losses.items() if ('loss_kd.' in key) == distilled}
        model.parse_losses(wanted)[0].backward(retain_graph=True)
        norms.append(math.sqrt(sum(float((x.grad.double() ** 2).sum()) for x in kept if x.grad is not None)))
    model.zero_grad()
    return norms[0], norms[1]


# ------------------------------------------------------------------------------------------------ the rule


def test_the_weight_is_the_median_and_no_pass_exceeds_the_ratio():
    weight = GradientRatio(ratio=2.0, iterations=6)
    assert weight.value is None and weight.measuring
    passes = [(1.0, 4.0), (1.0, 1e-9), (0.0, 1.0), (1.0, 0.0), (1.0, 0.5), (math.inf, 1.0)]
    used = [weight.observe(task, loss) for task, loss in passes]
    assert used[0] == 0.5, 'the exact ratio'
    for (task, loss), w in zip(passes, used, strict=True):
        assert w * loss <= 2.0 * task or 0 in (task, loss) or math.inf in (task, loss)
    assert used[1] == pytest.approx(2.0 * (0.25 + 1e9) / 2), 'an odd pass weighs no more than the median so far'
    assert used[2] == used[3] == used[1], 'nothing measured: the median so far'
    assert used[4] == 4.0
    assert weight.value == 4.0 and not weight.measuring, '2 times the median of 0.25, 1e9 and 2'
    assert weight.scale == 2.0


def test_passes_before_the_first_measurement_do_not_count():
    weight = GradientRatio(ratio=1.0, iterations=3)
    assert [weight.observe(1.0, loss) for loss in (0.0, math.nan, 4.0)] == [0.0, 0.0, 0.25]
    assert weight.value == 0.25


def test_an_error_names_the_key_if_nothing_could_be_measured():
    weight = GradientRatio(ratio=1.0, iterations=2)
    weight.bind('crg')
    weight.observe(1.0, 0.0)
    with pytest.raises(ValueError, match=r'losses\.crg\.loss_weight: not one of 2 passes .* norm 3 .* and 0 of this'):
        weight.observe(3.0, 0.0)


@pytest.mark.parametrize(('task', 'value'), [(1e-9, 1e-9), (1e3, 1e3), (1.0, 1.0)])
def test_half_precision_gradients_neither_underflow_nor_overflow(task, value):
    x = torch.ones(100, dtype=torch.float16, requires_grad=True)
    norm = gradient_norm((x.float() * task).sum(), [x, torch.ones(2)])
    assert norm == pytest.approx(10 * value, rel=1e-3)
    assert x.grad is None


# ------------------------------------------------------------------------------------------------ in training


@pytest.mark.parametrize('method', METHODS)
def test_every_loss_pulls_as_asked(student, teacher, batch, method):
    model = distiller(student, teacher, ratio(0.3), dict(type=method, **options(method)))
    task, distilled = norms_by_backward(model, batch)
    assert distilled / task == pytest.approx(0.3, rel=1e-3)


def test_the_fixed_weight_pulls_as_asked_too(student, teacher, batch):
    model = distiller(student, teacher, ratio(0.3))
    first = train(model, batch, 3, optimizer=dict(SGD, lr=0.0))[0]
    assert first['kd.kd.gradient_ratio'] > 0
    assert first['loss'] == pytest.approx(sum(v for k, v in first.items() if 'loss' in k and k != 'loss'), rel=1e-5)
    assert not model.distill.weights['kd'].measuring
    assert not any('gradient_ratio' in key for key in train(model, batch, 1, optimizer=dict(SGD, lr=0.0))[0])
    task, distilled = norms_by_backward(model, batch)
    assert distilled / task == pytest.approx(0.3, rel=1e-3)


def test_while_measuring_no_pass_pulls_harder_than_asked(student, teacher, batch):
    model = distiller(student, teacher, ratio(1.0, iterations=4))
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(SGD, lr=0.02)))
    pulls = []
    for _ in range(4):
        task, distilled = norms_by_backward(copy.deepcopy(model), batch)
        assert distilled <= task * (1 + 1e-4)
        pulls.append(step(model, batch, wrapper)['kd.kd.gradient_ratio'])
    assert len({*pulls}) == 4
    scales = sorted(1 / pull for pull in pulls)
    assert model.distill.weights['kd'].value == pytest.approx((scales[1] + scales[2]) / 2, rel=1e-5)


def test_measuring_changes_nothing_but_the_weight(student, teacher, batch):
    """The measured weight, given as a number, trains bit for bit the same student."""
    measured = distiller(student, teacher, ratio(0.5, iterations=1))
    train(measured, batch, 1, optimizer=dict(SGD, lr=0.0))
    weight = measured.distill.weights['kd'].value
    states = []
    for given in (ratio(0.5, iterations=1), weight):
        model = distiller(student, teacher, given)
        train(model, batch, 4, clip_grad=dict(max_norm=1.0))
        states.append({k: v for k, v in model.state_dict().items() if 'distill.weights' not in k})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_without_gradients_the_loss_is_reported_and_nothing_measured(student, teacher, batch):
    model = distiller(student, teacher, ratio())
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    with torch.no_grad():
        assert {'kd.vertex'} <= set(model(**data, mode='loss')['kd'])
    model.eval()
    losses = model(**data, mode='loss')
    assert not any('loss_kd' in key or 'gradient' in key for key in (*losses, *losses['kd']))
    assert model.distill.weights['kd'].passes == 0


def test_batches_without_boxes_are_measured_too(student, teacher, batch):
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    model = distiller(student, teacher, ratio(iterations=2))
    assert all(math.isfinite(v) for logged in train(model, batch, 3) for v in logged.values())
    assert model.distill.weights['kd'].value > 0


@pytest.mark.parametrize(
    ('forward', 'kept'),
    [
        (lambda student, teacher, context: {'t': 0 * sum(x.sum() for x in student)}, 'attached'),
        (lambda student, teacher, context: {'t': torch.zeros((), requires_grad=True)}, 'not attached'),
    ],
    ids=['zero', 'elsewhere'],
)
def test_a_loss_without_gradient_at_the_taps_is_refused(student, teacher, batch, forward, kept):
    model = distiller(student, teacher, ratio(iterations=2))
    model.distill.losses['kd'].forward = forward
    train(model, batch, 1)
    with pytest.raises(ValueError, match=r'losses\.kd\.loss_weight: not one of 2 passes .* 0 of this loss'):
        train(model, batch, 1)


def test_frozen_taps_are_refused(student, teacher, batch):
    model = distiller(student, teacher, ratio())
    model.backbone.requires_grad_(False)
    model.neck.requires_grad_(False)
    with pytest.raises(ValueError, match=r"losses\.kd\.loss_weight: .* take no gradient, .* taps\.student='neck'"):
        train(model, batch, 1)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    with pytest.raises(ValueError, match='gradient_norms: the tapped student features take no gradient'):
        gradient_norms(model, **data)


@pytest.mark.parametrize(
    ('weight', 'words'),
    [
        (dict(type='GradientRatio'), ['losses.kd.loss_weight', 'ratio']),
        (ratio(0), ['losses.kd.loss_weight', 'ratio', 'got 0', '> 0']),
        (ratio(1.0, 0), ['losses.kd.loss_weight', 'iterations', '>= 1']),
        (dict(ratio=1.0), ['losses.kd.loss_weight', "type='mmkd_graph.GradientRatio'"]),
        (CRG, ['losses.kd.loss_weight', 'GradientRatio']),
        (dict(type='GradRatio', ratio=1.0), ['losses.kd.loss_weight', 'GradRatio']),
        ('auto', ['losses.kd.loss_weight', 'auto', '>= 0']),
    ],
)
def test_bad_weights_name_the_key(student, teacher, weight, words):
    with pytest.raises(ValueError) as caught:
        distiller(student, teacher, weight)
    assert all(word in str(caught.value) for word in words), caught.value


# ------------------------------------------------------------------------------------------------ ways of training


def first_scale(model, batch, **wrapper) -> float:
    train(model, batch, 1, **wrapper)
    return model.distill.weights['kd'].scales[0].item()


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """mmengine's AMP wrapper as it is on a GPU: with a scaler that scales."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = functools.partial(torch.amp.GradScaler, device='cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)


def test_amp_and_its_loss_scale_do_not_change_the_measurement(student, teacher, batch, amp_on_cpu):
    exact = first_scale(distiller(student, teacher, ratio()), batch)
    amp = [
        first_scale(
            distiller(student, teacher, ratio()), batch, type='AmpOptimWrapper', dtype='bfloat16', loss_scale=scale
        )
        for scale in (1.0, 2.0**16)
    ]
    assert amp[0] == amp[1]
    assert amp[0] == pytest.approx(exact, rel=0.1) and amp[0] != exact


def test_accumulated_gradients_do_not_change_the_measurement(student, teacher, batch):
    exact = first_scale(distiller(student, teacher, ratio()), batch)
    assert first_scale(distiller(student, teacher, ratio()), batch, accumulative_counts=2) == exact


def test_activation_checkpointing_before_the_tap_changes_nothing(student, teacher, batch):
    scales = []
    for modules in ([], ['backbone.layer1', 'backbone.layer3']):
        model = distiller(student, teacher, ratio(iterations=2))
        turn_on_activation_checkpointing(model, modules)
        train(model, batch, 3)
        scales.append(model.distill.weights['kd'].scale.item())
    assert scales[1] == pytest.approx(scales[0], rel=1e-5)


def test_reentrant_checkpointing_behind_the_tap_is_refused(student, teacher, batch):
    model = distiller(student, teacher, ratio(), taps='backbone.layer2')
    turn_on_activation_checkpointing(model, ['backbone.layer3'])
    with pytest.raises(RuntimeError, match='checkpointed with use_reentrant=True; accepted'):
        train(model, batch, 1)


# ------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize('cut', [2, 5], ids=['while measuring', 'afterwards'])
def test_a_resumed_run_has_the_weight_and_the_students_of_the_whole_one(student, teacher, batch, cut):
    def start(seed):
        model = distiller(student, teacher, ratio(iterations=4), seed=seed)
        return model, build_optim_wrapper(model, dict(optimizer=SGD))

    (whole, wrapper), (part, other) = start(0), start(0)
    curve = [step(whole, batch, wrapper) for _ in range(7)]
    head = [step(part, batch, other) for _ in range(cut)]
    resumed, wrapper = start(1)
    load_state_dict(resumed, get_state_dict(part), strict=True)
    wrapper.load_state_dict(copy.deepcopy(other.state_dict()))
    assert head + [step(resumed, batch, wrapper) for _ in range(7 - cut)] == curve
    assert {k for k in whole.state_dict() if 'weights' in k} == {
        f'distill.weights.kd.{key}' for key in ('scale', 'scales', 'passes')
    }
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_a_resumed_run_may_ask_for_another_ratio_or_number_of_iterations(student, teacher, batch):
    first = distiller(student, teacher, ratio(0.5, iterations=2))
    train(first, batch, 2)
    second = distiller(student, teacher, ratio(1.5, iterations=7))
    load_state_dict(second, get_state_dict(first), strict=True)
    weight = second.distill.weights['kd']
    assert weight.value == pytest.approx(3 * first.distill.weights['kd'].value) and not weight.measuring
    unfinished = distiller(student, teacher, ratio(0.5, iterations=9))
    train(unfinished, batch, 5)
    third = distiller(student, teacher, ratio(0.5, iterations=3))
    load_state_dict(third, get_state_dict(unfinished), strict=True)
    train(third, batch, 1)
    assert not third.distill.weights['kd'].measuring


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_models_never_hold_a_wrong_weight(student, teacher, batch, update_buffers):
    model = distiller(student, teacher, ratio(iterations=2))
    average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=update_buffers)
    for _ in range(4):
        average.update_parameters(model)
        train(model, batch, 1)
    average.update_parameters(model)
    scale = average.module.distill.weights['kd'].scale
    assert scale.isnan() if update_buffers else scale == model.distill.weights['kd'].scale


# ------------------------------------------------------------------------------------------------ factors


@pytest.mark.parametrize('clip', [False, True])
def test_factor_zero_trains_the_plain_student_bit_for_bit_without_the_teacher(student, teacher, batch, clip):
    """Clipped too, but for rounding: with the adapter's zeros torch adds up the same gradient norm in another order."""
    wrapper = dict(clip_grad=dict(max_norm=1.0)) if clip else {}
    rounding = dict(rtol=1e-5, atol=1e-7) if clip else dict(rtol=0, atol=0)
    states = []
    for distilled in (False, True):
        model = distiller(student, teacher, 1.0)
        calls = []
        model.teacher.model.backbone.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.set_loss_factor('kd', 0.0)
        trainee = model if distilled else model.student
        logged = train(trainee, batch, 4, **wrapper)
        assert not calls
        states.append(([x['loss'] for x in logged], model.student.state_dict()))
    torch.testing.assert_close(states[0], states[1], **rounding)


def test_factor_zero_leaves_attached_zeros_and_other_factors_multiply(student, teacher, batch):
    losses = dict(kd=dict(CRG), mgd=dict(type='mmkd_graph.MGDLoss'))
    model = MMDET_MODELS.build(
        dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=copy.deepcopy(losses))
    ).train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    whole = model(**data, mode='loss')
    model.set_loss_factor('kd', 0.25)
    model.set_loss_factor('mgd', 0)
    part = model(**data, mode='loss')
    torch.testing.assert_close(part['loss_kd.kd.vertex'], 0.25 * whole['loss_kd.kd.vertex'])
    assert 'loss_kd.mgd.generation' in whole and 'loss_kd.mgd.generation' not in part
    model.distill.losses['mgd'].generation[0][0].weight.data.fill_(math.nan)  # must not reach the student
    for kd_factor, adapter_zero in ((0.25, False), (0.0, True)):
        model.set_loss_factor('kd', kd_factor)
        model.zero_grad()
        losses = model(**data, mode='loss')
        assert losses['loss_kd.idle'] == 0
        model.parse_losses(losses)[0].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        assert all((p.grad == 0).all() for p in model.distill.losses['mgd'].parameters())
        assert adapter_zero == all((p.grad == 0).all() for p in model.distill.adapter.parameters())
    with pytest.raises(ValueError, match="no loss 'cgr'; accepted: 'kd', 'mgd'"):
        model.set_loss_factor('cgr', 1.0)
    with pytest.raises(ValueError, match=r'factor of model\.losses\.kd: got -1'):
        model.set_loss_factor('kd', -1)


def test_a_loss_that_begins_late_is_measured_when_it_begins(student, teacher, batch):
    model = distiller(student, teacher, ratio(iterations=1))
    model.set_loss_factor('kd', 0.0)
    train(model, batch, 2)
    assert model.distill.weights['kd'].measuring
    model.set_loss_factor('kd', 0.5)
    train(model, batch, 1, optimizer=dict(SGD, lr=0.0))
    assert not model.distill.weights['kd'].measuring
    task, distilled = norms_by_backward(model, batch)
    assert distilled / task == pytest.approx(0.5 * 0.5, rel=1e-3), 'factor times ratio'


# ------------------------------------------------------------------------------------------------ one batch


def test_gradient_norms_of_a_batch_and_no_trace_of_them(student, teacher, batch):
    losses = dict(
        crg=dict(CRG, loss_weight=0),
        mgd=dict(type='mmkd_graph.MGDLoss', loss_weight=7.0),
        fit=dict(type='mmkd_graph.FitNetLoss', mse_weight=3.0),
    )
    model = MMDET_MODELS.build(
        dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=losses)
    ).train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    norms = gradient_norms(model, **data)
    assert set(norms.losses) == {'crg', 'mgd', 'fit'}
    assert set(norms.terms['crg']) == {'vertex', 'edge', 'spectral'}
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items()) and model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert norms == gradient_norms(model, **data)
    parts = list(norms.terms['crg'].values())
    assert 0 < norms.losses['crg'] <= sum(parts) and min(parts) > 0
    assert norms.losses['fit'] == pytest.approx(norms.terms['fit']['mse'])
    model.set_loss_factor('mgd', 0.0)
    assert (norms.task, norms.losses['fit']) == pytest.approx(norms_by_backward(model, batch), rel=1e-4)


# ------------------------------------------------------------------------------------------------ two ranks


def work(rank: int, port: int, checkpoint: str, batch: dict[str, list], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    init_default_scope('mmdet')
    teacher = dict(config=tiny_retinanet(base_channels=16, fpn_channels=32), checkpoint=checkpoint)
    model = distiller(tiny_retinanet(), teacher, ratio(iterations=2), dict(type='mmkd_graph.MGDLoss'))
    wrapped = MMDistributedDataParallel(model)
    wrapper = build_optim_wrapper(wrapped, dict(optimizer=SGD, clip_grad=dict(max_norm=10.0)))
    data = {key: value[rank::2] for key, value in batch.items()}
    own = norms_by_backward(distiller(tiny_retinanet(), teacher, 1.0, dict(type='mmkd_graph.MGDLoss')), data)
    both = gradient_norms(model, **model.data_preprocessor(copy.deepcopy(data), True))
    logged = []
    for factor in (1.0, 0.5, 1.0, 0.0, 0.0, 1.0):
        model.set_loss_factor('kd', factor)
        logged.append(step(wrapped, data, wrapper))
    torch.save(
        dict(own=own, both=(both.task, both.losses['kd']), logged=logged, state=model.state_dict()), f'{out}.{rank}'
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_ranks_agree_and_a_loss_may_stop_and_go_on(batch: dict[str, list], tmp_path: Path) -> None:
    checkpoint = save_weights(tiny_retinanet(base_channels=16, fpn_channels=32), tmp_path / 'teacher.pth')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, checkpoint, batch, str(tmp_path / 'out')), nprocs=2)
    first, second = (torch.load(tmp_path / f'out.{rank}') for rank in (0, 1))
    keys = [key for key in first['state'] if key.startswith('distill.weights.') or key.endswith('conv.weight')]
    assert all(torch.equal(first['state'][key], second['state'][key]) for key in keys)
    assert first['own'] != second['own'], 'the ranks have other batches'
    task, loss = (math.hypot(a, b) for a, b in zip(first['own'], second['own'], strict=True))
    assert first['both'] == second['both'] == pytest.approx((task, loss), rel=1e-4)
    assert first['state']['distill.weights.kd.scales'][0].item() == pytest.approx(task / loss, rel=1e-4)
    assert ['loss_kd.idle' in logged for logged in first['logged']] == [False, False, False, True, True, False]
