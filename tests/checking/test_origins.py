"""One line of what a runner raises, with the key of what was being built."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmkd_graph.checking import FAIL, CheckFailed, Finding
from mmkd_graph.checking.origins import config_error
from mmkd_graph.testing import tiny_retinanet


@DATASETS.register_module(force=True)
class Unreadable(Dataset):
    """One image, which cannot be read."""

    metainfo: dict[str, Any] = {}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError('no image')


def settings(work_dir: Path, **more: Any) -> Config:
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'), dataset=dict(type='Unreadable'))
    model = dict(tiny_retinanet())
    cfg = Config(
        dict(
            model=model,
            work_dir=str(work_dir),
            default_scope='mmdet',
            experiment_name=work_dir.name,
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            log_level='CRITICAL',
            custom_hooks=[dict(type='IterTimerHook')],
        )
    )
    cfg.merge_from_dict(copy.deepcopy(more))
    return cfg


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        (
            {'model.backbone.type': 'ResNett'},
            'model.backbone.type: ResNett is not in the mmdet::model registry (did you',
        ),
        ({'model.neck.out_chanels': 8}, "model.neck.out_chanels: FPN.__init__() got an unexpected keyword argument '"),
        ({'model.type': None}, 'model.type is missing; accepted'),
        ({'model.type': 'mmkd_graph.GraphDistiller'}, 'model needs _delete_=True: '),
        ({'custom_hooks': [dict(type='EMAHook'), dict(type='mmkd_graph.Nothing')]}, 'custom_hooks[1] (Nothing): '),
        (
            {'custom_hooks': [dict(type='mmkd_graph.LossScheduleHook')]},
            'custom_hooks[0] (LossScheduleHook): the model is a RetinaNet; accepted: a GraphDistiller',
        ),
        ({'default_hooks': dict(timer=dict(type='Timr'))}, 'default_hooks'),
        ({'optim_wrapper.optimizer.type': 'Sgdd'}, 'optim_wrapper: '),
        ({'train_cfg.max_epoch': 3}, 'train_cfg'),
        (
            {'train_dataloader.dataset.type': 'CocoDatset'},
            'train_dataloader.dataset.type: CocoDatset is not in ',
        ),
        (
            {'train_dataloader.dataset': dict(type='BaseDetDataset', pipeline=[dict(type='Resiz')])},
            "train_dataloader.dataset.pipeline.0.type: Resiz is not in the mmdet::transform registry (did you mean 'R",
        ),
    ],
    ids=str,
)
def test_the_key_of_what_could_not_be_built(tmp_path: Path, change: dict, line: str) -> None:
    cfg = settings(tmp_path, **change)
    if cfg.model.type is None:
        del cfg.model['type']
    with pytest.raises(Exception) as caught:
        Runner.from_cfg(cfg).train()
    assert config_error(caught.value, cfg).startswith(line)


def test_a_backend_of_the_visualizer_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'wandb', None)
    backends = dict(type='DetLocalVisualizer', vis_backends=[dict(type='WandbVisBackend')])
    cfg = settings(tmp_path, visualizer=backends)
    with pytest.raises(ImportError) as caught:
        Runner.from_cfg(cfg)
    assert config_error(caught.value, cfg).startswith('visualizer.vis_backends: ImportError: Please run "pip install')


def test_what_is_not_the_configs_fault_keeps_its_traceback(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    with pytest.raises(RuntimeError, match='no image') as caught:
        Runner.from_cfg(cfg).train()
    assert config_error(caught.value, cfg) is None
    assert config_error(CheckFailed([Finding(FAIL, 'model', 'x')]), cfg) is None
    assert config_error(OSError(28, 'No space left on device'), cfg) is None
