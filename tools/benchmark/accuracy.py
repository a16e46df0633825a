"""Accuracy of teacher, student and distilled students over seeds, and what distillation gained.

Every distilled run of a seed learns from that seed's teacher (or all from one), and starts from the same initial
student with the same data order as the student alone of that seed: the differences are paired. Finished runs are kept,
interrupted ones go on. Settings are chosen with ``--split val``; ``--split test`` is for what is reported.

Example:
    python tools/benchmark/accuracy.py --teacher configs/bccd/retinanet_r18-w64_fpn-64_1k_bccd.py \
        --student configs/bccd/retinanet_r18-w16_fpn-64_1k_bccd.py \
        --distilled crg=configs/crg/retinanet_r18-w16_fpn-64_crg-w64_1k_bccd.py \
        --seeds 0 1 2 --jobs 2 --work-dir work_dirs/accuracy/bccd
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction
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


def table(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Markdown rows of AP, AP50, paired gain, share of the gap closed and time.

    Args:
        results: per model ``ap``, ``ap50`` (in percent) and ``seconds``, one number per seed in the same order; the
            models ``teacher`` and ``student`` are what the others are measured against.
    """
    lines = [
        '| model | AP | AP50 | gain over student alone | gap closed | seconds per iteration | AP of each seed |',
        '|---|---:|---:|---:|---:|---:|---|',
    ]
    student, teacher = results['student'], results['teacher']
    gap = statistics.mean(teacher['ap']) - statistics.mean(student['ap'])
    for name, result in results.items():
        gain = share = ''
        if name not in ('student', 'teacher'):
            gains = [a - b for a, b in zip(result['ap'], student['ap'], strict=True)]
            gain = f'{statistics.mean(gains):+.1f}' + ('' if len(gains) < 2 else f' ± {interval(gains):.1f}')
            share = f'{100 * statistics.mean(gains) / gap:.0f} %' if gap > 0 else 'no gap'
        lines.append(
            f'| {name} | {summary(result["ap"])} | {summary(result["ap50"])} | {gain} | {share} | '
            f'{statistics.mean(result["seconds"]):.3f} | {", ".join(f"{x:.1f}" for x in result["ap"])} |'
        )
    return '\n'.join(lines)


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

    def finish(name: str, one: Run) -> dict[str, float]:
        shown = -1

        def report(progress: Progress) -> None:
            nonlocal shown
            tenth = 10 * progress.done // progress.total
            if tenth != shown:
                shown = tenth
                print(f'{one.work_dir.name}: {progress.done}/{progress.total}, {progress.eta} left', flush=True)

        one.train(report)
        metrics = one.evaluate(report, args.split)
        return dict(
            ap=100 * metrics['coco/bbox_mAP'],
            ap50=100 * metrics['coco/bbox_mAP_50'],
            seconds=one.seconds_per_iteration(),
        )

    def together(runs: Mapping[tuple[str, int], Run]) -> dict[tuple[str, int], dict[str, float]]:
        with ThreadPoolExecutor(args.jobs) as pool:
            futures = {key: pool.submit(finish, key[0], one) for key, one in runs.items()}
            return {key: future.result() for key, future in futures.items()}

    try:
        taught = args.seeds[:1] if args.one_teacher else args.seeds
        teachers = {seed: run('teacher', args.teacher, seed) for seed in taught}
        found = together({('teacher', seed): one for seed, one in teachers.items()})
        runs = {('student', seed): run('student', args.student, seed) for seed in args.seeds}
        for name, config in distilled.items():
            for seed in args.seeds:
                teacher = teachers.get(seed, teachers[taught[0]])
                weights = {'model.teacher.checkpoint': str(teacher.checkpoint), **args.distilled_options}
                runs[name, seed] = run(name, config, seed, **weights)
        found |= together(runs)
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1

    results: dict[str, dict[str, list[float]]] = {}
    for name in ('teacher', 'student', *distilled):
        rows = [found[name, seed] for seed in (taught if name == 'teacher' else args.seeds)]
        results[name] = {key: [row[key] for row in rows] for key in rows[0]}
    text = (
        f'{table(results)}\n\nSplit: {args.split}. Seeds: {", ".join(map(str, args.seeds))}. ± is the 95 % interval of '
        f'the mean over seeds; gains are paired by seed. {args.jobs} processes at a time on {machine()}.\n'
    )
    print(f'\n{text}')
    args.work_dir.mkdir(parents=True, exist_ok=True)
    stem = args.work_dir / f'results-{args.split}-{"-".join(distilled)}'
    stem.with_suffix('.md').write_text(text)
    stem.with_suffix('.json').write_text(
        json.dumps(dict(results=results, seeds=args.seeds, split=args.split, machine=machine()), indent=1)
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
