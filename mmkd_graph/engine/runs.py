"""Train and evaluate one config in processes of their own, which can be interrupted and go on."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkd_graph.checkpoints import write_whole
from mmkd_graph.datasets.metainfo import config_classes
from mmkd_graph.packaged import TOOLS, read_config

from .children import run_child
from .resuming import named_checkpoint
from .scores import Score, coco_metric, score

_PROGRESS = re.compile(
    r'(?:Iter|Epoch)\((?P<what>train|test)\)\s*(?:\[(?P<epoch>\d+)\])?\[\s*(?P<done>\d+)/(?P<total>\d+)\].*?eta:\s*(?P<eta>.+?)\s\s'
)
_SUMMARY = re.compile(r'The distilled student:\n((?:  .*\n)+)')
"""The last lines of a distillation, those of ``TrainingSummaryHook``."""


class RunFailed(RuntimeError):
    """A training or evaluation process ended with an error; the message names its log."""


@dataclass(frozen=True)
class Boxes:
    """Detections in COCO's form, and what they are compared with.

    Attributes:
        ann_file: the ground truth.
        predictions: the detections.
        classes: names of the categories that count; None for all.
    """

    ann_file: str
    predictions: Path
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Run:
    """One config, trained and evaluated in ``work_dir``. Every tenth of the way is printed.

    Args:
        config: config file.
        work_dir: folder of its logs and checkpoints.
        options: settings on top of the file, with keys as in ``--cfg-options``.
        environment: extra environment variables of the processes.
        trainer: the program below ``tools/`` that trains.
    """

    config: str
    work_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    trainer: str = 'train.py'

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint of the finished training; also when the folder was moved since.

        Raises:
            RunFailed: if it has left none.
        """
        if named := named_checkpoint(self.work_dir):
            return self.work_dir / Path(named).name
        raise RunFailed(
            f'the training of {self.config} has left no checkpoint in {self.work_dir}: set '
            'default_hooks.checkpoint=dict(save_last=True) and no out_dir'
        )

    def train(self) -> None:
        """Train, going on from the last checkpoint; returns at once if the training is complete.

        Raises:
            RunFailed: if the process fails, or ``work_dir`` holds a run of another config.
        """
        self.claim()
        if not (self.work_dir / 'trained').exists():
            self._call(self.trainer, ['--work-dir', str(self.work_dir), '--resume'], self.options)
            (self.work_dir / 'trained').touch()

    def evaluate(self, split: str = 'test') -> dict[str, float]:
        """Metrics of the last checkpoint on the config's ``test`` or ``val`` split, by ``tools/test.py``.

        They are kept in ``work_dir/metrics-<split>.json``, so that a split is read once; where the evaluator is mmdet's
        ``CocoMetric`` the boxes too, see :meth:`boxes`.

        Raises:
            RunFailed: if the process fails.
        """
        result = self.work_dir / f'metrics-{split}.json'
        content = resolved(self.config, self.options)
        coco = coco_metric(content[f'{split}_evaluator'])
        if not (result.exists() and (coco is None or self._predictions(split).exists())):
            if coco is not None:
                coco['outfile_prefix'] = str(self._predictions(split)).removesuffix('.bbox.json')
            folder = self.work_dir / split
            print(f'{self.work_dir.name} evaluates on {split} …', flush=True)
            self._call('test.py', [str(self.checkpoint), '--work-dir', str(folder)], self._as_test(content, split))
            write_whole(json.dumps(read_metrics(folder)).encode(), result)
        return json.loads(result.read_text())

    def score(self, split: str = 'test') -> Score:
        """What :meth:`evaluate` says.

        Raises:
            RunFailed: if the process fails, or the evaluator gives no metric.
        """
        metrics = self.evaluate(split)
        try:
            return score(metrics, resolved(self.config, self.options)[f'{split}_evaluator'])
        except ValueError as error:
            raise RunFailed(f'{self.config}: {split}_evaluator: {error}') from error

    def boxes(self, split: str = 'test') -> Boxes | None:
        """The boxes that :meth:`evaluate` leaves; None where the evaluator is another than ``CocoMetric``."""
        content = resolved(self.config, self.options)
        coco = coco_metric(content[f'{split}_evaluator'])
        if coco is None:
            return None
        found = self._predictions(split)
        truth = coco.get('ann_file') or str(found).replace('.bbox.json', '.gt.json')
        return Boxes(truth, found, config_classes(content[f'{split}_dataloader'].dataset))

    def _predictions(self, split: str) -> Path:
        return self.work_dir / f'predictions-{split}.bbox.json'

    def seconds_per_iteration(self) -> float | None:
        """Median over the training log's lines of the time of one iteration, data loading included; None without."""
        times = [line['time'] for line in self.scalars() if 'loss' in line and 'time' in line]
        return statistics.median(times) if times else None

    def scalars(self) -> list[dict[str, float]]:
        """The training's logged scalars, over all interruptions."""
        files = sorted(self.work_dir.glob('*/vis_data/scalars.json'))
        return [row for path in files for row in read_scalars(path)]

    def memory(self) -> int | None:
        """The most that tensors of one process took on its GPU, in MiB; None on a CPU."""
        return max((int(line['memory']) for line in self.scalars() if 'memory' in line), default=None)

    def progress(self) -> tuple[int, int] | None:
        """Iterations done and those of the whole training, by its last log; None before the first line."""
        for path in sorted(self.work_dir.glob('*/*.log'), reverse=True):
            lines = [x for x in _PROGRESS.finditer(path.read_text(encoding='utf-8')) if x['what'] == 'train']
            if lines:
                done, total = int(lines[-1]['done']), int(lines[-1]['total'])
                if lines[-1]['epoch'] is None:
                    return done, total
                epochs = resolved(self.config, self.options).train_cfg.max_epochs
                return (int(lines[-1]['epoch']) - 1) * total + done, epochs * total
        return None

    def summary(self) -> list[str]:
        """The last lines of the finished training; none of a training that is no distillation."""
        found = _SUMMARY.findall((self.work_dir / 'train.log').read_text(encoding='utf-8'))
        return [line.strip() for line in found[-1].splitlines()] if found else []

    def claim(self) -> None:
        """Refuse to go on in a folder that was started with another config.

        Raises:
            RunFailed: if it was.
        """
        fingerprint = hashlib.sha256(resolved(self.config, self.options).pretty_text.encode()).hexdigest()
        path = self.work_dir / 'config.sha256'
        if path.exists() and path.read_text() != fingerprint:
            raise RunFailed(
                f'{self.work_dir} holds a run of another version of {self.config}: remove or rename that folder, '
                'or choose another --work-dir'
            )
        write_whole(fingerprint.encode(), path)

    def _as_test(self, content: Config, split: str) -> dict[str, Any]:
        """Options that make ``tools/test.py`` read a split of a config."""
        parts = {'evaluator': content[f'{split}_evaluator']}
        if split == 'val':
            parts |= dict(dataloader=content.val_dataloader, cfg=dict(type='TestLoop'))
        whole = {}
        for name, part in parts.items():
            replaced = isinstance(part, Mapping) and f'test_{name}' in content
            whole[f'test_{name}'] = dict(part, _delete_=True) if replaced else part
        return {**self.options, **whole}

    def _call(self, script: str, arguments: list[str], options: Mapping[str, Any]) -> None:
        config, name = self.config, Path(script).stem
        if options:
            config = write_config(config, options, self.work_dir / 'configs' / name)
        command = [sys.executable, str(TOOLS / script), str(config), *arguments]
        log = self.work_dir / f'{name}.log'
        tenth = None

        def show(line: str) -> None:
            nonlocal tenth
            if match := _PROGRESS.search(line):
                what, epoch, done, total, eta = match.groups()
                if tenth != (tenth := (epoch, 10 * int(done) // int(total))):
                    where = f'epoch {epoch}, ' if epoch else ''
                    print(f'{self.work_dir.name} {what}: {where}{done}/{total}, {eta} left', flush=True)

        code = run_child(command, log, self.environment, show)
        if code:
            tail = ''.join(log.read_text(encoding='utf-8').splitlines(keepends=True)[-12:])
            raise RunFailed(f'{script} of {self.config} ended with exit code {code}; its log is {log}:\n{tail}')


@dataclass(frozen=True)
class Given(Run):
    """Weights that are there already, and are only evaluated.

    Args:
        weights: checkpoint, a path or an address.
    """

    weights: str = ''

    @property
    def checkpoint(self) -> str:
        """The weights."""
        return self.weights

    def train(self) -> None:
        """Only see that the folder is one of these weights.

        Raises:
            RunFailed: if not.
        """
        self.claim()

    def seconds_per_iteration(self) -> None:
        """None: nothing is trained."""


def resolved(config: str | Path, options: Mapping[str, Any]) -> Config:
    """A config with settings on top of it."""
    content = read_config(config)
    content.merge_from_dict(dict(options))
    return content


def write_config(config: str | Path, options: Mapping[str, Any], folder: Path) -> Path:
    """Write a config with settings on top of it, under its own name.

    ``--cfg-options`` takes no path with a blank or a comma in it.
    """
    path = folder / Path(config).name
    write_whole(resolved(config, options).pretty_text.encode(), path)
    return path


def read_scalars(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``scalars.json``; without one that a killed training has left half written."""
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def read_metrics(folder: Path) -> dict[str, float]:
    """The metrics that the last ``test.py`` left in its work dir.

    Raises:
        RunFailed: if there are none.
    """
    written = sorted(folder.glob('*/[0-9]*.json'), key=lambda path: path.stat().st_mtime)
    if not written:
        raise RunFailed(f'{folder}: no metrics were written; accepted: default_hooks.logger=dict(type=LoggerHook)')
    # log_processor.log_with_hierarchy puts the split before each name
    return {
        name.removeprefix('test/'): value for name, value in json.loads(written[-1].read_text(encoding='utf-8')).items()
    }
