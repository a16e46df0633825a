"""What is left behind at the end of a training; the files' contents are in tests/test_export.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmkd_graph.hooks import StudentExportHook


def runner_of(work_dir: Path, config: str = 'distilled.py') -> SimpleNamespace:
    model = torch.nn.Module()
    model.backbone, model.distill = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def average(name: str, checkpoint: dict) -> None:
        """As ``EMAHook`` does."""
        assert name == 'before_save_checkpoint'
        checkpoint['state_dict'] = {key: torch.zeros_like(value) for key, value in checkpoint['state_dict'].items()}

    work_dir.mkdir()
    (work_dir.parent / config).write_text("model = dict(type='RetinaNet')")
    return SimpleNamespace(
        model=model,
        cfg=Config.fromfile(work_dir.parent / config),
        work_dir=str(work_dir),
        iter=6,
        epoch=2,
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=[dict(classes=('a',))] * 2)),
        call_hook=average,
        logger=MMLogger.get_instance('export'),
    )


def test_files_are_named_by_the_filename_and_hold_the_averaged_student(tmp_path: Path) -> None:
    hook, runner = StudentExportHook('best.pth'), runner_of(tmp_path / 'run')
    hook.before_train(runner)
    hook.after_train(runner)
    assert {path.name for path in (tmp_path / 'run').iterdir()} == {'best.pth', 'best.py'}
    content = torch.load(tmp_path / 'run' / 'best.pth', weights_only=True)
    assert {*content['state_dict']} == {'backbone.weight', 'backbone.bias'}
    assert not any(value.any() for value in content['state_dict'].values())
    assert content['meta']['dataset_meta'] == dict(classes=('a',)) and content['meta']['iter'] == 6
    assert Config.fromfile(tmp_path / 'run' / 'best.py').model.type == 'RetinaNet'


def test_the_config_takes_no_other_files_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"filename='a\.py'.*accepted"):
        StudentExportHook('a.py')
    with pytest.raises(ValueError, match=r"StudentExportHook\.filename='student\.pth'.*accepted"):
        StudentExportHook().before_train(runner_of(tmp_path / 'run', 'student.py'))
