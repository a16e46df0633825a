"""What a student starts from is read as weights only, through mmengine's own loading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_retinanet
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmkd_graph.distillers import GraphDistiller

LOGS = dict(message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))))


class Program:
    """Makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def started_from(teacher: dict[str, Any], **parts: dict[str, Any]) -> GraphDistiller:
    student = tiny_retinanet()
    for part, init_cfg in parts.items():
        student[part]['init_cfg'] = dict(type='Pretrained', **init_cfg)
    losses = dict(crg=dict(type='mmkd_graph.CRGLoss'))
    return GraphDistiller(ConfigDict(student), ConfigDict(teacher), losses)


@pytest.mark.parametrize('logs', [{}, LOGS])
@pytest.mark.parametrize('new', [True, False])
def test_a_pretrained_file_that_would_run_code_is_refused(
    teacher: dict[str, Any], tmp_path: Path, logs: dict, new: bool
) -> None:
    path = tmp_path / 'start.pth'
    content = dict(logs, state_dict={}, more=Program(tmp_path / 'ran'))
    torch.save(content, path, _use_new_zipfile_serialization=new)
    model = started_from(teacher, backbone=dict(checkpoint=str(path)))
    words = r"student\.backbone\.init_cfg\.checkpoint='.*start\.pth' was not read.*more than weights \(posix\.mkdir\)"
    with pytest.raises(ValueError, match=words):
        model.init_weights()
    assert not (tmp_path / 'ran').exists()


def test_checkpoints_of_trainings_and_bare_weights_are_read(teacher: dict[str, Any], tmp_path: Path) -> None:
    """Several in a row: mmengine takes back what it allows itself after each."""
    state = {key: torch.full_like(value, 0.5) for key, value in started_from(teacher).student.state_dict().items()}
    parts = {p: {k.split('.', 1)[1]: v for k, v in state.items() if k.startswith(p)} for p in ('backbone', 'bbox_head')}
    whole = dict(LOGS, state_dict=state, meta=dict(seed=np.int64(3), dataset_meta=dict(palette=np.zeros((2, 3)))))
    torch.save(whole, tmp_path / 'whole.pth')
    torch.save(parts['backbone'], tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    torch.save(dict(whole, state_dict=parts['bbox_head']), tmp_path / 'head.pth')
    model = started_from(
        teacher,
        backbone=dict(checkpoint=str(tmp_path / 'old.pth')),
        neck=dict(checkpoint=str(tmp_path / 'whole.pth'), prefix='neck'),
        bbox_head=dict(checkpoint=str(tmp_path / 'head.pth')),
    )
    model.init_weights()
    assert all(torch.equal(value, state[key]) for key, value in model.student.state_dict().items())
