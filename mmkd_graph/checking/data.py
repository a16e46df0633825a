"""Whether the data sets of a config are there and can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd_graph.datasets.annotations import check_datasets
from mmkd_graph.datasets.problems import ERROR, NOTE

from .findings import FAIL, OK, WARNING, Finding

LOADERS = ('train_dataloader', 'val_dataloader')


def check_data(cfg: Mapping[str, Any]) -> list[Finding]:
    """Classes, folders, annotation files with their entries and images, of the training and the validation data.

    Args:
        cfg: a whole config.

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
