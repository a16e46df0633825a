"""Accuracy of teacher, student and distilled students over seeds, and what distillation gained.

Every distilled run of a seed learns from that seed's teacher (or all from one), and starts from the same initial
student with the same data order as the student alone of that seed: the differences are paired. Finished runs are kept,
interrupted ones go on. Settings are chosen on the validation split: by hand with ``--split val``, or with ``--tune``,
which gives every method the same few values to choose from; ``--split test`` is for what is reported.

Example:
    python tools/benchmark/accuracy.py --teacher configs/bccd/retinanet_r18-w64_fpn-64_1k_bccd.py \
        --student configs/bccd/retinanet_r18-w16_fpn-64_1k_bccd.py \
        --distilled crg=configs/crg/retinanet_r18-w16_fpn-64_crg-w64_1k_bccd.py \
        --tune 'model.losses.{loss}.loss_weight=1,4,10' \\
        --seeds 0 1 2 --jobs 2 --work-dir work_dirs/accuracy/bccd
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiment import Progress, Run, RunFailed


def interval(values: list[float]) -> float:
    """Half width of the 95 % confidence interval of the mean (Student's t); nan for fewer than two values."""
    if len(values) < 2:
        return float('nan')
    return float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def summary(values: list[float], digits: int = 1) -> str:
    """``mean ± half interval`` of some numbers."""
    mean = f'{statistics.mean(values):.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {interval(values):.{digits}f}'


@dataclass(frozen=True)
class Tuning:
    """One setting and the values that every method may choose from.

    Args:
        key: config key; ``{loss}`` stands for the name of the method's loss in its config.
        values: as they stand in ``--cfg-options``.
    """

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Tuning:
        """Read ``KEY=VALUE,VALUE``.

        Raises:
            argparse.ArgumentTypeError: if there are not at least two values.
        """
        key, _, values = text.partition('=')
        found = tuple(value for value in values.split(',') if value)
        if not key or len(found) < 2:
            raise argparse.ArgumentTypeError(f'{text!r}; accepted: KEY=VALUE,VALUE,… with at least two values')
        return cls(key, found)

    def options(self, config: str, value: str) -> dict[str, Any]:
        """Options that give the method of ``config`` this value."""
        losses = Config.fromfile(config).model.losses
        if '{loss}' in self.key and len(losses) != 1:
            raise ValueError(f'--tune {self.key}: {config} has the losses {", ".join(losses)}; accepted: one')
        return {self.key.format(loss=next(iter(losses))): ast.literal_eval(value)}


def table(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Markdown rows of AP, AP50, paired gain, share of the gap closed and time.

    Args:
        results: per model ``ap``, ``ap50`` (in percent) and ``seconds``, one number per seed in the same order; the
            models ``teacher`` and ``student`` are what the others are measured against.
    """
    lines = [
        '| model | AP | AP50 | gain over student alone | gap closed | time to the student alone | AP of each seed |',
        '|---|---:|---:|---:|---:|---:|---|',
    ]
    student, teacher = results['student'], results['teacher']
    gap = statistics.mean(teacher['ap']) - statistics.mean(student['ap'])
    pace = statistics.median(student['seconds'])
    for name, result in results.items():
        gain = share = ''
        if name not in ('student', 'teacher'):
            gains = [a - b for a, b in zip(result['ap'], student['ap'], strict=True)]
            gain = f'{statistics.mean(gains):+.1f}' + ('' if len(gains) < 2 else f' ± {interval(gains):.1f}')
            share = f'{100 * statistics.mean(gains) / gap:.0f} %' if gap > 0 else 'no gap'
        lines.append(
            f'| {name} | {summary(result["ap"])} | {summary(result["ap50"])} | {gain} | {share} | '
            f'{statistics.median(result["seconds"]) / pace:.2f} | {", ".join(f"{x:.1f}" for x in result["ap"])} |'
        )
    return '\n'.join(lines)


def draw(results: Mapping[str, Mapping[str, list[float]]], title: str, path: Path) -> None:
    """AP of every seed, means and intervals, between the lines of student and teacher."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.45 * len(results)), layout='constrained')
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
    figure.savefig(path, dpi=120)
    plt.close(figure)


def machine() -> str:
    """What the numbers were made on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{os.cpu_count()} CPU cores'
    return f'{device}, torch {torch.__version__}, Python {platform.python_version()}'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--teacher', required=True, help='config that trains the teacher')
    parser.add_argument('--student', required=True, help='config of the student alone')
    parser.add_argument(
        '--distilled', nargs='+', required=True, metavar='NAME=CONFIG', help='distilled students; NAME is its row'
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--one-teacher', action='store_true', help="all seeds learn from the first seed's teacher")
    parser.add_argument('--split', choices=('val', 'test'), default='test', help='what the table reports')
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time, each on its share of the cores')
    parser.add_argument('--work-dir', type=Path, required=True, help='one folder per run; the table as results.*')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='for all runs, as in train.py')
    parser.add_argument(
        '--distilled-options', nargs='+', action=DictAction, default={}, help='for the distilled runs alone'
    )
    parser.add_argument(
        '--tune', type=Tuning.parse, metavar='KEY=V,V', help='choose on val, by the first seed, for each method'
    )
    args = parser.parse_args(argv)
    for entry in args.distilled:
        name, equals, config = entry.partition('=')
        if not equals or not name or name in ('teacher', 'student'):
            parser.error(f'--distilled {entry!r}; accepted: NAME=CONFIG, NAME other than teacher and student')
        if not Path(config).is_file():
            parser.error(f'--distilled {entry!r}: no such config')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    environment = {'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads}
    distilled = dict(entry.partition('=')[::2] for entry in args.distilled)

    def run(name: str, config: str, seed: int, **more: Any) -> Run:
        options = {'randomness.seed': seed, **args.cfg_options, **more}
        return Run(config, args.work_dir / f'{name}-{seed}', options, environment)

    def finish(one: Run, split: str) -> dict[str, float]:
        shown = -1

        def report(progress: Progress) -> None:
            nonlocal shown
            tenth = 10 * progress.done // progress.total
            if tenth != shown:
                shown = tenth
                print(f'{one.work_dir.name}: {progress.done}/{progress.total}, {progress.eta} left', flush=True)

        one.train(report)
        metrics = one.evaluate(report, split)
        return dict(
            ap=100 * metrics['coco/bbox_mAP'],
            ap50=100 * metrics['coco/bbox_mAP_50'],
            seconds=one.seconds_per_iteration(),
        )

    def together(runs: Mapping[Any, Run], split: str) -> dict[Any, dict[str, float]]:
        with ThreadPoolExecutor(args.jobs) as pool:
            futures = {key: pool.submit(finish, one, split) for key, one in runs.items()}
            return {key: future.result() for key, future in futures.items()}

    try:
        taught = args.seeds[:1] if args.one_teacher else args.seeds
        teachers = {seed: run('teacher', args.teacher, seed) for seed in taught}
        found = together({('teacher', seed): one for seed, one in teachers.items()}, args.split)

        def learn(name: str, config: str, seed: int, **more: Any) -> Run:
            teacher = teachers.get(seed, teachers[taught[0]])
            checkpoint = {'model.teacher.checkpoint': str(teacher.checkpoint)}
            return run(name, config, seed, **checkpoint, **args.distilled_options, **more)

        labels = {name: name for name in distilled}
        chosen: dict[str, dict[str, Any]] = {name: {} for name in distilled}
        tried: dict[str, dict[str, float]] = {}
        if args.tune:
            trials = {
                (name, value): learn(f'{name}-{value}', config, args.seeds[0], **args.tune.options(config, value))
                for name, config in distilled.items()
                for value in args.tune.values
            }
            scores = together(trials, 'val')
            for name, config in distilled.items():
                tried[name] = {value: scores[name, value]['ap'] for value in args.tune.values}
                best = max(tried[name], key=tried[name].__getitem__)
                labels[name], chosen[name] = f'{name}-{best}', args.tune.options(config, best)
                print(f'{name}: {chosen[name]} of {tried[name]} on val', flush=True)
        runs = {('student', seed): run('student', args.student, seed) for seed in args.seeds}
        for name, config in distilled.items():
            runs |= {(name, seed): learn(labels[name], config, seed, **chosen[name]) for seed in args.seeds}
        found |= together(runs, args.split)
    except (RunFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1

    results: dict[str, dict[str, list[float]]] = {}
    for name in ('teacher', 'student', *distilled):
        rows = [found[name, seed] for seed in (taught if name == 'teacher' else args.seeds)]
        results[name] = {key: [row[key] for row in rows] for key in rows[0]}
    alone = results['student']['ap']
    deviation = f'{statistics.stdev(alone):.2f} AP' if len(alone) > 1 else 'not known'
    text = (
        f'{table(results)}\n\nSplit: {args.split}. Seeds: {", ".join(map(str, args.seeds))}. ± is the 95 % interval of '
        f'the mean over seeds; gains are paired by seed; the standard deviation of the student alone between seeds is '
        f'{deviation}. {args.jobs} processes at a time on {machine()}.\n'
    )
    for name, scores in tried.items():
        listed = ', '.join(f'{value}: {ap:.1f}' for value, ap in scores.items())
        text += f'\n{name}: {args.tune.key} chosen on val by seed {args.seeds[0]} ({listed}).\n'
    print(f'\n{text}')
    args.work_dir.mkdir(parents=True, exist_ok=True)
    stem = args.work_dir / f'results-{args.split}-{"-".join(distilled)}'
    stem.with_suffix('.md').write_text(text)
    stem.with_suffix('.json').write_text(
        json.dumps(dict(results=results, seeds=args.seeds, split=args.split, tried=tried, machine=machine()), indent=1)
    )
    draw(results, f'{args.split} split, {machine()}', stem.with_suffix('.png'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
