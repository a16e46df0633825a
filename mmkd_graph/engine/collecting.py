"""The table of suites whose runs were jobs: what was measured, and beside it what others report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .gains import signed, summary
from .runs import Run, read_metrics, resolved
from .scores import Score, score
from .slurm import is_finished
from .suites import Suite

KIT = tuple(
    f'tools/benchmark/suites/{name}.py' for name in ('retinanet_r101_coco', 'gfl_r101_coco', 'faster_rcnn_r101_voc0712')
)
"""The suites of docs/coco_kit.md."""
_HEAD = (
    '| model | AP | AP50 | gain | reported | s / iteration | MiB | GPU-hours | iterations | AP of each seed |\n'
    '|---|---:|---:|---:|---|---:|---:|---:|---|---|'
)
_GPU = re.compile(r'^ +GPU [\d,]+: (.+)$', re.MULTILINE)
_PROCESSES = re.compile(r'^ +GPU number: (\d+)$', re.MULTILINE)


@dataclass(frozen=True)
class Trained:
    """One model by one seed, as its folder says.

    Attributes:
        state: where it is, in words.
        score: on the test split; None before it is finished.
        seconds: of an iteration, the median; None before the first line of the log and for weights that were given.
        memory: MiB of a GPU; None on a CPU.
        hours: processes times hours of all iterations; None as for ``seconds``, and on a CPU.
        where: processes and GPU; empty as for ``seconds``.
    """

    state: str
    score: Score | None = None
    seconds: float | None = None
    memory: int | None = None
    hours: float | None = None
    where: str = ''


def read_run(work_dir: Path) -> Trained:
    """What the folder of a job's run says.

    Raises:
        RunFailed: if it is finished and has no metrics.
        ValueError: if it is finished and its evaluator gives no metric.
    """
    config = next(work_dir.glob('configs/train/*.py'), None)
    if config is None:
        return Trained('not submitted')
    run = Run(str(config), work_dir)
    finished = is_finished(work_dir)
    found = score(read_metrics(work_dir / 'test'), resolved(config, {}).test_evaluator) if finished else None
    progress = run.progress()
    if progress is None:  # nothing was trained, or not yet
        return Trained('tested' if finished else 'not begun', found)
    done, total = progress
    state = str(total) if finished else f'{total}, not tested'
    if not (work_dir / 'trained').exists():
        state = f'at {done} of {total}'
    logs = ''.join(path.read_text(encoding='utf-8') for path in sorted(work_dir.glob('*/*.log')))
    processes = int((_PROCESSES.findall(logs) or [1])[-1])
    gpu = (_GPU.findall(logs) or ['CPU'])[-1]
    seconds, memory = run.seconds_per_iteration(), run.memory()
    hours = None if memory is None or seconds is None else seconds * total * processes / 3600
    return Trained(state, found, seconds, memory, hours, f'{processes} × {gpu}')


def read_suite(suite: Suite, folder: Path) -> dict[str, dict[int, Trained]]:
    """What the folder of a suite says of teacher, student and each method, by seed."""
    runs: dict[str, dict[int, Trained]] = {}
    for label in ('teacher', 'student', *suite.methods):
        seeds = sorted(int(path.name.rpartition('-')[2]) for path in folder.glob(f'{label}-[0-9]*'))
        runs[label] = {seed: read_run(folder / f'{label}-{seed}') for seed in seeds}
    return runs


def report(name: str, suite: Suite, runs: dict[str, dict[int, Trained]]) -> str:
    """The table of a suite in Markdown, and what has to be known of its numbers."""
    sources: list[str] = []
    lines = [f'### {name}', '', _HEAD]
    alone = _scores(runs['student'])
    for label, seeds in runs.items():
        scores = _scores(seeds)
        values = [one.value for one in scores.values()]
        at_50 = [one.at_50 for one in scores.values()]
        pairs = [scores[seed].value - alone[seed].value for seed in scores if seed in alone]
        gain = signed(pairs) if pairs and label not in ('teacher', 'student') else ''
        cells = [
            *(summary(values) if values else '', summary(at_50) if values else '', gain),
            _reported((suite.reported or {}).get(label, ()), sources),
            *(_largest(seeds, key, digits) for key, digits in (('seconds', 3), ('memory', 0), ('hours', 1))),
            _states(seeds),
            ', '.join(f'{value:.1f}' for value in values),
        ]
        lines.append(f'| {label} | {" | ".join(cells)} |')
    lines += ['', *(f'[{i}] {source}  ' for i, source in enumerate(sources, start=1)), '']
    everything = [one for seeds in runs.values() for one in seeds.values()]
    metrics = dict.fromkeys(f'`{one.score.metric}`' for one in everything if one.score)
    notes = [f'AP is 100 × {" and ".join(metrics)}.'] if metrics else []
    notes += [f'{label} detects nothing at all.' for label, some in runs.items() if any(map(_is_empty, some.values()))]
    notes += ['Gains are over the student alone, paired by seed; ± is the 95 % interval of a mean over seeds.']
    if places := dict.fromkeys(one.where for one in everything if one.where):
        notes += [f'Trained on {", ".join(places)}.']
    return '\n'.join((*lines, ' '.join(notes), ''))


def as_json(runs: dict[str, dict[int, Trained]]) -> dict[str, dict[int, dict[str, Any]]]:
    """The numbers behind a table."""
    return {label: {seed: asdict(one) for seed, one in seeds.items()} for label, seeds in runs.items()}


def _scores(seeds: dict[int, Trained]) -> dict[int, Score]:
    return {seed: one.score for seed, one in seeds.items() if one.score is not None}


def _is_empty(one: Trained) -> bool:
    return one.score is not None and one.score.empty


def _largest(seeds: dict[int, Trained], key: str, digits: int) -> str:
    values = [value for one in seeds.values() if (value := getattr(one, key)) is not None]
    return f'{max(values):.{digits}f}' if values else ''


def _states(seeds: dict[int, Trained]) -> str:
    """Where the seeds are; one word where all are at the same."""
    states = {seed: one.state for seed, one in seeds.items()} or {0: 'not submitted'}
    if len({*states.values()}) == 1:
        return next(iter(states.values()))
    return '; '.join(f'seed {seed}: {state}' for seed, state in states.items())


def _reported(values: Sequence[Any], sources: list[str]) -> str:
    """What others report, with the number of its source, which is put into ``sources``."""
    cells = []
    for value in values:
        if value['source'] not in sources:
            sources.append(value['source'])
        cells.append(f'{value["ap"]:.1f} ({value["setting"]}) [{sources.index(value["source"]) + 1}]')
    return ', '.join(cells)
