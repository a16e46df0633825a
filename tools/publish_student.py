"""Write the plain student of a checkpoint to a file that mmdet runs alone: DetInferencer(weights=FILE).

Weights (the averaged ones, if the training had EMAHook), classes and the student's config are in it, and nothing of
the training. Its name gets the first eight digits of its SHA-256: student.pth becomes student-1a2b3c4d.pth, with the
config student-1a2b3c4d.py beside it. It appears after it was read back and loaded without a weight missing or left
over. The checkpoint of a plain detector is published the same way.
"""

from __future__ import annotations

import argparse
import sys

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'publish_student.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    start()

from mmengine.logging import MMLogger

from mmkd_graph.checkpoints import TRUST, trust_files
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import fail, read_or_fail
from mmkd_graph.publishing import publish_student


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or address of a training checkpoint')
    parser.add_argument('out', metavar='OUT', help='name to write to, such as student.pth')
    parser.add_argument('--config', help="the training's config; default: the one in the checkpoint")
    parser.add_argument(
        '--trust', action='store_true', help=f'read the file whatever is in it, code too; as {TRUST}=1 does'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.trust:
        trust_files()
    MMLogger.get_current_instance().setLevel('WARNING')
    config = read_or_fail(args.config) if args.config else None
    try:
        done = publish_student(args.checkpoint, args.out, config)
    except (OSError, TypeError, ValueError) as error:
        fail(str(error))
    kind = 'the student of a distillation' if done.distilled else 'a plain detector'
    names = ', '.join(done.classes[:4]) + (', …' if len(done.classes) > 4 else '')
    size = f'{done.parameters:,} parameters, {len(done.classes)} classes ({names})'
    print(f'{done.weights}: {done.model}, {kind}, {size}')
    print(f'{done.config}: its config')
    for what in done.needs:
        print(f'wherever it runs, it needs {what}')


if __name__ == '__main__':
    with ended_by_signals():
        main()
