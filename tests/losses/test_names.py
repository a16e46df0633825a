"""Configs and checkpoints of version 0.1: old names work, options that are gone say what takes their place."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config

from mmkd_graph import losses
from mmkd_graph.engine.resuming import find_start
from mmkd_graph.losses.names import CHANGED, GONE, LEVEL_WEIGHTS, RENAMED, changed_losses, current_config, rename_losses


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(
        'mmkd_graph.losses.names.print_log', lambda message, logger, level=logging.INFO: lines.append(message)
    )
    return lines


@pytest.mark.parametrize('prefix', ['', 'mmkd_graph.', 'mmkd_graph.losses.some_file.'])
@pytest.mark.parametrize('old', RENAMED)
def test_an_old_name_works_with_one_line_that_names_the_new_one(old, prefix, said):
    config = current_config(dict(type=prefix + old, some=1), 'losses.kd')
    assert config == dict(type=f'mmkd_graph.{RENAMED[old]}', some=1)
    assert hasattr(losses, RENAMED[old]) and not hasattr(losses, old)
    (line,) = said
    assert f"losses.kd.type='{prefix}{old}' is 'mmkd_graph.{RENAMED[old]}' now" in line


@pytest.mark.parametrize('kind', ['CRGLoss', 'mmkd_graph.CRGLoss', losses.CRGLoss, 'other.PearsonLoss', 'Unknown'])
def test_other_names_stay_and_nothing_is_said(kind, said):
    given = dict(type=kind, window=2)
    assert current_config(given, 'losses.kd') == given and not said
    assert current_config(dict(type='other.CRGLoss', k=3), 'losses.kd') == dict(type='other.CRGLoss', k=3)


@pytest.mark.parametrize(('name', 'option'), [(name, option) for name in GONE for option in GONE[name]])
def test_an_option_that_is_gone_says_what_takes_its_place(name, option, said):
    (old,) = (old for old, new in RENAMED.items() if new == name)
    for kind in (f'mmkd_graph.{old}', name, getattr(losses, name)):
        with pytest.raises(ValueError, match=rf'^losses\.kd\.{option} is gone: \w.{{20}}'):
            current_config({'type': kind, option: 1}, 'losses.kd')


@pytest.mark.parametrize('kind', ['mmkd_graph.CRGLoss', losses.MHGDLoss, 'LFCCLoss', 'REFILLEDLoss'])
@pytest.mark.parametrize('old', LEVEL_WEIGHTS)
def test_an_old_choice_of_level_weights_works_with_one_line_that_names_the_new_one(kind, old, said):
    given = dict(type=kind, level_weights=old, samples='cells')
    assert current_config(given, 'losses.kd') == dict(given, level_weights=LEVEL_WEIGHTS[old])
    assert said == [
        f'losses.kd.level_weights={old!r} is {LEVEL_WEIGHTS[old]!r} now; the old name works until version 0.3'
    ]


@pytest.mark.parametrize(
    'given', [dict(type='other.CRGLoss', level_weights='cells'), dict(type='mmkd_graph.CRGLoss', level_weights=[1, 2])]
)
def test_other_level_weights_stay(given, said):
    assert current_config(given, 'losses.kd') == given and not said


def test_a_plain_name_that_somebody_else_has_registered_is_theirs(said, monkeypatch):
    class PearsonLoss(losses.PyramidLoss):
        def forward(self, student, teacher, context):
            return dict(own=student[0].sum())

    monkeypatch.setitem(MMDET_MODELS._module_dict, 'PearsonLoss', PearsonLoss)
    config = dict(type='PearsonLoss')
    assert current_config(config, 'losses.kd') == config and not said
    assert current_config(dict(type='mmkd_graph.PearsonLoss'), 'losses.kd') == dict(type='mmkd_graph.PKDLoss')


def test_what_is_gone_is_no_option_of_today():
    for name, options in GONE.items():
        for option in options:
            with pytest.raises(TypeError, match=option):
                getattr(losses, name)(**{option: 1})
    assert CHANGED.keys() <= RENAMED.keys()


def test_a_distiller_takes_old_names_and_refuses_options_that_are_gone(student, teacher, said):
    def build(**options):
        config = dict(type='mmkd_graph.ChannelGraphLoss', **options)
        return MMDET_MODELS.build(
            dict(type='mmkd_graph.GraphDistiller', student=student, teacher=teacher, losses=dict(crg=config))
        )

    assert type(build().distill.losses['crg']) is losses.CRGLoss and len(said) == 1
    assert build(level_weights='alike').distill.losses['crg'].level_weights == 'equal'
    with pytest.raises(ValueError, match=r'losses\.crg\.k is gone: .* \| losses\.crg\.solver is gone: '):
        build(solver='exact', k=8)


# ------------------------------------------------------------------------------------- checkpoints


RATIO = "dict(type='mmkd_graph.GradientRatio', ratio=0.5)"
CONFIG = f"""default_scope = 'mmdet'
model = dict(
    losses=dict(
        crg=dict(type='mmkd_graph.ChannelGraphLoss', k=4, loss_weight={RATIO}),
        mhgd=dict(type='AttentionGraphLoss'),
        pkd=dict(type='mmkd_graph.PearsonLoss'),
        lfcc=dict(type='LowFrequencyContrastiveLoss')),
    student=dict(type='RetinaNet'),
    type='mmkd_graph.GraphDistiller')
