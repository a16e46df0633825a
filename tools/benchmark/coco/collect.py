"""Print the table of what submit.py has submitted, with what others report beside it, from the work dirs.

Runs that are not finished say where they are. Nothing is asked of Slurm, and nothing is run.

Example:
    collect.py
    collect.py tools/benchmark/suites/gfl_r101_coco.py --work-dir work_dirs/coco_kit
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

from mmkd_graph.engine.collecting import KIT, as_json, read_suite, report
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.launch import fail
from mmkd_graph.engine.measuring import write_report
from mmkd_graph.engine.runs import RunFailed
from mmkd_graph.engine.suites import Suite, SuiteError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'suites', nargs='*', default=KIT, metavar='SUITE', help='as for submit.py; default: those of the kit'
    )
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/coco_kit'), help='that of submit.py')
    args = parser.parse_args(argv)
    if not args.work_dir.is_dir():
        parser.error(f'--work-dir {args.work_dir}: no such folder; accepted: that of submit.py')
    texts, content = [], {}
    try:
        for path in args.suites:
            name, suite = Path(path).stem, Suite.from_file(path)
            runs = read_suite(suite, args.work_dir / name)
            texts.append(report(name, suite, runs))
            content[name] = as_json(runs)
    except (RunFailed, SuiteError, ValueError) as error:
        fail(str(error))
    write_report(args.work_dir / 'results', '\n'.join(texts), content)
    return 0


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
