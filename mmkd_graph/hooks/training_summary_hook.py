"""The last lines of a training: what came out of it, where it is, and what to do with it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmdet
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmkd_graph.checking.accuracy import average_precision
from mmkd_graph.checkpoints import is_address
from mmkd_graph.packaged import command
from mmkd_graph.registry import HOOKS, type_name

from .student_export_hook import StudentExportHook
from .validations import Validation, read_validations

TITLE, PLAIN_TITLE = 'The distilled student:', 'The trained detector:'
_CHANGES = ('--cfg-options', '--amp', '--auto-scale-lr')
"""Options that make another config of the one that is named beside them."""
_SEEDS = ('0', '1', '2')


@HOOKS.register_module()
class TrainingSummaryHook(Hook):
    """Log, when a training is over, its metric, its files, and the commands that test them.

    After a distillation also those that score the teacher and compare the student with the student alone.

    The metric is that of ``save_best``, or else the average precision, or the evaluator's first. Best and last value
    are those of the whole training, over all interruptions (``validated.json``, see ``DueValidationHook``). Without
    validations nothing is said of metrics. ``tools/train.py`` adds this hook to every training.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.TrainingSummaryHook')]
    """

    # after all others, what they leave behind too
    priority = 'LOWEST'

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Log it; see the class."""
        runner.logger.info('\n  '.join([TITLE if _distills(runner) else PLAIN_TITLE, *summary(runner)]))


def summary(runner: Runner) -> list[str]:
    """The lines."""
    config = _config(runner)
    lines, best = _metrics(runner)
    if lines and _distills(runner):
        check = _tool('check.py', config)
        lines.append(f'AP of the teacher, which a training does not measure: {check}')
    info = runner.message_hub.runtime_info
    last = _there(runner, info.get('last_ckpt'))
    if not (best or last):
        return [*lines, 'no checkpoint was saved']
    saved = {path: name for path, name in ((last, 'last'), (best, 'best')) if path}
    lines.append('checkpoint: ' + ', '.join(f'{_shown(path)} ({name})' for path, name in saved.items()))
    tested, plain = best or last, None
    if export := next((hook for hook in runner.hooks if isinstance(hook, StudentExportHook)), None):
        weights = Path(runner.work_dir, export.filename)
        plain = weights.with_suffix('.py')
        lines.append(f'plain student for mmdet, the last weights: {_shown(weights)} with {_shown(plain)}')
    lines.append(f'test: {_tool("test.py", config, tested)}')
    exported = plain is not None and tested == last
    # a config of the user's may have a base that only this package finds
    if theirs := _mmdet_test(plain or _copy(runner), weights if exported else tested):
        # mmengine of 2025 and before reads a training checkpoint with newer versions of torch only so
        trust = '' if exported else 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 '
        lines.append(f"test with mmdet's own tool: {trust}{theirs}")
    if _distills(runner):
        cost = f'trains both students once for each seed, {2 * len(_SEEDS)} trainings'
        lines.append(f'gain over the student alone ({cost}): {_tool("compare.py", config)} --seeds {" ".join(_SEEDS)}')
    return lines


def _distills(runner: Runner) -> bool:
    model = runner.cfg.get('model')  # built or not
    return type_name(model.get('type') if isinstance(model, Mapping) else type(model)) == 'GraphDistiller'


def _metrics(runner: Runner) -> tuple[list[str], str | None]:
    """A line for every metric that counts, and the best checkpoint by the first of them, if one was kept."""
    validations = read_validations(runner.work_dir)
    names = next((list(one.metrics) for one in validations if one.metrics), [])
    if not names:
        empty = 'the validations gave no metric; mmdet gives none where not a single object was detected'
        return [empty] if validations else [], None
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    info = runner.message_hub.runtime_info
    lines: list[str] = []
    checkpoints: list[str | None] = []
    rules = _rules(runner, names)
    for name, is_better in rules.items():
        several = f'_{name}' if len(rules) > 1 else ''
        kept = info.get(f'best_score{several}')
        lines.append(_metric(name, is_better, validations, kept, by_epoch))
        checkpoints.append(_there(runner, info.get(f'best_ckpt{several}')))
    return lines, checkpoints[0]


def _metric(name: str, is_better: Callable | None, validations: Sequence[Validation], kept: Any, by_epoch: bool) -> str:
    """Best and last value of a metric, and when; ``kept`` is the best one that mmengine's hook knows of, or None."""

    def said(one: Validation) -> str:
        return f'{one.metrics[name]:.4f} at {f"epoch {one.epoch}" if by_epoch else f"iteration {one.iter}"}'

    found = [one for one in validations if name in one.metrics]
    last = validations[-1]
    parts = [f'last {said(last)}' if found and found[-1] is last else 'none in the last validation']
    if is_better is not None:
        best = found[0] if found else None
        for one in found:
            best = one if is_better(one.metrics[name], best.metrics[name]) else best
        # of a time when validations were noted without their metrics
        if kept is not None and (best is None or is_better(float(kept), best.metrics[name])):
            parts.insert(0, f'best {float(kept):.4f}')
        elif best is not None:
            parts.insert(0, f'best {said(best)}')
    return f'{name}: {", ".join(parts)}'


def _rules(runner: Runner, names: Sequence[str]) -> Mapping[str, Callable | None]:
    """By metric, whether one value is better than another, as mmengine decides it; None where it does not know."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.save_best), None)
    if hook is None:
        name, rule = average_precision(names) or names[0], None
    elif 'auto' not in hook.key_indicators:
        return {key: hook.is_better_than[key] for key in hook.key_indicators}
    else:  # it has not seen a validation since it was resumed
        name, rule = names[0], hook.rules[0]
    try:
        return CheckpointHook(save_best=name, rule=rule).is_better_than
    except ValueError:  # neither "acc" nor "loss", nor any other word that it knows
        return {name: None}


def _there(runner: Runner, path: Any) -> str | None:
    """A checkpoint where it is now: the work dir may have been moved since it was written."""
    if not path or is_address(str(path)) or os.path.exists(path):
        return str(path) if path else None
    moved = Path(runner.work_dir, Path(path).name)
    return str(moved) if moved.exists() else None


def _config(runner: Runner) -> str:
    """The config to be named in commands: the one of this program's command line, if nothing there changes it."""
    given = runner.cfg.filename
    changed = any(word.split('=')[0] in _CHANGES for word in sys.argv)
    if given and not changed and os.path.abspath(given) in map(os.path.abspath, sys.argv[1:]):
        return given
    return _copy(runner)


def _copy(runner: Runner) -> str:
    """The whole config, as mmengine writes it into the work dir."""
    given = runner.cfg.filename
    return os.path.join(runner.work_dir, os.path.basename(given) if given else f'{runner.timestamp}.py')


def _tool(name: str, *arguments: str) -> str:
    """The command of a tool of this package, as it is given from here."""
    return command(name, *map(_shown, arguments))


def _mmdet_test(*arguments: str | Path) -> str | None:
    """The command of mmdet's own test, in its wheel or its checkout; None where it is in neither."""
    package = Path(mmdet.__file__).resolve().parent
    paths = (package / '.mim' / 'tools' / 'test.py', package.parent / 'tools' / 'test.py')
    path = next((path for path in paths if path.is_file()), None)
    return shlex.join(['python', _shown(path), *map(_shown, arguments)]) if path else None


def _shown(path: str | Path) -> str:
    """A path as it is given from here."""
    if is_address(str(path)):
        return str(path)
    path = os.path.abspath(path)
    here = os.path.relpath(path)
    return path if here.startswith('..') else here
