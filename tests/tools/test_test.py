"""What ``tools/test.py`` makes of its input before it tests; a whole test is in test_cycle.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import import_tool
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.datasets.transforms import PackDetInputs, Resize
from mmdet.models import DetTTAModel, RetinaNet
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.testing import save_weights, tiny_retinanet


class Program:
    """Makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return Path.mkdir, (Path(self.folder),)


@pytest.fixture(scope='module')
def test() -> ModuleType:
    return import_tool('test')


@pytest.fixture
def run(test: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the tool up to the runner; returns the config that this would be built from."""

    def run(config: str, checkpoint: object, *options: str) -> Config:
        built = []

        def build(cfg: Config, args: object) -> SimpleNamespace:
            built.append(cfg)
            return SimpleNamespace(test=lambda: None, hooks=[])

        monkeypatch.setattr(test, 'build_runner', build)
        (tmp_path / 'config.py').write_text(config)
        monkeypatch.setattr(sys, 'argv', ['test.py', str(tmp_path / 'config.py'), str(checkpoint), *options])
        test.main()
        return built[0]

    return run


DISTILLED = f"""
model = dict(type='mmkd_graph.GraphDistiller', student={tiny_retinanet()!r},
             teacher=dict(config='t.py', checkpoint='t.pth'), losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))
custom_hooks = [dict(type='mmkd_graph.TrainingCheckHook'), dict(type='EMAHook')]
"""


def test_it_never_resumes(run: Any, tmp_path: Path) -> None:
    """A resumed training leaves these lines in the config in its work dir."""
    path = save_weights(tiny_retinanet(), tmp_path / 'epoch_2.pth')
    cfg = run(f"{DISTILLED}\nresume = True\nload_from = 'epoch_1.pth'\nrunner_type = 'mmkd_graph.AnyRunner'", path)
    assert cfg.resume is False and cfg.load_from == path and cfg.runner_type == 'mmkd_graph.TestingRunner'
    assert cfg.model.to_dict() == tiny_retinanet() and cfg.custom_hooks == [dict(type='EMAHook')]


def test_the_student_may_be_given_as_a_path(run: Any, tmp_path: Path) -> None:
    path = save_weights(tiny_retinanet(), tmp_path / 'epoch_2.pth')
    (tmp_path / 'student.py').write_text(f'model = {tiny_retinanet()!r}')
    cfg = run(f"model = dict(type='mmkd_graph.GraphDistiller', student={str(tmp_path / 'student.py')!r})", path)
    assert cfg.model.to_dict() == tiny_retinanet()


@pytest.mark.parametrize('config', [DISTILLED, f'model = {tiny_retinanet()!r}'], ids=['distilled', 'plain'])
@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('program', 'more than weights'),
        ('text', 'could not be read'),
        ('folder', 'is a folder'),
        ('nothing', 'no such file'),
        ('no weights', 'holds no state_dict'),
    ],
)
def test_a_checkpoint_that_cannot_be_used_ends_it_in_one_line(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture, config: str, content: str, words: str
) -> None:
    path = tmp_path / 'a.pth'
    if content == 'program':
        torch.save(dict(state_dict={}, more=Program(tmp_path / 'ran')), path)
    elif content == 'text':
        path.write_text('weights')
    elif content == 'folder':
        path.mkdir()
    elif content == 'no weights':
        torch.save(dict(meta={}), path)
    with pytest.raises(SystemExit) as caught:
        run(config, path)
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
    assert caught.value.code == 2 and not (tmp_path / 'ran').exists()
    assert len(lines) == 1 and words in lines[0] and str(path) in lines[0]


def test_annotations_that_would_end_the_evaluation_end_it_before(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save_weights(tiny_retinanet(), tmp_path / 'epoch_2.pth')
    file = tmp_path / 'test.json'
    file.write_text(json.dumps(dict(annotations=[dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 5, 5], area=25)])))
    evaluator = dict(type='CocoMetric', ann_file=str(file))
    with pytest.raises(SystemExit) as caught:
        run(f'model = {tiny_retinanet()!r}\ntest_evaluator = {evaluator!r}', path)
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert f'error: test_evaluator.ann_file: {file}, annotations: iscrowd missing in 1 of 1' in told


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet'])
def test_flips_are_found_in_every_scope(test: ModuleType, scope: str) -> None:
    """Also in configs of pure Python, whose types are classes and whose default_scope is None."""
    pipeline = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(96, 64)), dict(type=PackDetInputs)]
    cfg = Config(
        dict(
            model=dict(type=GraphDistiller, student=dict(tiny_retinanet(), type=RetinaNet), teacher={}, losses={}),
            test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=pipeline))),
        )
    )
    test.keep_student(cfg)
    test.turn_on_tta(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        assert len(Compose(cfg.test_dataloader.dataset.dataset.pipeline).transforms) == 3
        assert MODELS.get(cfg.model.type) is DetTTAModel and cfg.model.module.type.endswith('RetinaNet')
