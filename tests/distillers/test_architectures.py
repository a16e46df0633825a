"""Teachers of another kind: transformers, in the shapes mmdet has them, teach a small ResNet."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import save_weights, tiny_retinanet
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper

LFCC = dict(type='mmkd_graph.LFCCLoss', embed_channels=8)
CRG = dict(type='mmkd_graph.CRGLoss')
BACKBONES = dict(
    swin=dict(
        type='SwinTransformer',
        embed_dims=12,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 3, 4),
        window_size=4,
        drop_path_rate=0.2,
    ),
    pvt=dict(type='PyramidVisionTransformer', embed_dims=12, num_layers=[1] * 4, num_heads=[1, 2, 4, 8]),
    pvtv2=dict(type='PyramidVisionTransformerV2', embed_dims=12, num_layers=[1] * 4, num_heads=[1, 2, 4, 8]),
)
WIDTHS = dict(swin=(12, 24, 48, 96), pvt=(12, 24, 48, 96), pvtv2=(12, 24, 48, 96))


def transformer(kind, tmp_path, fpn_channels=32):
    model = tiny_retinanet(fpn_channels=fpn_channels)
    model['backbone'] = copy.deepcopy(BACKBONES[kind])
    model['neck']['in_channels'] = list(WIDTHS[kind])
    return dict(config=model, checkpoint=save_weights(model, tmp_path / f'{kind}.pth'))


def distiller(student, teacher, **kwargs):
    config = dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, **kwargs)
    model = MMDET_MODELS.build(ConfigDict(copy.deepcopy(config)))
    model.init_weights()
    return model.train()


def losses_of(model, batch):
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')


@pytest.mark.parametrize('adapter', ['auto', 'never'])
@pytest.mark.parametrize(('tap', 'strides'), [('neck', (8, 16, 32, 64, 128)), ('backbone', (4, 8, 16, 32))])
@pytest.mark.parametrize('kind', BACKBONES)
def test_a_transformer_teaches_a_resnet(student, batch, tmp_path, kind, tap, strides, adapter):
    losses = dict(lfcc=LFCC) if adapter == 'never' else dict(lfcc=LFCC, crg=CRG)
    model = distiller(student, transformer(kind, tmp_path), taps=tap, adapter=adapter, losses=losses)
    assert model.strides == strides
    widths_s = (16,) * 5 if tap == 'neck' else (8, 16, 32, 64)
    widths_t = (32,) * 5 if tap == 'neck' else WIDTHS[kind]
    read = [p.in_channels for p in model.distill.losses['lfcc'].student.projections]
    assert read == list(widths_s if adapter == 'never' else widths_t)
    assert [p.in_channels for p in model.distill.losses['lfcc'].teacher.projections] == list(widths_t)
    assert bool(len(list(model.distill.adapter.parameters()))) == (adapter == 'auto')
    found = losses_of(model, batch)
    assert found['loss_kd.lfcc.contrast'] > 0.1
    model.parse_losses(found)[0].backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.distill.losses['lfcc'].teacher.parameters()), 'its projection is fixed'
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_a_student_learns_to_find_its_cells_among_a_transformers(student, batch, tmp_path):
    model = distiller(student, transformer('swin', tmp_path), adapter='never', losses=dict(lfcc=LFCC))
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=0.003), clip_grad=dict(max_norm=5.0)))
    values = [model.train_step(copy.deepcopy(batch), wrapper)['loss_kd.lfcc.contrast'].item() for _ in range(10)]
    assert values[-1] < 0.8 * values[0]


def test_maps_of_one_network_are_tokens_in_their_places(tmp_path):
    """Swin and PVT give maps: a bright corner of the image is where it should be in them."""
    for kind in ('swin', 'pvt'):
        built = distiller(tiny_retinanet(), transformer(kind, tmp_path), taps='backbone', losses=dict(lfcc=LFCC))
        image = torch.zeros(1, 3, 64, 128)
        dark = built.teacher(image)[0]
        image[..., :8, 100:108] = 3.0
        change = (built.teacher(image)[0] - dark).square().sum((0, 1))
        assert change.shape == (16, 32)
        row, column = divmod(change.argmax().item(), 32)
        assert row <= 2 and 24 <= column <= 27, kind


def test_other_widths_need_losses_that_all_take_them(student, batch, teacher):
    for losses in (dict(crg=CRG), dict(lfcc=LFCC, crg=CRG)):
        with pytest.raises(ValueError, match=r"adapter='never'.*'auto'.*any width"):
            distiller(student, teacher, adapter='never', losses=losses)


def test_pyramids_keep_their_widths_without_adapters(student, batch, teacher):
    model = distiller(student, teacher, adapter='never', losses=dict(lfcc=LFCC))
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    ours, theirs = model.compared_features(data['inputs'], data['data_samples'])
    assert [x.shape[1] for x in ours] == [16] * 5 and [x.shape[1] for x in theirs] == [32] * 5
