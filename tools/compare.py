"""Accuracy of teacher, student and distilled students over seeds, and what distillation gained.

A suite names the config of the teacher and of the student, and the methods: every method is a loss between the two, or
a distillation config of its own. All learn from the same teacher, and a distilled run of a seed starts from the same
initial student with the same data order as the student alone of that seed: the differences are paired. Finished runs
are kept, interrupted ones go on. Where the suite has ``tune``, every method chooses one of the same few values by its
accuracy on the validation split, starting with the middle three and going on to the best one's neighbours; the test
split is read once, for what is reported. Where it has ``pretrain``, the backbone of every student starts from the same
trained weights, as it mostly does in practice, and the rest from the seed's.

Example:
    python tools/compare.py tools/benchmark/suites/bccd.py --jobs 2
    python tools/compare.py tools/benchmark/suites/bccd.py --methods crg pkd --seeds 0 1 --split val
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

import numpy as np
import torch
from mmengine.config import Config, ConfigDict, DictAction
from scipy import stats

from mmkd_graph.engine.measuring import machine, write_report
from mmkd_graph.engine.resampling import resampled_ap
from mmkd_graph.engine.runs import Run, RunFailed, interruptible
from mmkd_graph.packaged import read_config, shipped
from mmkd_graph.visualization.canvas import new_figure

Results = dict[str, dict[str, list[float]]]
"""Per model ``ap``, ``ap50`` (in percent) and ``seconds``, one number per seed in the same order."""


def interval(values: list[float]) -> float:
    """Half width of the 95 % confidence interval of the mean (Student's t); nan for fewer than two values."""
    if len(values) < 2:
        return float('nan')
    return float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def summary(values: list[float], digits: int = 1) -> str:
    """``mean ± half interval`` of some numbers."""
    mean = f'{statistics.mean(values):.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {interval(values):.{digits}f}'


def untried(values: Sequence[float], scores: Mapping[float, float]) -> list[float]:
    """What to try next of values that ascend: first the middle three, then the neighbours of the best one so far.

    Args:
        values: what may be chosen.
        scores: of the values tried so far; the higher the better.

    Returns:
        Values without a score; none where the best one lies between two worse ones or at an end of ``values``.

    Example:
        >>> untried([1, 2, 4, 8, 16], {})
        [2, 4, 8]
        >>> untried([1, 2, 4, 8, 16], {2: 0.3, 4: 0.1, 8: 0.1})
        [1]
    """
    if not scores:
        start = max(0, (len(values) - 3) // 2)
        return list(values[start : start + 3])
    best = values.index(max(scores, key=scores.__getitem__))
    return [value for value in values[max(0, best - 1) : best + 2] if value not in scores]


class SuiteError(ValueError):
    """A suite that says something else than it can; the message names the key."""


@dataclass(frozen=True)
class Suite:
    """What is compared on one data set. Read from a Python file with these names.

    Args:
        teacher: config that trains the teacher.
        student: config of the student alone.
        methods: by name, a loss (``dict(type=…)``) that is put between student and teacher, or the path of a
            distillation config.
        tune: ``dict(key=…, values=[…], seed=…)``: what each loss may choose from, on the validation split, by a seed,
            the first one unless it is given; ``key`` is a path within the loss, such as ``'loss_weight.ratio'``, and
            ``values`` ascend (see :func:`untried`). Losses without the key and configs of their own are not tuned.
        seeds: default seeds.
        distiller: beside student, teacher and losses what each loss is put into, options of ``GraphDistiller`` such as
            ``dict(taps='backbone')``. Configs of their own are left as they are.
        pretrain: config that trains, by the first seed, a detector whose backbone the students' start from; ``None``:
            they start as the student's config says. Configs of their own are left as they are.
    """

    teacher: str
    student: str
    methods: Mapping[str, Any]
    tune: Mapping[str, Any] | None = None
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    distiller: Mapping[str, Any] | None = None
    pretrain: str | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> Suite:
        """Read and check a suite.

        Raises:
            SuiteError: naming the key, what was given and what is accepted.
        """

        def need(fulfilled: object, otherwise: str) -> None:
            if not fulfilled:
                raise SuiteError(f'{path}: {otherwise}')

        path = shipped(path)
        need(Path(path).is_file(), 'no such suite')
        content = Config.fromfile(path).to_dict()
        names = {one.name for one in fields(cls)}
        unknown, missing = sorted(content.keys() - names), sorted({'teacher', 'student', 'methods'} - content.keys())
        need(not unknown, f'{", ".join(unknown)}; accepted: {", ".join(sorted(names))}')
        need(not missing, f'it lacks {", ".join(missing)}')
        for key in {'teacher', 'student', 'pretrain'} & content.keys():
            given = content[key] = shipped(content[key]) if content[key] else None
            need(given is None or Path(given).is_file(), f'{key}={given!r}: no such config')
            need(key not in content['methods'], f'methods.{key}; accepted: any other name')
        for name, method in content['methods'].items():
            method = content['methods'][name] = shipped(method) if isinstance(method, str) else method
            fits = Path(method).is_file() if isinstance(method, str) else isinstance(method, dict) and 'type' in method
            need(fits, f'methods.{name}={method!r}; accepted: dict(type=…), or the path of a config')
        taken = {'type', 'student', 'teacher', 'losses'} & set(content.get('distiller') or {})
        need(not taken, f'distiller.{min(taken, default="")}; accepted: other options of GraphDistiller')
        suite = cls(**content)
        if (tune := suite.tune) is not None:
            need(
                {'key', 'values'} <= tune.keys() <= {'key', 'values', 'seed'}
                and len(tune['values']) > 1
                and list(tune['values']) == sorted(set(tune['values']))
                and isinstance(tune.get('seed', 0), int),
                f'tune={tune}; accepted: dict(key=…, values=[…]) with at least two values that ascend, and '
                'seed=<integer>',
            )
            tuned = any(map(suite.tunes, suite.methods))
            need(tuned, f'tune.key={tune["key"]!r}; accepted: a key that one of the methods has')
        return suite

    def tunes(self, name: str) -> bool:
        """Whether a method is a loss with the key that is tuned."""
        value = self.methods[name]
        for part in self.tune['key'].split('.'):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value is not None

    def pretrained(self, checkpoint: Path) -> str:
        """The text of the student's config with a backbone that starts from a checkpoint."""
        config = read_config(self.student)
        config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
        return config.pretty_text

    def config(self, name: str, checkpoint: Path, value: Any = None) -> str:
        """The text of the config that trains a method.

        Args:
            name: of the method.
            checkpoint: of the teacher.
            value: of what is tuned, if it is.
        """
        method = self.methods[name]
        if isinstance(method, str):
            return f'_base_ = {os.path.abspath(method)!r}\nmodel = dict(teacher=dict(checkpoint={str(checkpoint)!r}))\n'
        loss = ConfigDict(copy.deepcopy(method))
        if value is not None:
            loss = Config(dict(loss=loss))
            loss.merge_from_dict({f'loss.{self.tune["key"]}': value})
            loss = loss.loss
        return (
            f'_base_ = {os.path.abspath(self.student)!r}\n'
            "model = dict(_delete_=True, type='mmkd_graph.GraphDistiller', student={{_base_.model}},\n"
            f'    teacher=dict(config={self.teacher!r}, checkpoint={str(checkpoint)!r}),\n'
            f'    losses={ {name: loss.to_dict()}!r}, **{dict(self.distiller or {})!r})\n'
        )


def table(results: Results, by_images: Mapping[str, tuple[float, float]]) -> str:
    """Markdown rows of AP, AP50, paired gain, share of the gap closed and time.

    The models ``teacher`` and ``student`` are what the others are measured against.

    Args:
        results: of all models.
        by_images: per method the ends of the gain's interval over the images.
    """
    lines = [
        '| model | AP | AP50 | gain | by images | gap closed | time | AP of each seed |',
        '|---|---:|---:|---:|---:|---:|---:|---|',
    ]
    student, teacher = results['student'], results['teacher']
    gap = statistics.mean(teacher['ap']) - statistics.mean(student['ap'])
    pace = statistics.median(student['seconds'])
    for name, result in results.items():
        gain = images = share = ''
        if name not in ('student', 'teacher'):
            gains = [a - b for a, b in zip(result['ap'], student['ap'], strict=True)]
            mean = statistics.mean(gains)  # + 0.0: no "-0"
            gain = f'{round(mean, 1) + 0.0:+.1f}' + ('' if len(gains) < 2 else f' ± {interval(gains):.1f}')
            images = '{:+.1f} to {:+.1f}'.format(*by_images[name])
            share = f'{round(100 * mean / gap)} %' if gap > 0 else 'no gap'
        lines.append(
            f'| {name} | {summary(result["ap"])} | {summary(result["ap50"])} | {gain} | {images} | {share} | '
            f'{statistics.median(result["seconds"]) / pace:.2f} | {", ".join(f"{x:.1f}" for x in result["ap"])} |'
        )
    return '\n'.join(lines)


def draw(results: Results, title: str, path: Path) -> None:
    """AP of every seed, means and intervals, between the lines of student and teacher."""
    figure = new_figure(7, 1.2 + 0.45 * len(results))
    axes = figure.subplots()
    for row, (name, result) in enumerate(results.items()):
        mean = statistics.mean(result['ap'])
        bar = interval(result['ap']) if len(result['ap']) > 1 else None
        axes.errorbar(mean, row, xerr=bar, fmt='o', color='black', capsize=4, zorder=3)
        axes.scatter(result['ap'], [row] * len(result['ap']), color='#4477aa', alpha=0.6, s=18)
        if name in ('student', 'teacher'):
            axes.axvline(mean, color='#cc6677' if name == 'student' else '#228833', linewidth=1, label=f'{name}, mean')
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel('AP; points are seeds, bars the 95 % interval of their mean')
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    figure.savefig(path)


@dataclass
class Comparison:
    """The runs of a suite, as the command line asks for them.

    Attributes:
        scores: of methods that are tuned, AP on the validation split of every value tried.
        by_images: per method the ends of the 95 % interval over the images of its gain, the mean over the seeds.
    """

    suite: Suite
    args: argparse.Namespace
    scores: dict[str, dict[Any, float]] = field(default_factory=dict)
    by_images: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def tuning_seed(self) -> int:
        return self.suite.tune.get('seed', self.args.seeds[0])

    @functools.cached_property
    def teacher(self) -> Run:
        return self.run('teacher', self.suite.teacher, self.args.seeds[0])

    def results(self) -> Results:
        """Train and evaluate everything."""
        args = self.args
        found = self.finish({('teacher', args.seeds[0]): self.teacher}, args.split)
        if self.suite.pretrain is not None:
            before = self.run('pretrain', self.suite.pretrain, args.seeds[0])
            before.train()
            student = self.write('student', self.suite.pretrained(before.checkpoint))
            self.suite = replace(self.suite, student=student)
        if self.suite.tune:
            self.tune()
        runs = {}
        for seed in args.seeds:
            runs['student', seed] = self.run('student', self.suite.student, seed)
            runs |= {(name, seed): self.learner(name, self.chosen(name), seed) for name in args.methods}
        found |= self.finish(runs, args.split)
        self.resample(runs)
        results: Results = {}
        for name in ('teacher', 'student', *args.methods):
            rows = [found[name, seed] for seed in (args.seeds[:1] if name == 'teacher' else args.seeds)]
            results[name] = {key: [row[key] for row in rows] for key in rows[0]}
        return results

    def resample(self, runs: Mapping[tuple[str, int], Run]) -> None:
        """Find ``by_images``: the seeds stay, and the images are drawn again."""
        args = self.args
        names = ['student', *args.methods]
        files = [runs[name, seed].predictions(args.split) for name in names for seed in args.seeds]
        drawn = 100 * resampled_ap(runs['student', args.seeds[0]].ann_file(args.split), files)
        means = drawn.reshape(len(names), len(args.seeds), -1).mean(axis=1)
        for name, gains in zip(args.methods, means[1:] - means[0], strict=True):
            self.by_images[name] = tuple(np.nanpercentile(gains, (2.5, 97.5)))

    def tune(self) -> None:
        """Score the values of every method that is tuned, until :func:`untried` has none left."""
        self.scores = {name: {} for name in self.args.methods if self.suite.tunes(name)}
        while trials := {
            (name, value): self.learner(name, value, self.tuning_seed)
            for name, scores in self.scores.items()
            for value in untried(self.suite.tune['values'], scores)
        }:
            for (name, value), result in self.finish(trials, 'val').items():
                self.scores[name][value] = result['ap']
        for name in self.scores:
            print(f'{name}: {self.suite.tune["key"]}={self.chosen(name)} on val', flush=True)

    def chosen(self, name: str) -> Any:
        """The best value of a method that is tuned, otherwise ``None``."""
        scores = self.scores.get(name)
        return scores and max(scores, key=scores.__getitem__)

    def learner(self, name: str, value: Any, seed: int) -> Run:
        """The run of a method."""
        label = name if value is None else f'{name}-{value}'
        config = self.write(label, self.suite.config(name, self.teacher.checkpoint, value))
        return self.run(label, config, seed)

    def run(self, label: str, config: str, seed: int) -> Run:
        # The splits are read by the evaluation alone.
        options = {'randomness.seed': seed, 'train_cfg.val_interval': 10**9, **self.args.cfg_options}
        environment = {'OMP_NUM_THREADS': str(self.args.threads), 'MKL_NUM_THREADS': str(self.args.threads)}
        trainer = 'train.py'
        if self.args.keep_teacher:
            trainer = 'benchmark/train_with_kept_teacher.py'
            environment['MMKD_KEPT_TEACHER'] = str(self.args.work_dir / 'kept-teacher')
        return Run(config, self.args.work_dir / f'{label}-{seed}', options, environment, trainer)

    def write(self, label: str, text: str) -> str:
        path = self.args.work_dir / 'configs' / f'{label}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def finish(self, runs: Mapping[Any, Run], split: str) -> dict[Any, dict[str, float]]:
        """Train and evaluate some runs, ``--jobs`` of them at a time."""

        def one(run: Run) -> dict[str, float]:
            run.train()
            metrics = run.evaluate(split)
            ap, ap50 = 100 * metrics['coco/bbox_mAP'], 100 * metrics['coco/bbox_mAP_50']
            return dict(ap=ap, ap50=ap50, seconds=run.seconds_per_iteration())

        with ThreadPoolExecutor(self.args.jobs) as pool:
            futures = {key: pool.submit(one, run) for key, run in runs.items()}
        return {key: future.result() for key, future in futures.items()}

    def report(self, results: Results, where: str) -> str:
        """The table, and how its numbers were made."""
        args, alone = self.args, results['student']['ap']
        deviation = f'{statistics.stdev(alone):.2f} AP' if len(alone) > 1 else 'not known'
        note = "The students' backbones start from the same trained weights. " if self.suite.pretrain else ''
        if args.keep_teacher:
            note += "The teacher's features were kept, and the times are without it. "
        text = (
            f'{table(results, self.by_images)}\n\nSplit: {args.split}. Seeds: {", ".join(map(str, args.seeds))}; one '
            'teacher. Gains and times are to the student alone; gains are paired by seed. ± is the 95 % interval of '
            'the mean over seeds, "by images" that of the mean gain over images drawn again (bootstrap). The standard '
            f'deviation of the student alone between seeds is {deviation}. {note}{args.jobs} processes at a time on '
            f'{where}.\n'
        )
        if self.scores:
            choices = []
            for name, scores in self.scores.items():
                tried = ', '.join(f'{value}: {ap:.1f}' for value, ap in sorted(scores.items()))
                choices.append(f'{name} {self.chosen(name)} ({tried})')
            text += (
                f'\n`{self.suite.tune["key"]}` was chosen on val by seed {self.tuning_seed}: {"; ".join(choices)}.\n'
            )
        return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('suite', type=Path, help='what is compared: a file as those in tools/benchmark/suites')
    parser.add_argument('--methods', nargs='+', metavar='NAME', help="of the suite's; default: all")
    parser.add_argument('--seeds', nargs='+', type=int, help="default: the suite's")
    parser.add_argument('--split', choices=('val', 'test'), default='test', help='what the table reports')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time, each on its share of the cores')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare/<suite>')
    parser.add_argument(
        '--keep-teacher',
        action='store_true',
        help="keep the teacher's features of every image in the work dir, so that it runs once for all; they need "
        'disk space, and the times are then without the teacher',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='for all runs, as in train.py')
    args = parser.parse_args(argv)
    try:
        args.content = Suite.from_file(args.suite)
    except SuiteError as error:
        parser.error(str(error))
    args.methods = args.methods or list(args.content.methods)
    if unknown := [name for name in args.methods if name not in args.content.methods]:
        parser.error(f'--methods {" ".join(unknown)}; accepted: {", ".join(args.content.methods)}')
    args.seeds = args.seeds or list(args.content.seeds)
    args.work_dir = args.work_dir or Path('work_dirs/compare') / args.suite.stem
    args.threads = max(1, (os.cpu_count() or 1) // args.jobs)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    comparison = Comparison(args.content, args)
    try:
        results = comparison.results()
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    where = machine(torch.device('cuda' if torch.cuda.is_available() else 'cpu'), args.threads)
    stem = args.work_dir / f'results-{args.split}'
    content = dict(results=results, by_images=comparison.by_images, tried=comparison.scores)
    content |= dict(seeds=args.seeds, split=args.split, machine=where)
    write_report(stem, comparison.report(results, where), content)
    draw(results, f'{args.suite.stem}, {args.split} split, {where}', stem.with_suffix('.png'))
    return 0


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
