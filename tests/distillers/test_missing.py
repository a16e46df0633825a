"""Weights that cannot be had: what is said of a file, a connection and a package, and that nothing else is meant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from mmkd_graph.distillers import missing
from mmkd_graph.distillers.initial import initialising
from mmkd_graph.distillers.missing import MissingWeights
from mmkd_graph.distillers.weights import load_weights, read_checkpoint
from mmkd_graph.testing import save_weights, tiny_retinanet

URL = 'https://weights.example/some/teacher-1234abcd.pth'


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing can be reached; returns where torch would keep downloaded weights."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError(OSError(-2, 'Name or service not known'))

    monkeypatch.setattr('torch.hub.urlopen', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home' / 'hub' / 'checkpoints'


def test_no_connection_names_host_folder_and_key(no_network: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        read_checkpoint(URL, 'teacher.checkpoint')
    told = str(caught.value)
    assert told.startswith(f"teacher.checkpoint='{URL}': no connection to weights.example: download it where there is")
    assert f'put it into {no_network}, or set model.teacher.checkpoint to the path of a copy' in told
    # what the advice says helps
    model = tiny_retinanet()
    save_weights(model, no_network / 'teacher-1234abcd.pth')
    assert read_checkpoint(URL, 'teacher.checkpoint')[0]


def test_a_host_that_has_no_such_file_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(*_: object, **__: object) -> None:
        raise HTTPError(URL, 404, 'Not Found', None, None)

    monkeypatch.setattr('torch.hub.urlopen', answer)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(MissingWeights, match=r'weights\.example answers 404 \(Not Found\)'):
        read_checkpoint(URL, 'teacher.checkpoint')


def initialise(model: nn.Module) -> None:
    with initialising(model):
        model.init_weights()


def test_weights_of_the_students_backbone(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_retinanet()
    config['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=URL)
    model = MODELS.build(config)
    with pytest.raises(MissingWeights, match=f"^student.backbone.init_cfg.checkpoint='{URL}': no connection to weig"):
        initialise(model)
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    model.backbone.init_cfg['checkpoint'] = 'torchvision://resnet50'
    with pytest.raises(MissingWeights, match=r'torchvision is missing.*: pip install --no-deps torchvision==0\.'):
        initialise(model)


@pytest.mark.parametrize(
    ('version', 'command'),
    [
        ('2.13.0+cpu', 'torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cpu'),
        ('2.6.0+cu124', 'torchvision==0.21.0'),
        ('2.4.1', 'torchvision==0.19.1'),
        ('3.0.0', 'torchvision'),
    ],
)
def test_the_torchvision_of_a_torch(version: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', version)
    assert missing._install() == f'pip install --no-deps {command}'


def test_the_newest_other_checkpoint_is_named(tmp_path: Path) -> None:
    for age, name in enumerate(('iter_160.pth', 'iter_40.pth')):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (9e8 - age, 9e8 - age))
    with pytest.raises(MissingWeights, match=r'no such file .*; there is: iter_160\.pth$'):
        read_checkpoint(str(tmp_path / 'iter_200.pth'), 'teacher.checkpoint')
    with pytest.raises(ValueError, match='could not be read'):
        read_checkpoint(str(tmp_path / 'iter_160.pth'), 'teacher.checkpoint')


def test_another_width_is_said_in_words(tmp_path: Path) -> None:
    file = save_weights(tiny_retinanet(fpn_channels=32), tmp_path / 'wide.pth')
    model = MODELS.build(tiny_retinanet(fpn_channels=16))
    with pytest.raises(ValueError, match="the checkpoint's neck has 32 channels, the config's 16") as caught:
        load_weights(model, file, 'teacher.checkpoint')
    assert str(caught.value).count('in the checkpoint,') == 3 and 'more' in str(caught.value).splitlines()[3]
    file = save_weights(tiny_retinanet(base_channels=16), tmp_path / 'deep.pth')
    model = MODELS.build(tiny_retinanet(base_channels=8))
    with pytest.raises(ValueError, match="the checkpoint's backbone has 2 times the channels of the config's"):
        load_weights(model, file, 'teacher.checkpoint')
