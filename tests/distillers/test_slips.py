"""What authors of configs and of losses get wrong most: each is an error with the key, and says what to write."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.losses import PyramidLoss

CRG = dict(type='mmkd_graph.CRGLoss')


class Own(PyramidLoss):
    """Gives whatever its class was told."""

    result: object = None

    def forward(self, student: tuple, teacher: tuple, context: Any) -> Any:
        return type(self).result


@MODELS.register_module(force=True)
class NeedsWidth(Own):
    def __init__(self, width):
        super().__init__()


@MODELS.register_module(force=True)
class NoSuper(Own):
    def __init__(self):
        self.factor = 3


@MODELS.register_module(force=True)
class LateSuper(Own):
    def __init__(self):
        self.conv = torch.nn.Conv2d(1, 1, 1)
        super().__init__()


@MODELS.register_module(force=True)
class OwnTerms(Own):
    """A loss in the registry of mmdet, found there under its plain name."""


def distiller(student: dict, teacher: dict, **options: Any) -> GraphDistiller:
    model = dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, **options)
    return MODELS.build(copy.deepcopy(model))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(losses=CRG), ['model.losses: a name is missing', "write losses=dict(kd=dict(type='mmkd_g"]),
        (dict(losses=dict(keys=CRG)), ["model.losses['keys']", 'identifiers']),
        (
            dict(losses=dict(crg=dict(type='mmkd_graph.CRGLos'))),
            [
                "model.losses.crg.type='mmkd_graph.CRGLos'",
                "did you mean 'CRGLoss'",
                'PKDLoss',
                'custom_imports',
            ],
        ),
        (dict(losses=dict(crg=dict(type='crgloss'))), ["did you mean 'CRGLoss'"]),
        (dict(losses=dict(kd=dict(type='FocalLoss'))), ["model.losses.kd.type='FocalLoss' is no", 'PyramidLoss']),
        (
            dict(losses=dict(crg=dict(CRG, windw=4))),
            ['model.losses.crg.windw is unknown', "did you mean 'window'", 'CRGLoss takes', 'temperature'],
        ),
        (dict(losses=dict(kd=dict(type='NeedsWidth'))), ['model.losses.kd.width is missing: NeedsWidth needs']),
        (dict(losses=dict(kd=dict(type='NoSuper'))), ['model.losses.kd: NoSuper does not call super().__init__']),
        (dict(losses=dict(kd=dict(type='LateSuper'))), ['model.losses.kd: LateSuper does not call super()']),
        (
            dict(losses=dict(crg=dict(CRG, loss_weight=dict(type='GradientRatio', rato=1)))),
            ['model.losses.crg.loss_weight.rato is unknown', "did you mean 'ratio'"],
        ),
        (dict(losses=dict(crg=dict(CRG, window=0))), ['model.losses.crg.window: got 0', 'integer >= 1']),
        (dict(losses=dict(crg=dict(CRG, level_weights=[1]))), ['model.losses.crg.level_weights=[1]; accepted: one']),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else None,
)
def test_slips_in_losses(student, teacher, options, words):
    with pytest.raises(ValueError, match=r'^model\.losses') as caught:
        distiller(student, teacher, **options)
    for word in words:
        assert word in str(caught.value), f'{word!r} is not in: {caught.value}'


@pytest.mark.parametrize('missing', ['student', 'teacher', 'losses'])
def test_what_a_distiller_needs_is_named(student, teacher, missing):
    given = dict(student=student, teacher=teacher, losses=dict(crg=CRG))
    del given[missing]
    with pytest.raises(ValueError, match=rf'^model\.{missing} is missing; accepted: .*'):
        GraphDistiller(**given)


def test_a_forgotten_delete_is_told(student, teacher, tmp_path):
    """The detector's own keys are merged with the distiller's, its ``data_preprocessor`` too."""
    (tmp_path / 'base.py').write_text(f'model = {student!r}')
    (tmp_path / 'kd.py').write_text(
        "_base_ = 'base.py'\nmodel = dict(type='mmkd_graph.GraphDistiller', student={{_base_.model}}, "
        f'teacher={teacher!r}, losses=dict(crg={CRG!r}))'
    )
    with pytest.raises(ValueError, match=r'^model needs _delete_=True: .*backbone, bbox_head, data_preprocessor, neck'):
        MODELS.build(Config.fromfile(tmp_path / 'kd.py').model)


@pytest.mark.parametrize('weight', [1.0, 0.0])
@pytest.mark.parametrize(
    ('result', 'words'),
    [
        (torch.tensor(1.0), r'a tensor of shape \(\)'),
        (None, 'a NoneType'),
        ({}, 'no term'),
        (dict(mse=torch.ones(2, 3)), r"'mse': a tensor of shape \(2, 3\)"),
        (dict(mse=1.0), "'mse': a float"),
        ({3: torch.tensor(1.0)}, r'3: a tensor of shape \(\)'),
    ],
    ids=str,
)
def test_terms_of_an_own_loss_are_named_scalars(student, teacher, batch, monkeypatch, result, words, weight):
    model = distiller(student, teacher, losses=dict(own=dict(type='OwnTerms', loss_weight=weight)))
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    monkeypatch.setattr(OwnTerms, 'result', result)
    with pytest.raises(
        TypeError, match=rf'^model\.losses\.own: forward returned {words}; accepted: named scalar tensors'
    ):
        model(**data, mode='loss')
    monkeypatch.setattr(OwnTerms, 'result', dict(mse=torch.tensor(1.0), other=torch.ones(1)))
    losses = model(**data, mode='loss')
    assert {'mse', 'other'} <= {key.rpartition('own.')[2] for key in (losses if weight else losses['kd'])}
