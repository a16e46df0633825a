"""Write the config of a distillation for any two detectors, and with --data those of student and teacher on your data.

The check of ``tools/check.py`` follows, and the commands to run next. Existing files are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'new_config.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    start()

from mmengine.logging import MMLogger

from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import fail
from mmkd_graph.findings import failed
from mmkd_graph.packaged import command
from mmkd_graph.writing import check_written, write_configs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('student', metavar='STUDENT', help="config of the student: a path or 'mmdet::family/name.py'")
    parser.add_argument('teacher', metavar='TEACHER', help='config of the teacher, likewise')
    parser.add_argument('--data', help='folder in COCO or VOC layout, or config of data; default: those of STUDENT')
    parser.add_argument(
        '--losses', nargs='+', default=['crg'], metavar='LOSS', help='methods, such as pkd; default crg'
    )
    parser.add_argument('--teacher-checkpoint', metavar='FILE', help='path or URL of weights for TEACHER as it is')
    parser.add_argument(
        '--out', metavar='FILE', help='the distillation, the others go beside it; default configs/own/….py'
    )
    parser.add_argument('--force', action='store_true', help='overwrite files that are there with other settings')
    parser.add_argument('--no-check', action='store_true', help='write the files, and no more')
    parser.add_argument('--device', help='where the check runs; default: the accelerator, if there is one')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        written = write_configs(
            args.student,
            args.teacher,
            args.data,
            args.losses,
            args.teacher_checkpoint,
            args.out,
            args.force,
            command('new_config.py', *sys.argv[1:]),
        )
    except (OSError, ValueError) as error:
        fail(' '.join(str(error).split()))
    for path, what, was_there in written.files:
        print(f'{"is there" if was_there else "written":<8} {path}: {what}')
    print(*written.notes, sep='\n', end='\n' if written.notes else '')
    findings = []
    output = sys.stdout
    if not args.no_check:
        MMLogger.get_current_instance().setLevel('CRITICAL')
        with contextlib.redirect_stdout(sys.stderr):  # what mmdet has to say
            for finding in check_written(written, args.device):
                findings.append(finding)
                print(finding, file=output, flush=True)
    bad = failed(findings)
    print('Correct what FAILs, then:' if bad else 'Next:')
    print(*(f'  {line}' for line in written.commands()), sep='\n')
    return int(bad)


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
