"""Accuracy of teacher, student and distilled students over seeds, and what distillation gained.

Given are distillation configs of one student, or a suite. A distilled run of a seed starts from the same initial
student with the same data order as the student alone of that seed: the differences are paired. Finished runs are kept,
interrupted ones go on. docs/comparing.md says how to read the table.

Of distillation configs the student alone is trained too, with the same settings; the teacher is evaluated as its
checkpoint is. A suite names the config of the teacher and of the student, and the methods: every method is a loss
between the two, or a distillation config of its own. All learn from the same teacher, which is trained. Where the suite
has ``tune``, every method chooses one of the same few values by its accuracy on the validation split, starting with the
middle three and going on to the best one's neighbours; the test split is read once, for what is reported. Where it has
``pretrain``, the backbone of every student starts from the same trained weights, as it mostly does in practice, and the
rest from the seed's.

Example:
    compare.py configs/my/retinanet_crg.py configs/my/retinanet_pkd.py --seeds 0 1 2
    compare.py tools/benchmark/suites/bccd.py --jobs 2
    compare.py tools/benchmark/suites/bccd.py --methods crg pkd --seeds 0 1 --split val
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

import torch
from mmengine.config import DictAction
from mmengine.logging import MMLogger

from mmkd_graph.engine.children import interruptible
from mmkd_graph.engine.comparing import Comparison
from mmkd_graph.engine.gains import interval
from mmkd_graph.engine.launch import fail
from mmkd_graph.engine.measuring import machine, write_report
from mmkd_graph.engine.own_comparison import SEEDS, OwnComparison
from mmkd_graph.engine.own_configs import OwnConfigs
from mmkd_graph.engine.runs import RunFailed
from mmkd_graph.engine.suites import Suite, SuiteError
from mmkd_graph.packaged import read_config, shipped
from mmkd_graph.visualization.gains import draw_gains


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'files',
        nargs='+',
        type=Path,
        metavar='FILE',
        help='what is compared: distillation configs of one student, or a file as those in tools/benchmark/suites',
    )
    parser.add_argument(
        '--methods', nargs='+', metavar='NAME', help="of the suite's, or names of configs; default: all"
    )
    parser.add_argument('--seeds', nargs='+', type=int, help="default: the suite's; 0 1 2 for configs")
    parser.add_argument(
        '--split',
        choices=('val', 'test'),
        help='what the table reports: test_dataloader or val_dataloader of the config',
    )
    parser.add_argument(
        '--jobs', type=int, default=1, help='processes at a time, each on its share of the cores and a GPU of its own'
    )
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare/<name of the first file>')
    parser.add_argument(
        '--keep-teacher',
        action='store_true',
        help="keep the teacher's features of every image in the work dir, so that it runs once for all; they need "
        'disk space, and the times are then without the teacher',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='for all runs, as in train.py')
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs {args.jobs}; accepted: at least 1')
    args.work_dir = args.work_dir or Path('work_dirs/compare') / args.files[0].stem
    try:
        args.comparison = comparison(args)
    except SuiteError as error:
        fail(str(error))
    return args


def comparison(args: argparse.Namespace) -> Comparison:
    """What the command line asks for.

    Raises:
        SuiteError: if it cannot be done.
    """
    if 'randomness.seed' in args.cfg_options:
        raise SuiteError('--cfg-options randomness.seed would be that of all runs; accepted: --seeds')
    own = suite = None
    if len(args.files) == 1 and is_suite(args.files[0]):
        suite = Suite.from_file(args.files[0])
        names, seeds, splits = suite.methods, suite.seeds, ('test', 'val')
    else:
        MMLogger.get_current_instance().setLevel('ERROR')  # what is built here is built again by the trainings
        own = OwnConfigs.from_files(args.files, args.cfg_options, args.work_dir)
        names, seeds, splits = own.methods, SEEDS, own.splits
    args.split = args.split or splits[0]
    if unknown := [name for name in args.methods or () if name not in names]:
        raise SuiteError(f'--methods {" ".join(unknown)}; accepted: {", ".join(names)}')
    if args.split not in splits:
        raise SuiteError(f'--split {args.split}: the config has no such data and evaluator; accepted: {splits[0]}')
    chosen = (suite, args.work_dir, args.methods or list(names), args.seeds or list(seeds), args.split)
    more = dict(jobs=args.jobs, keep_teacher=args.keep_teacher, cfg_options=args.cfg_options)
    return OwnComparison(*chosen, **more, own=own) if own else Comparison(*chosen, **more)


def is_suite(path: Path) -> bool:
    """Whether a file is a suite, or is to be read as one: it has no model."""
    if '::' in str(path):
        return False
    if not Path(shipped(path)).is_file():
        return True
    try:
        return 'model' not in read_config(shipped(path))
    except Exception:  # said where it is read
        return False


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    comparison = args.comparison
    try:
        results = comparison.results()
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    where = machine(torch.device('cuda' if torch.cuda.is_available() else 'cpu'), comparison.threads)
    stem = args.work_dir / f'results-{args.split}'
    content = dict(results=results, by_images=comparison.by_images, tried=comparison.scores)
    content |= dict(metric=comparison.metric, notes=comparison.notes)
    content |= dict(seeds=comparison.seeds, split=args.split, machine=where)
    write_report(stem, comparison.report(results, where), content)
    title = f'{args.files[0].stem}, {args.split} split, {where}'
    ap = {name: result['ap'] for name, result in results.items()}
    draw_gains(ap, [*comparison.taught_by.values()], interval, title, stem.with_suffix('.png'))
    return 0


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
