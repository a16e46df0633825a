"""A student in ONNX Runtime finds what it finds in PyTorch; where mmdeploy is not installed, how to install it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import import_tool
from jobs import run
from mmdet.registry import MODELS
from mmengine.config import Config
from PIL import Image

from mmkd_graph.export import export_student
from mmkd_graph.testing import tiny_retinanet

HAS_MMDEPLOY = all(importlib.util.find_spec(name) for name in ('mmdeploy', 'onnx', 'onnxruntime'))


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A published detector with random weights, and ``image.png`` beside it."""
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=True)]
    dataset = dict(
        type='CocoDataset', ann_file='no.json', pipeline=[*pipeline, dict(type='PackDetInputs', meta_keys=meta)]
    )
    config = Config(dict(model=tiny_retinanet(), test_dataloader=dict(dataset=dataset)))
    detector = MODELS.build(tiny_retinanet())
    detector.init_weights()
    weights = dict(state_dict=detector.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))))
    export_student(weights, config, tmp_path / 'student.pth')
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'image.png')
    Image.fromarray(pixels.transpose(1, 0, 2).copy()).save(tmp_path / 'tall.png')
    return tmp_path / 'student.pth'


@pytest.mark.skipif(not HAS_MMDEPLOY, reason='mmdeploy, onnx and onnxruntime are not in the lock file')
def test_onnx_runtime_finds_the_same(student: Path) -> None:
    images = [student.with_name('image.png'), student.with_name('tall.png')]
    out = student.with_suffix('.onnx')
    said = run('export_onnx.py', student, out, '--images', *images, log=student.with_name('log'))
    assert said.count('20 boxes in PyTorch, 20 in ONNX Runtime, at most ') == 2
    assert f'{out}: 0 of 2 images differ' in said


def test_wrong_input_is_one_line(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = import_tool('export_onnx')
    monkeypatch.setitem(sys.modules, 'mmdeploy', None)
    monkeypatch.chdir(tmp_path)
    cases = {
        ('none.pth', 's.onnx', 'image.png'): "STUDENT='none.pth': no such file",
        ('student.pth', 's.pth', 'image.png'): "OUT='s.pth'; accepted: a new name that ends in .onnx",
        ('student.pth', 's.onnx', 'no.png'): "--images: no file 'no.png'",
        (
            'student.pth',
            's.onnx',
            'image.png',
        ): 'accepted: an environment with mmdeploy: pip install --no-deps mmdeploy==1.3.1; pip install onnx',
    }
    export = tool.torch.onnx.export
    for (weights, out, image), expected in cases.items():
        monkeypatch.setattr(sys, 'argv', ['export_onnx.py', weights, out, '--images', image])
        with pytest.raises(SystemExit, match='2'):
            tool.main()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and expected in lines[0], lines
    assert tool.torch.onnx.export is export, 'torch is changed for mmdeploy alone'
