"""A checkpoint is published: what is in the file, that mmdet runs it alone, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import import_tool
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image

from mmkd_graph.publishing import publish_student
from mmkd_graph.testing import tiny_retinanet

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
CLASSES = ('a', 'b', 'c')
# mmdet's inference in a process without this package
ALONE = """
import sys
sys.modules['mmkd_graph'] = None
from mmdet.apis import DetInferencer
inferencer = DetInferencer(weights=sys.argv[1], device='cpu', show_progress=False)
found = inferencer(sys.argv[2], no_save_vis=True)['predictions'][0]
print('found', inferencer.visualizer.dataset_meta['classes'], len(found['bboxes']), found['scores'][0])
"""


def config(student: Any = None, **more: Any) -> Config:
    model = dict(
        type='mmkd_graph.GraphDistiller',
        student=student or tiny_retinanet(),
        teacher=dict(config='teacher.py', checkpoint='teacher.pth'),
        losses=dict(crg=dict(type='mmkd_graph.CRGLoss')),
    )
    dataset = dict(type='CocoDataset', ann_file='nowhere.json', metainfo=dict(classes=CLASSES), pipeline=PIPELINE)
    hooks = [dict(type='mmkd_graph.StudentExportHook')]
    return Config(dict(model=model, val_dataloader=dict(dataset=dataset), custom_hooks=hooks, **more))


def save(path: Path, trained: Config, student: Any = None, prefix: str = '', **meta: Any) -> dict[str, torch.Tensor]:
    """A training checkpoint of a distillation, with averaged weights; returns those of the student."""
    torch.manual_seed(0)
    detector = MODELS.build(student or tiny_retinanet())
    detector.init_weights()
    state = {prefix + key: value for key, value in detector.state_dict().items()}
    whole = dict(
        state_dict={**state, f'{prefix}distill.adapters.0.weight': torch.ones(2)},
        ema_state_dict={f'module.{key}': torch.zeros_like(value) for key, value in state.items()},
        optimizer=dict(state={}),
        message_hub=dict(),
        meta={
            'epoch': 3,
            'iter': 9,
            'cfg': trained.pretty_text,
            'dataset_meta': dict(classes=CLASSES),
            'seed': 1,
            **meta,
        },
    )
    torch.save(whole, path)
    return detector.state_dict()


def test_the_file_is_named_after_its_contents_and_has_nothing_of_the_training(tmp_path: Path) -> None:
    state = save(tmp_path / 'epoch_3.pth', config())
    done = publish_student(str(tmp_path / 'epoch_3.pth'), tmp_path / 'out' / 'student.pth')
    digits = hashlib.sha256(done.weights.read_bytes()).hexdigest()[:8]
    assert done.weights == tmp_path / 'out' / f'student-{digits}.pth'
    assert {*done.weights.parent.iterdir()} == {done.weights, done.config}
    content = torch.load(done.weights, weights_only=True)
    assert {*content} == {'state_dict', 'meta'}
    assert {*content['meta']} == {'cfg', 'dataset_meta', 'epoch', 'iter', 'mmengine_version'}
    assert 'mmkd_graph' not in content['meta']['cfg'] and content['meta']['cfg'] == done.config.read_text()
    assert {*content['state_dict']} == {*state}
    assert all(torch.equal(value, state[key]) for key, value in content['state_dict'].items())
    assert (done.model, done.distilled, done.classes, done.needs) == ('RetinaNet', True, CLASSES, [])
    with pytest.raises(FileExistsError, match=f'student-{digits}.pth. is there already'):
        publish_student(str(tmp_path / 'epoch_3.pth'), tmp_path / 'out' / 'student.pth')
    assert {*done.weights.parent.iterdir()} == {done.weights, done.config}


def test_mmdet_needs_the_file_alone(tmp_path: Path) -> None:
    save(tmp_path / 'epoch_3.pth', config(), prefix='module.')
    done = publish_student(str(tmp_path / 'epoch_3.pth'), tmp_path / 'student')
    done.config.unlink()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(tmp_path / 'image.png')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', ALONE, done.weights, tmp_path / 'image.png'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
    )
    assert "found ('a', 'b', 'c') 20 0." in done.stdout, done.stderr[-3000:]
    assert 'unexpected key' not in done.stdout and 'missing key' not in done.stdout


def test_a_plain_detector_is_published_too(tmp_path: Path) -> None:
    plain = Config({**config().to_dict(), 'model': tiny_retinanet()})
    save(tmp_path / 'plain.pth', plain)
    assert not publish_student(str(tmp_path / 'plain.pth'), tmp_path / 'p.pth').distilled


def test_a_config_may_be_given(tmp_path: Path) -> None:
    save(tmp_path / 'a.pth', config(), cfg='model = build()')
    with pytest.raises(ValueError, match=r'no config; give .* --config'):
        publish_student(str(tmp_path / 'a.pth'), tmp_path / 's.pth')
    assert publish_student(str(tmp_path / 'a.pth'), tmp_path / 's.pth', config()).weights.exists()


def test_what_it_needs_beyond_mmdet_is_known(tmp_path: Path) -> None:
    student = tiny_retinanet(fpn_channels=16)
    student['backbone'] = dict(type='mmkd_graph.EfficientNetLite', depths=(1, 1, 1, 4, 1))
    student['neck'].update(in_channels=[40, 112, 192], start_level=0)
    cfg = config(student, custom_imports=dict(imports=['mmkd_graph.backbones', 'mmdet.models']))
    save(tmp_path / 'a.pth', cfg, student)
    done = publish_student(str(tmp_path / 'a.pth'), tmp_path / 's.pth')
    ours = "mmkd_graph (model.backbone.type='mmkd_graph.EfficientNetLite')"
    assert done.needs == [ours, 'mmdet.models (custom_imports)']


def test_refused_in_one_line_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = import_tool('publish_student')
    monkeypatch.chdir(tmp_path)
    save(Path('good.pth'), config())
    save(Path('classless.pth'), config(), dataset_meta=None)
    save(Path('program.pth'), config(), cfg=f"model = {tiny_retinanet()}\nroot = open('/etc/hostname').read()")
    save(Path('other.pth'), config(tiny_retinanet(base_channels=16)))
    save(Path('absent.pth'), config(custom_imports=dict(imports=['my_own.heads'])))
    Path('cut.pth').write_bytes(Path('good.pth').read_bytes()[:5000])
    damaged = bytearray(Path('good.pth').read_bytes())
    damaged[len(damaged) // 2] ^= 255
    Path('damaged.pth').write_bytes(damaged)
    files = {*tmp_path.iterdir()}
    cases = {
        ('none.pth', 's.pth'): "CHECKPOINT='none.pth': no such file",
        ('cut.pth', 's.pth'): "CHECKPOINT='cut.pth' could not be read",
        ('damaged.pth', 's.pth'): "CHECKPOINT='damaged.pth': its contents are damaged",
        ('classless.pth', 's.pth'): "CHECKPOINT='classless.pth' has no class names (meta.dataset_meta.classes)",
        ('program.pth', 's.pth'): "CHECKPOINT='program.pth' has a config that is a program (cfg.root",
        ('other.pth', 's.pth'): "CHECKPOINT='other.pth' does not match the model RetinaNet",
        ('absent.pth', 's.pth'): 'custom_imports of the config: Failed to import',
        ('good.pth', 's.py'): "OUT='s.py' is the name of a config; accepted: a name to write to",
        ('good.pth', '.'): "OUT='.' is a folder; accepted",
        ('good.pth', 's.pth', '--config', 'none.py'): "no config file 'none.py'",
    }
    for arguments, said in cases.items():
        monkeypatch.setattr(sys, 'argv', ['publish_student.py', *arguments])
        with pytest.raises(SystemExit, match='2'):
            tool.main()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f'publish_student.py: error: {said}'), (arguments, lines)
        assert {*tmp_path.iterdir()} == files


def test_nothing_is_left_if_a_file_cannot_be_put_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / 'good.pth', config())
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.suffix == '.pth':
            raise OSError(errno.ENOSPC, 'No space left on device')
        return replace(self, target)

    monkeypatch.setattr(Path, 'replace', full)
    with pytest.raises(OSError, match='No space left'):
        publish_student(str(tmp_path / 'good.pth'), tmp_path / 's.pth')
    assert [path.name for path in tmp_path.iterdir()] == ['good.pth']


def test_the_tool_says_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = import_tool('publish_student')
    monkeypatch.chdir(tmp_path)
    save(Path('good.pth'), config())
    monkeypatch.setattr(sys, 'argv', ['publish_student.py', 'good.pth', 'fine.pth'])
    tool.main()
    first, second = capsys.readouterr().out.splitlines()
    (weights,) = tmp_path.glob('fine-*.pth')
    assert first.startswith(f'{weights.name}: RetinaNet, the student of a distillation, ')
    assert first.endswith('parameters, 3 classes (a, b, c)') and second == f'{weights.stem}.py: its config'
