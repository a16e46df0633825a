"""The main job on an embedded default: generate a set, train teacher, student and distilled student, compare.

Interrupted and started again, it goes on where it was. Everything it makes is in ``--work-dir``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmkd_graph.datasets.shapes import generate_shapes, print_progress
from mmkd_graph.engine.children import interruptible
from mmkd_graph.engine.runs import Run, RunFailed

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'demo'
STUDY = {
    'teacher': ('retinanet_teacher_shapes.py', 'teacher'),
    'student': ('retinanet_student_shapes.py', 'student alone'),
    'crg': ('retinanet_student_crg_shapes.py', 'student distilled with CRG from that teacher'),
}
STAGES = 2 + 2 * len(STUDY)


class Stages:
    """Prints which stage begins, and when."""

    def __init__(self) -> None:
        self.done, self.started = 0, time.monotonic()

    def begin(self, name: str) -> None:
        self.done += 1
        clock = time.strftime('%M:%S', time.gmtime(time.monotonic() - self.started))
        print(f'[{self.done}/{STAGES}] {clock} {name}', flush=True)


def parameters(config: str) -> int:
    """Learned numbers of the detector that is deployed: of a distiller, its student."""
    init_default_scope('mmdet')
    model = Config.fromfile(config).model
    return sum(p.numel() for p in MODELS.build(model.get('student', model)).parameters())


def compare(work_dir: Path, options: dict[str, Any], stages: Stages) -> tuple[str, list[str]]:
    """Train and evaluate the three models; returns the table, and the last lines of the distillation."""
    lines = ['| model | parameters | AP | AP50 | seconds per iteration |', '|---|---:|---:|---:|---:|']
    runs: dict[str, Run] = {}
    for key, (config, name) in STUDY.items():
        more = {}
        if key == 'crg':
            teacher = runs['teacher']
            more = {'model.teacher.config': teacher.config, 'model.teacher.checkpoint': str(teacher.checkpoint)}
        run = runs[key] = Run(str(CONFIGS / config), work_dir / key, {**options, **more})
        stages.begin(f'train the {name}')
        run.train()
        stages.begin(f'evaluate the {name} on the test split')
        metrics = run.evaluate()
        ap, ap50 = 100 * metrics['coco/bbox_mAP'], 100 * metrics['coco/bbox_mAP_50']
        size, seconds = parameters(run.config) / 1e6, run.seconds_per_iteration()
        lines.append(f'| {name} | {size:.2f} M | {ap:.1f} | {ap50:.1f} | {seconds:.3f} |')
    return '\n'.join(lines), runs['crg'].summary()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='where everything goes')
    parser.add_argument('--seed', type=int, default=0, help='of the data set and of the three trainings')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    data_root = work_dir / f'shapes-{args.seed}'
    stages = Stages()
    stages.begin(f'generate the data set in {data_root}')
    generate_shapes(data_root, args.seed, workers=os.cpu_count() or 1, progress=print_progress)

    options = {'randomness.seed': args.seed}
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.dataset.data_root'] = f'{data_root}/'
        if split != 'train':
            options[f'{split}_evaluator.ann_file'] = f'{data_root}/annotations/instances_{split}.json'
    try:
        table, last_lines = compare(work_dir, options, stages)
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    stages.begin('results')
    print(f'\n{table}\n\nOne seed: a demonstration, not a measurement. Pictures: {work_dir / "crg" / "pictures"}')
    if last_lines:  # a training of an older version has none
        print('The distilled student:', *last_lines, sep='\n  ')
    (work_dir / 'results.md').write_text(table + '\n')
    return 0


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
