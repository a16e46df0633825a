"""Whether the data sets of a config are there, can be read, and give all processes as many batches."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmkd_graph.datasets.annotations import check_datasets
from mmkd_graph.datasets.problems import ERROR, NOTE

from .findings import FAIL, OK, WARNING, Finding

LOADERS = ('train_dataloader', 'val_dataloader')


def check_data(cfg: Mapping[str, Any]) -> list[Finding]:
    """Classes, folders, annotation files with their entries and images, of the training and the validation data.

    Returns:
        One finding per problem, or one per loader that has none.
    """
    findings = []
    problems = check_datasets(cfg, LOADERS)
    for loader in LOADERS:
        if not cfg.get(loader):
            if loader == 'train_dataloader':
                findings.append(Finding(FAIL, loader, 'it is missing', 'add one'))
            continue
        keys = (f'{loader}.', f'{loader.replace("dataloader", "evaluator")}.')
        told = [problem for problem in problems if problem.key.startswith(keys)]
        for problem in told:
            found = ': '.join(part for part in (problem.place, problem.message) if part)
            level = {ERROR: FAIL, NOTE: OK}.get(problem.severity, WARNING)
            advice = 'correct the path or the file' if level == FAIL and problem.file else ''
            findings.append(Finding(level, problem.key, found, advice))
        if all(problem.severity == NOTE for problem in told):
            dataset = cfg[loader]['dataset']
            place = ', '.join(str(dataset[key]) for key in ('data_root', 'ann_file') if dataset.get(key))
            findings.append(Finding(OK, f'{loader}.dataset', f'paths and annotations are in order ({place})'))
    return findings


def check_ranks(runner: Runner) -> list[Finding]:
    """Compare the size of the training set and the batches of an epoch between the processes.

    Where they differ, some process is still inside of an epoch when another one has left it, and waits for ever in the
    next sum over all processes (of gradients, or of a loss that adds up its statistics). All ranks have to call this,
    and all get the same findings.
    """
    loader, own = runner.train_dataloader, (None, None)
    if isinstance(loader, DataLoader):
        with contextlib.suppress(TypeError):  # without a length
            # loops that count iterations begin a new epoch by themselves
            counts = isinstance(runner.train_loop, EpochBasedTrainLoop)
            own = len(loader.dataset), len(loader) if counts else None
    images, batches = zip(*all_gather_object(own), strict=True)
    found = 'the processes have {} {}'
    if len({*images}) > 1:
        found = found.format(', '.join(map(str, images)), 'training images')
        return [Finding(FAIL, 'train_dataloader.dataset', found, 'every process has to see the same files')]
    if len({*batches}) > 1:
        found = found.format(', '.join(map(str, batches)), 'batches an epoch')
        advice = 'they would wait for each other for ever: use round_up=True, or a sampler that gives all ranks as many'
        return [Finding(FAIL, 'train_dataloader.sampler', found, advice)]
    return []
