"""Whether the data sets of a config are there and can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd_graph.datasets.annotations import ERROR, check_datasets

from .findings import FAIL, OK, WARNING, Finding

LOADERS = ('train_dataloader', 'val_dataloader')


def check_data(cfg: Mapping[str, Any]) -> list[Finding]:
    """Folders, annotation files and their entries, of the training and the validation data.

    Args:
        cfg: a whole config.

    Returns:
        One finding per problem, or one per loader that has none.
    """
    findings = []
    for loader in LOADERS:
        if not cfg.get(loader):
            if loader == 'train_dataloader':
                findings.append(Finding(FAIL, loader, 'it is missing', 'add one'))
            continue
        problems = check_datasets(cfg, [loader])
        for problem in problems:
            place = f'{problem.file}, {problem.entry}' if problem.entry else problem.file
            level, advice = (FAIL, 'correct the path or the file') if problem.severity == ERROR else (WARNING, '')
            findings.append(Finding(level, problem.key or loader, f'{place}: {problem.message}', advice))
        if not problems:
            dataset = cfg[loader]['dataset']
            place = ', '.join(str(dataset[key]) for key in ('data_root', 'ann_file') if dataset.get(key))
            findings.append(Finding(OK, f'{loader}.dataset', f'paths and annotations are in order ({place})'))
    return findings
