"""Say in under a minute what would go wrong in a distillation: data, classes, teacher, losses, memory and time.

Nothing is written. The exit code is 1 if there is a FAIL. The model options are those of ``tools/train.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'check.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    with contextlib.redirect_stdout(sys.stderr):  # what this program has to say is alone in its output
        start()

from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmkd_graph.checking import Finding, check_config, failed, side_by_side
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import RANK_VARIABLES, add_options, apply_training_options, fail, load_config

_ROWS = 12
"""Equal classes that the table shows; those that differ are all in it."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file of a distillation')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--batches', type=int, default=16, help='validation batches that the teacher is scored on')
    parser.add_argument('--min-ap', type=float, default=0.05, help='average precision below which the teacher fails')
    parser.add_argument('--gpus', type=int, help='processes of the training; default: what the launcher says, or 1')
    parser.add_argument('--device', help='where to run; default: the accelerator, if there is one')
    parser.add_argument('--json', action='store_true', help='print JSON: {"ok": …, "findings": […]}')
    add_options(parser)
    parser.set_defaults(work_dir=None, resume=None, auto_scale_lr=False)
    return parser.parse_args()


def processes(args: argparse.Namespace) -> int:
    """Processes of the training. This check is always one; it reads only how many the launcher would start."""
    if args.gpus is None and args.launcher != 'none':
        return int(os.environ.get(RANK_VARIABLES[args.launcher][1], 1))
    return args.gpus or 1


def class_table(findings: Sequence[Finding]) -> list[str]:
    """The classes of teacher and data side by side, those that differ marked."""
    details: dict[str, Any] = next((f.details for f in findings if 'teacher' in f.details), {})
    if not details:
        return []
    students = (f.details for f in findings if f.key.startswith('model.student'))
    heads = next((found['heads'] for found in students if 'heads' in found), {})
    rows = side_by_side(details['teacher'], details['dataset'])
    shown = [row for row in rows if not row[3] or row[0] < _ROWS]
    width = max(len(teacher) for _, teacher, _, _ in rows)
    lines = [f'classes{"":5} {"teacher":<{width}}  data' + (f'  (student: {heads})' if heads else '')]
    lines += [f'{"" if same else "differs":<8}{i:>4} {a:<{width}}  {b}' for i, a, b, same in shown]
    more = len(rows) - len(shown)
    return [*lines, f'{"":8}     and {more} more that are the same'] if more else lines


def main() -> int:
    args = parse_args()
    given = (('--batches', args.batches, 1), ('--gpus', processes(args), 1), ('--min-ap', args.min_ap, 0))
    for name, value, least in given:
        if value < least:
            fail(f'{name}: {value}; accepted: at least {least}')
    cfg = load_config(args)
    apply_training_options(cfg, args)
    if scope := cfg.get('default_scope', 'mmengine'):  # as the runner has it; None in pure Python configs
        init_default_scope(scope)
    findings = []
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        if args.traceback:
            logging.getLogger('mmkd_graph.checking').setLevel('DEBUG')
            logging.getLogger('mmkd_graph.checking').addHandler(logging.StreamHandler())
        # what an evaluator says of a few images is in the findings
        MMLogger.get_current_instance().setLevel('CRITICAL')
        for finding in check_config(cfg, args.batches, processes(args), args.min_ap, args.device):
            findings.append(finding)
            if not args.json:
                print(finding, file=output, flush=True)
    bad = failed(findings)
    if args.json:
        print(json.dumps(dict(ok=not bad, findings=[asdict(finding) for finding in findings]), indent=2))
        return int(bad)
    print(*class_table(findings), sep='\n')
    counts = {level: sum(f.level == level for f in findings) for level in ('FAIL', 'warning', 'ok')}
    print(', '.join(f'{count} {level}' for level, count in counts.items()))
    return int(bad)


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
