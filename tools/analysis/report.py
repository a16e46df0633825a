"""Write a page that shows what a distillation gained: curves, loss terms, graphs, detections, classes, configs.

The first work dir is the distilled training's. Those of the student alone and of the teacher are recognised by their
configs, and others appear in the curves. The page is one file that loads nothing from elsewhere.

Example:
    report.py work_dirs/crg work_dirs/student work_dirs/teacher
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'report.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    start()

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger

from mmkd_graph.checkpoints import TRUST, trust_files
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import fail
from mmkd_graph.packaged import command
from mmkd_graph.reporting import ReportError, make_report


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='that of the distillation first')
    parser.add_argument('--out', type=Path, help='file to write; default: report.html in the first work dir')
    parser.add_argument(
        '--images', type=int, default=200, help='validation images that the models run on, evenly spread; 0: none'
    )
    parser.add_argument('--show', type=int, default=8, help='images whose detections are shown')
    parser.add_argument('--checkpoint', choices=['best', 'last'], default='best', help='of the students’ work dirs')
    parser.add_argument('--device', help='where the models run; default: the accelerator, if there is one')
    parser.add_argument(
        '--trust', action='store_true', help=f'read checkpoint files whatever is in them; as the variable {TRUST}=1'
    )
    args = parser.parse_args(arguments)
    for name in ('images', 'show'):
        if getattr(args, name) < 0:
            parser.error(f'--{name}: {getattr(args, name)} is below 0')
    if args.device:
        try:
            torch.empty(0, device=args.device)
        except (AssertionError, RuntimeError) as error:
            parser.error(f'--device: {args.device}: {str(error).splitlines()[0]}')
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    if args.trust:
        trust_files()
    MMLogger.get_instance('report', log_level='WARNING')  # what is read and evaluated on the way needs no line
    out = args.out or args.work_dirs[0] / 'report.html'
    given = sys.argv[1:] if arguments is None else arguments
    try:
        page = make_report(
            args.work_dirs,
            out,
            command=command('analysis/report.py', *given),
            images=args.images,
            show=args.show,
            which=args.checkpoint,
            device=args.device or get_device(),
            say=lambda line: print(line, flush=True),
        )
    except (ReportError, OSError) as error:
        fail(str(error))
    for model in page.models:
        print(f'{model["role"]}: AP {model["ap"]:.1f}')
    if page.gain:
        print(f'gain: {page.gain}')
    print(f'{out} ({out.stat().st_size / 1e6:.1f} MB)')
    return 0


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
