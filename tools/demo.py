"""The main job on an embedded default: generate a set, train teacher, student and distilled student, compare.

Interrupted and started again, it goes on where it was. Everything it makes is in ``--work-dir``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiment import Progress, Run, RunFailed, interruptible

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / 'configs' / 'demo'


class Stages:
    """Prints what each stage does, how far it is and how long it still takes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.name = ''
        self.started = time.monotonic()
        self._shown = 0.0

    def begin(self, name: str) -> None:
        self.done += 1
        self.name = name
        self._say(name)

    def report(self, progress: Progress) -> None:
        self._show(f'{progress.done}/{progress.total} iterations, {progress.eta} left', progress.done == progress.total)

    def counted(self, what: str) -> Callable[[int, int], None]:
        """A callback (done, total) that shows the time left at the pace so far."""
        begin = time.monotonic()

        def show(done: int, total: int) -> None:
            left = (time.monotonic() - begin) * (total - done) / max(done, 1)
            self._show(f'{done}/{total} {what}, {left:.0f} s left', done == total)

        return show

    def _show(self, text: str, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._shown >= 15:
            self._shown = now
            self._say(f'{self.name}: {text}')

    def _say(self, text: str) -> None:
        clock = time.strftime('%M:%S', time.gmtime(time.monotonic() - self.started))
        print(f'[{self.done}/{self.total}] {clock} {text}', flush=True)


def parameters(config: str) -> int:
    """Learned numbers of the detector that is deployed: of a distiller, its student."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    model = Config.fromfile(config).model
    return sum(p.numel() for p in MODELS.build(model.get('student', model)).parameters())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='where everything goes')
    parser.add_argument('--seed', type=int, default=0, help='of the data set and of the three trainings')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    data_root = work_dir / f'shapes-{args.seed}'
    stages = Stages(8)

    from mmkd_graph.datasets import generate_shapes

    stages.begin(f'generate the data set in {data_root}')
    generate_shapes(data_root, args.seed, workers=os.cpu_count() or 1, progress=stages.counted('images'))

    options = {'randomness.seed': args.seed}
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.dataset.data_root'] = f'{data_root}/'
        if split != 'train':
            options[f'{split}_evaluator.ann_file'] = f'{data_root}/annotations/instances_{split}.json'

    def run(name: str, config: str, **more: object) -> Run:
        return Run(str(CONFIGS / config), work_dir / name, {**options, **more})

    names = {
        'teacher': 'teacher',
        'student': 'student alone',
        'crg': 'student distilled with CRG from that teacher',
    }
    runs = {
        'teacher': run('teacher', 'retinanet_teacher_shapes.py'),
        'student': run('student', 'retinanet_student_shapes.py'),
    }
    rows = []
    try:
        for key, name in names.items():
            if key == 'crg':
                runs[key] = run(
                    'crg',
                    'retinanet_student_crg_shapes.py',
                    **{
                        'model.teacher.config': runs['teacher'].config,
                        'model.teacher.checkpoint': str(runs['teacher'].checkpoint),
                    },
                )
            stages.begin(f'train the {name}')
            runs[key].train(stages.report)
            stages.begin(f'evaluate the {name} on the test split')
            metrics = runs[key].evaluate(stages.report)
            rows.append((name, parameters(runs[key].config), metrics, runs[key].seconds_per_iteration()))
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1

    stages.begin('results')
    lines = ['| model | parameters | AP | AP50 | seconds per iteration |', '|---|---:|---:|---:|---:|']
    for name, count, metrics, seconds in rows:
        ap, ap50 = 100 * metrics['coco/bbox_mAP'], 100 * metrics['coco/bbox_mAP_50']
        lines.append(f'| {name} | {count / 1e6:.2f} M | {ap:.1f} | {ap50:.1f} | {seconds:.3f} |')
    table = '\n'.join(lines)
    print(f'\n{table}\n\nOne seed: a demonstration, not a measurement. Pictures: {work_dir / "crg" / "pictures"}')
    (work_dir / 'results.md').write_text(table + '\n')
    return 0


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
