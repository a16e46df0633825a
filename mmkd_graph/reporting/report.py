"""The report: its sections, in order."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.registry import init_default_scope

import mmkd_graph
from mmkd_graph.checkpoints import not_weights
from mmkd_graph.engine.measuring import machine

from .comparison import add_detections
from .differences import config_differences
from .page import Page
from .sections import add_curves, add_graphs, add_losses
from .trainings import ALONE, DISTILLED, ReportError, read_training, with_roles

_STACK = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmengine', 'mmcv', 'mmdet', 'numpy', 'matplotlib')


def make_report(
    work_dirs: Sequence[Path],
    out: Path,
    *,
    command: str,
    images: int = 200,
    show: int = 8,
    which: str = 'best',
    device: str = 'cpu',
    say: Callable[[str], None] = print,
) -> Page:
    """Write the page.

    Args:
        work_dirs: that of the distillation first.
        out: file to write.
        command: what made it, for its last lines.
        images: of the validation set, that the models run on; 0 runs none.
        show: how many of these are shown.
        which: checkpoints that are run, ``'best'`` (the last one where there is no best one) or ``'last'``.
        device: where the models run.
        say: gets a line for every model that is run.

    Returns:
        What the page says.

    Raises:
        ReportError: if a work dir cannot be read, or the first one is no distillation or has no checkpoint.
    """
    trainings = with_roles([read_training(folder) for folder in work_dirs])
    by_role = {training.role: training for training in reversed(trainings)}
    distilled = by_role[DISTILLED]
    checkpoint = distilled.checkpoint(which)
    if images and checkpoint is None:
        raise ReportError(
            f'work dir {distilled.folder} has no checkpoint (best_*.pth, iter_*.pth, epoch_*.pth); accepted: one with, '
            'or --images 0 for a report of its curves alone'
        )
    if checkpoint and (reason := not_weights(checkpoint)):
        raise ReportError(f'{checkpoint}: {reason}')
    init_default_scope(distilled.config.get('default_scope') or 'mmdet')
    page = Page(
        title=f'Distillation report: {distilled.folder.name}',
        command=command,
        trainings=trainings,
        environment=f'{machine(torch.device(device))}; {_versions()}',
        made=time.strftime('%Y-%m-%d %H:%M'),
    )
    add_curves(page, trainings)
    add_losses(page, distilled, checkpoint, device if images else '')
    add_graphs(page, distilled)
    if images:
        add_detections(page, by_role, images, show, which, device, say)
    else:
        page.lack('detections', 'No model was run.', f'{command}  # without --images 0')
    if ALONE in by_role:
        page.differences = config_differences(distilled.config, by_role[ALONE].config)
    else:
        page.lack_student(distilled)
    page.write(out)
    return page


def _versions() -> str:
    found = [f'mmkd_graph {mmkd_graph.__version__}']
    for name in _STACK:
        try:
            found.append(f'{name} {importlib.metadata.version(name)}')
        except importlib.metadata.PackageNotFoundError:
            continue
    return ', '.join(found)
