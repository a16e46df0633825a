"""What every loss must do, whatever its formula is."""

from __future__ import annotations

import copy

import pytest
import torch
from methods import METHODS, takes, terms_of
from methods import options as options_of
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from mmkd_graph.losses import LOSSES, DistillContext, PyramidSpec

# What they learn, or contrast with, costs something even where both pyramids are equal.
LEARN = ('LFCCLoss', 'MGDLoss', 'MHGDLoss', 'REFILLEDLoss')
EXACT = [method for method in METHODS if method.__name__ not in LEARN]
SUMS = [method for method in METHODS if not takes(method, 'level_weights')]  # over the levels; others are means
STRIDES = (8, 16)
CHANNELS = 6


def pyramid(seed=0, batch=2, sizes=((8, 8), (4, 4)), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, CHANNELS, h, w, generator=generator).to(dtype) for h, w in sizes)


def context(boxes=([[4, 4, 40, 60], [20, 8, 60, 40]], [[10, 10, 50, 30]])):
    samples = []
    for given in boxes:
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64)))
        bboxes = torch.tensor(given, dtype=torch.float32).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=bboxes, labels=torch.zeros(len(bboxes), dtype=torch.long))
        samples.append(sample)
    return DistillContext(data_samples=samples, strides=STRIDES, batch_shape=(64, 64))


def build(method, levels=2, **options):
    torch.manual_seed(0)
    loss = method(**{**options_of(method), **options})
    loss.bind(PyramidSpec(STRIDES[:levels], (CHANNELS,) * levels, (CHANNELS,) * levels, 'kd'))
    loss.init_weights()
    return loss


def run(loss, student, teacher, given=None):
    student = tuple(x.detach().requires_grad_() for x in student)
    terms = loss(student, teacher, given or context())
    total = sum(terms.values())
    return {k: v.detach() for k, v in terms.items()}, torch.autograd.grad(total, student)


@pytest.mark.parametrize('method', [x for x in LOSSES.values() if terms_of(x) != {'contrast'}])
def test_weights_that_leave_no_term_are_refused(method):
    """loss_weight=0 is for that, with which a loss is measured."""
    with pytest.raises(ValueError, match=r'_weight.*accepted'):
        method(**options_of(method), **{f'{term}_weight': 0 for term in terms_of(method)})


@pytest.mark.parametrize('method', METHODS)
def test_different_pyramids_cost_and_pull(method):
    terms, grads = run(build(method), pyramid(1), pyramid(2))
    assert set(terms) == terms_of(method)
    assert all(value > 0 and value.shape == () for value in terms.values())
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize('method', EXACT)
def test_equal_pyramids_cost_nothing_and_pull_nowhere(method):
    x = pyramid()
    terms, grads = run(build(method), x, x)
    for value in (*terms.values(), *grads):
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-6, rtol=0)


@pytest.mark.parametrize('method', SUMS)
def test_levels_are_added_up(method):
    loss = build(method)
    student, teacher = pyramid(1), pyramid(2)
    whole, _ = run(loss, student, teacher)
    level = build(method, levels=1)
    level.load_state_dict(loss.state_dict(), strict=False)
    first, _ = run(level, student[:1], teacher[:1])
    assert all(0 < first[term] < whole[term] for term in whole)


HARD = {
    'dead channels': lambda x: x * (torch.arange(x.shape[1]) % 3 > 0).view(1, -1, 1, 1),
    'all dead': torch.zeros_like,
    'constant maps': lambda x: torch.ones_like(x) * torch.arange(x.shape[1]).view(1, -1, 1, 1),
    'one position': lambda x: x[..., :1, :1],
    'cropped': lambda x: x[..., :-1, :-1],
    'one image': lambda x: x[:1],
    'huge': lambda x: x * 1e4,
    'tiny': lambda x: x * 1e-6,
}


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('hard', HARD)
def test_hard_features_give_finite_values_and_gradients(method, hard):
    make = HARD[hard]
    loss = build(method)
    given = context(([[4, 4, 40, 60]],) * (1 if hard == 'one image' else 2))
    sides = [(make, make)]
    if hard not in ('one position', 'cropped', 'one image'):
        sides += [(make, lambda x: x), (lambda x: x, make)]
    for on_student, on_teacher in sides:
        terms, grads = run(loss, tuple(map(on_student, pyramid(1))), tuple(map(on_teacher, pyramid(2))), given)
        assert all(value.isfinite() for value in terms.values()), terms
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(method, dtype):
    student, teacher = pyramid(1, dtype=dtype), pyramid(2, dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        terms, grads = run(build(method), student, teacher)
    reference, _ = run(build(method), tuple(x.float() for x in student), tuple(x.float() for x in teacher))
    for term, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reference[term])
    assert all(g.dtype == dtype and g.isfinite().all() for g in grads)


@pytest.mark.parametrize('method', METHODS)
def test_the_teacher_gets_no_gradient(method):
    student, teacher = (tuple(x.requires_grad_() for x in pyramid(seed)) for seed in (1, 2))
    sum(build(method)(student, teacher, context()).values()).backward()
    assert all(x.grad is None for x in teacher) and all(x.grad.any() for x in student)


# ------------------------------------------------------------------------------------------------ in the distiller


def distiller(student, teacher, method, **options):
    loss = dict(type=method, **options_of(method), **options)
    return MMDET_MODELS.build(
        dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=dict(kd=loss))
    )


@pytest.mark.parametrize('method', METHODS)
def test_every_trained_parameter_gets_a_gradient_and_the_teacher_none(method, student, teacher, batch):
    """DDP runs with find_unused_parameters=False; an image without boxes must not leave a parameter out either."""
    model = distiller(student, teacher, method)
    model.init_weights()
    batch['data_samples'][0].gt_instances = batch['data_samples'][0].gt_instances[:0]
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert {key for key in losses if 'kd' in key} == {f'loss_kd.kd.{term}' for term in terms_of(method)}
    model.parse_losses(losses)[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.teacher.model.parameters())


@pytest.mark.parametrize('method', METHODS)
def test_null_weights_train_bit_for_bit_like_the_plain_student(method, student, teacher, batch):
    results = []
    for build_model in (
        lambda: MMDET_MODELS.build(copy.deepcopy(student)),
        lambda: distiller(copy.deepcopy(student), copy.deepcopy(teacher), method, loss_weight=0),
    ):
        torch.manual_seed(3)
        model = build_model()
        model.init_weights()
        model.train()
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=1.0)))
        for _ in range(2):
            model.train_step(copy.deepcopy(batch), wrapper)
        results.append(({k: v for k, v in model.state_dict().items() if 'distill.' not in k}, torch.rand(3)))
    (state_a, rng_a), (state_b, rng_b) = results
    assert all(torch.equal(state_a[k], state_b[k]) for k in state_a)
    assert torch.equal(rng_a, rng_b), 'the loss drew from the global generator'
