"""What is put around every training: into its config, and before its first iteration."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmkd_graph.checkpoints import is_address, not_weights
from mmkd_graph.datasets.annotations import check_datasets
from mmkd_graph.findings import FAIL, OK, WARNING
from mmkd_graph.losses.names import rename_losses
from mmkd_graph.registry import type_name

from .errors import NotStarted, WrongInput
from .resuming import Start

_WORDS = {FAIL: 'error', WARNING: 'warning', OK: 'note'}
_HOOKS = ('IterationSeedHook', 'NonFiniteLossHook', 'UnreadableImageHook', 'DueValidationHook', 'TrainingSummaryHook')


def guard(cfg: Config | ConfigDict | dict[str, Any]) -> None:
    """Put this package's sampler, checkpoint hook and guards around what a config asks for, in place.

    What is there already stays as it is, so a second time changes nothing. A distillation also gets
    ``TrainingCheckHook``, unless the config says ``training_check = False``, ``TensorboardLayoutHook``
    if it logs to TensorBoard, and its losses the names that they have.

    Raises:
        WrongInput: if a loss has an option that is gone.
    """
    loader = cfg.get('train_dataloader')
    loader = loader if isinstance(loader, dict) else {}
    # TrackImgSampler gives pairs (video, frame), and its batch sampler asks for that very class
    if loader.get('sampler') and _name(loader['sampler']) not in ('SeededSampler', 'TrackImgSampler'):
        loader['sampler'] = dict(type='mmkd_graph.SeededSampler', sampler=loader['sampler'])
    hooks = dict(cfg.get('default_hooks') or {})
    checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if isinstance(checkpoint, dict) and _name(checkpoint) == 'CheckpointHook':
        cfg['default_hooks'] = dict(hooks, checkpoint=dict(checkpoint, type='mmkd_graph.SafeCheckpointHook'))
    custom = list(cfg.get('custom_hooks') or [])
    wanted = list(_HOOKS)
    if _name(cfg.get('model')) == 'GraphDistiller':
        try:
            rename_losses(cfg['model'])
        except ValueError as error:
            raise WrongInput(str(error)) from error
        if cfg.get('training_check', True):
            wanted.append('TrainingCheckHook')
        visualizer = cfg.get('visualizer')
        backends = (visualizer.get('vis_backends') if isinstance(visualizer, dict) else None) or ()
        if 'TensorboardVisBackend' in map(_name, [backends] if isinstance(backends, dict) else backends):
            wanted.append('TensorboardLayoutHook')
    there = set(map(_name, custom))
    cfg['custom_hooks'] = custom + [dict(type=f'mmkd_graph.{name}') for name in wanted if name not in there]


def _name(part: Any) -> str:
    """Class that a part of a config is of, built or not."""
    return type_name(part['type'] if isinstance(part, dict) and 'type' in part else type(part))


def check_folder(work_dir: str | os.PathLike[str]) -> None:
    """See that a work dir can be made and written.

    Raises:
        NotStarted: if not.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir, prefix='.room-') as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        raise NotStarted(f'work dir {work_dir} cannot be written: {error.strerror or error}') from error


def check_data(cfg: Any, say: Callable[[str], None]) -> None:
    """Say what is wrong with the data sets of a whole config and what is left out of them.

    Raises:
        WrongInput: if they cannot be trained on.
    """
    findings = check_datasets(cfg)
    for finding in findings:
        say(f'{_WORDS[finding.level]}: {finding.sentence}')
    errors = [finding.sentence for finding in findings if finding.level == FAIL]
    if errors:
        raise WrongInput(f'the data sets have {len(errors)} errors, of which the first is: {errors[0]}')


def check_weights(start: Start) -> None:
    """Look through the weights that a training starts from, where they are in a local file.

    Raises:
        WrongInput: if they cannot be loaded, or the file holds more than weights.
    """
    if start.path is None or start.resume or is_address(start.path):
        return
    if reason := not_weights(start.path):
        raise WrongInput(f'load_from: {start.path}: {reason}')
