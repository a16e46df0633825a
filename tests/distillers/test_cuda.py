"""Distilled steps on a GPU: what a CPU gives, and what it cannot run."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.optim import build_optim_wrapper

from mmkd_graph.graph.singular import exact_eigenpairs
from mmkd_graph.testing import LOSSES, save_weights, tiny_retinanet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')

DRAWING = ('lfcc', 'mgd')  # samples or masks that are others on a GPU


def detector(base_channels=8, fpn_channels=16):
    """With GFL's head, which every loss takes."""
    model = tiny_retinanet(base_channels, fpn_channels)
    anchors = dict(model['bbox_head']['anchor_generator'], octave_base_scale=8)
    head = dict(
        type='GFLHead',
        num_classes=3,
        in_channels=fpn_channels,
        feat_channels=16,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=4),
        reg_max=7,
        anchor_generator=anchors,
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    )
    training = dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False)
    return dict(model, type='GFL', bbox_head=head, train_cfg=training)


def distiller(loss, tmp_path):
    given = dict(LOSSES[loss], **(dict(stage=1) if loss == 'crosskd' else {}))
    if 'num_classes' in given:
        given['num_classes'] = 3
    teacher = detector(16, 32)
    teacher = dict(config=teacher, checkpoint=save_weights(teacher, tmp_path / 'teacher.pth'))
    torch.manual_seed(3)
    config = dict(type='mmkd_graph.GraphDistiller', student=detector(), teacher=teacher, losses=dict(kd=given))
    model = MMDET_MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return model.train()


def step(model, batch):
    """The losses of a batch, and the gradient of each weight."""
    torch.manual_seed(0)
    losses = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {key: value.detach().cpu() for key, value in losses.items() if key.startswith('loss_kd')}, gradients


@pytest.mark.parametrize('loss', LOSSES)
def test_a_step_is_that_of_a_cpu(loss, tmp_path, batch, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    model = distiller(loss, tmp_path)
    moved = copy.deepcopy(model).cuda()
    (terms, gradients), (expected, reference) = step(moved, batch), step(model, batch)
    assert terms.keys() == expected.keys() and gradients.keys() == reference.keys()
    if loss not in DRAWING:
        torch.testing.assert_close(terms, expected, rtol=1e-3, atol=1e-5)
        for name, gradient in gradients.items():
            assert (gradient - reference[name]).norm() <= 1e-2 * reference[name].norm() + 1e-5, name
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision_trains(loss, dtype, tmp_path, batch):
    model = distiller(loss, tmp_path).cuda()
    wrapper = build_optim_wrapper(
        model, dict(type='AmpOptimWrapper', dtype=dtype, optimizer=dict(type='SGD', lr=1e-3), loss_scale=1024.0)
    )
    exact = {k: v.item() for k, v in step(model, batch)[0].items()}
    model.zero_grad()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for turn in range(3):
        torch.manual_seed(0)
        logged = model.train_step(copy.deepcopy(batch), wrapper)
        assert all(value.isfinite() for value in logged.values()), logged
        for name, value in exact.items() if not turn else ():
            assert logged[name].item() == pytest.approx(value, rel=0.1, abs=1e-3), name
    changed = {name.split('.')[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed >= {'backbone', 'neck', 'bbox_head'}  # a scaler that skips would change nothing


@pytest.mark.parametrize('cells', [4, 16, 25])
def test_small_spectra_are_those_of_a_cpu(cells):
    rows = torch.randn(64, 3 * cells, cells, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = rows.mT @ rows
    values, vectors = exact_eigenpairs(matrix.cuda())
    torch.testing.assert_close(values.cpu(), exact_eigenpairs(matrix)[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((vectors * values.unsqueeze(1) @ vectors.mT).cpu(), matrix, rtol=1e-9, atol=1e-9)


def test_a_loss_waits_for_no_result(tmp_path, batch):
    """CRG queues its kernels without asking for a value, so that it does not hold up the student's."""
    model = distiller('crg', tmp_path).cuda()
    with torch.no_grad():
        _, pair = model.pyramids.run(model.student.loss, *model.data_preprocessor(copy.deepcopy(batch), True).values())
        student = tuple(x.requires_grad_() for x in model.distill.adapter(pair.student))
    loss = model.distill.losses['kd']
    torch.cuda.set_sync_debug_mode('error')
    try:
        torch.autograd.grad(sum(loss(student, pair.teacher, pair.context).values()), student)
    finally:
        torch.cuda.set_sync_debug_mode('default')