"""


def test_only_losses_that_are_more_than_renamed_are_said_to_have_changed():
    crg, mhgd, lfcc = changed_losses(CONFIG)
    assert crg.startswith('losses.crg was a ChannelGraphLoss and goes on as CRGLoss: ')
    assert crg.endswith('measured for the old one stays')
    assert mhgd.startswith('losses.mhgd was a AttentionGraphLoss') and 'measured' not in mhgd
    assert 'goes on as LFCCLoss: its filters are averages' in lfcc and 'optimizer state' in lfcc


@pytest.mark.parametrize(
    'text',
    [
        '',
        'model = (',
        'model = 3',
        'model\x00',
        "model = dict(type='RetinaNet')",
        "model = dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))",
        'model = dict(losses=[1], **other)',
        'model = dict(losses=dict(crg=dict(type=print)))',
    ],
)
def test_other_configs_have_no_changed_losses_and_nothing_in_them_is_run(text):
    assert changed_losses(text) == []


def test_a_training_of_the_first_version_goes_on(student, teacher, tmp_path: Path):
    """The checkpoint is laid out as 7b1d6cc wrote it: the student under its own names, all else below ``distill.``."""
    plain = MMDET_MODELS.build(student).state_dict()
    weights = {name: torch.full_like(value, 2) for name, value in plain.items()}
    for level in range(5):
        weights[f'distill.adapter.levels.{level}.weight'] = torch.zeros(32, 16, 1, 1)
        weights[f'distill.adapter.levels.{level}.bias'] = torch.zeros(32)
    weights['distill.weights.crg.scale'] = torch.tensor(3.0)
    weights['distill.weights.crg.scales'] = torch.ones(50)
    weights['distill.weights.crg.passes'] = torch.tensor(50)
    path = tmp_path / 'iter_1.pth'
    meta = dict(iter=1, epoch=0, seed=0, cfg=CONFIG)
    torch.save(dict(meta=meta, state_dict=weights, optimizer={}, message_hub={}), path)
    (tmp_path / 'last_checkpoint').write_text(str(path))

    model = dict(
        type='mmkd_graph.GraphDistiller',
        student=student,
        teacher=teacher,
        losses=dict(
            crg=dict(type='mmkd_graph.ChannelGraphLoss', loss_weight=dict(type='mmkd_graph.GradientRatio', ratio=0.5))
        ),
    )
    for checkpoint in ('auto', str(path)):
        start = find_start(tmp_path, None if checkpoint == 'auto' else checkpoint, resume=True, sharded=False)
        lines = changed_losses(start.config)
        assert start.resume and len(lines) == 3
        assert lines[0].startswith('losses.crg was a ChannelGraphLoss and goes on as CRGLoss')
    cfg = Config(dict(model=model))
    rename_losses(cfg.model)
    assert cfg.model.losses.crg.type == 'mmkd_graph.CRGLoss', 'so that its checkpoints say nothing again'

    distiller = MMDET_MODELS.build(cfg.model)
    content = torch.load(path, weights_only=True)['state_dict']
    distiller.load_state_dict(content, strict=True)
    own = {name: value for name, value in content.items() if not name.startswith('distill.')}
    MMDET_MODELS.build(student).load_state_dict(own, strict=True)
    assert distiller.distill.weights['crg'].value == pytest.approx(3.0 * 0.5)


def test_an_option_that_is_gone_is_named_by_its_whole_key():
    model = dict(losses=dict(crg=dict(type='mmkd_graph.ChannelGraphLoss', k=4)))
    with pytest.raises(ValueError, match=r'^model\.losses\.crg\.k is gone: the whole spectrum is compared'):
        rename_losses(model)
    for other in (dict(), dict(losses=None), dict(losses=dict(crg=3))):
        rename_losses(other)
