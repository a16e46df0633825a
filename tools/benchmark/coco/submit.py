"""Submit teacher, student and every method of the pairs that papers use to Slurm: one job per run.

Of each suite the teacher comes first (trained, or where its weights are published only tested), then the student alone,
then the methods, which wait for both. A job that is preempted, killed or out of time is requeued and goes on. The same
command again submits what is neither finished nor in the queue. docs/coco_kit.md says more; collect.py prints the
table.

Example:
    submit.py --partition gpu --time 24:00:00 --dry-run
    submit.py tools/benchmark/suites/gfl_r101_coco.py --methods crg pkd --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

from mmengine.config import DictAction

from mmkd_graph.engine.collecting import KIT
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import fail
from mmkd_graph.engine.runs import RunFailed
from mmkd_graph.engine.slurm import Batch, Cluster, Job, NotSubmitted
from mmkd_graph.engine.suites import Suite, SuiteError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'suites', nargs='*', default=KIT, metavar='SUITE', help=f'files as these, the default: {", ".join(KIT)}'
    )
    parser.add_argument('--methods', nargs='+', metavar='NAME', help='of the suites; default: all')
    parser.add_argument('--seeds', nargs='+', type=int, help="default: the suites'")
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/coco_kit'), help='folder of all runs')
    parser.add_argument('--gpus', type=int, default=8, help='processes of a job, one per GPU')
    parser.add_argument(
        '--gpus-per-node', type=int, help='default: at most 8; 0 asks for no GPU, and the processes meet over gloo'
    )
    parser.add_argument('--cpus-per-task', type=int, default=5, help='cores of a process')
    parser.add_argument('--partition', default='', help="default: Slurm's")
    parser.add_argument('--time', default='', help="limit of a job, such as 24:00:00; default: the partition's")
    parser.add_argument(
        '--sbatch-args',
        type=shlex.split,
        default=[],
        metavar='OPTIONS',
        help='more options of sbatch: --sbatch-args="--account=me --exclude=node7"',
    )
    parser.add_argument(
        '--at-once', action='store_true', help='let the methods wait for the teacher, not for the student alone'
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='for all runs, as in train.py')
    parser.add_argument('--dry-run', action='store_true', help='only print what would be submitted')
    args = parser.parse_args(argv)
    args.gpus_per_node = min(args.gpus, 8) if args.gpus_per_node is None else args.gpus_per_node
    for name, least in (('gpus', 1), ('gpus_per_node', 0), ('cpus_per_task', 1)):
        if getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")} {getattr(args, name)}; accepted: at least {least}')
    if args.gpus_per_node > args.gpus:
        parser.error(f'--gpus-per-node {args.gpus_per_node}; accepted: at most --gpus, {args.gpus}')
    try:
        args.jobs = jobs(args)
    except (SuiteError, RunFailed) as error:
        fail(str(error))
    return args


def jobs(args: argparse.Namespace) -> list[Job]:
    """What the command line asks for.

    Raises:
        SuiteError: if it cannot be done.
    """
    if 'randomness.seed' in args.cfg_options:
        raise SuiteError('--cfg-options randomness.seed would be that of all runs; accepted: --seeds')
    suites = {Path(path).stem: Suite.from_file(path) for path in args.suites}
    if len(suites) < len(args.suites):
        raise SuiteError(f'{" ".join(map(str, args.suites))}: accepted: suites of different names')
    known = dict.fromkeys(name for suite in suites.values() for name in suite.methods)
    if unknown := [name for name in args.methods or () if name not in known]:
        raise SuiteError(f'--methods {" ".join(unknown)}; accepted: {", ".join(known)}')
    found = []
    for name, suite in suites.items():
        methods = [one for one in suite.methods if one in (args.methods or suite.methods)]
        seeds = args.seeds or list(suite.seeds)
        folder = args.work_dir.resolve() / name
        found += Batch(suite, name, folder, methods, seeds, args.cfg_options, args.at_once).jobs()
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    options = (args.gpus, args.gpus_per_node, args.cpus_per_task, args.partition, args.time, args.sbatch_args)
    try:
        Cluster(*options).submit_all(args.jobs, args.dry_run)
    except (NotSubmitted, RunFailed) as error:
        print(f'submit.py: error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
