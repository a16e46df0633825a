"""Run COCO distillation configs for a few iterations at reduced size, each with a teacher of random weights.

It shows that a config trains on a folder in COCO layout, its losses are finite and there: not an accuracy.

Example:
    coco_iterations.py configs/heads/*.py --data-root data/coco --work-dir work_dirs/iterations
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()


from mmkd_graph.checkpoints import write_whole
from mmkd_graph.engine.children import interruptible
from mmkd_graph.engine.runs import Run, RunFailed
from mmkd_graph.packaged import read_config
from mmkd_graph.testing import save_untrained

SIZES = {'scale', 'img_scale', 'crop_size', 'size'}
"""Options of a pipeline's transforms that are (W, H), in pixels."""


def shrink(tree: Any, factor: int) -> Any:
    """Divide all sizes in a nest of transforms; they stay multiples of 32."""
    if isinstance(tree, Mapping):
        return {
            key: tuple(max(32, value // factor // 32 * 32) for value in part) if key in SIZES else shrink(part, factor)
            for key, part in tree.items()
        }
    return type(tree)(shrink(part, factor) for part in tree) if isinstance(tree, (list, tuple)) else tree


def small(path: str, args: argparse.Namespace) -> Path:
    """The config on a few images of ``--data-root``, in pairs, without downloads and validation."""
    config = read_config(path)
    teacher = config.model.teacher
    data = config.train_dataloader.dataset
    while 'dataset' in data:
        data = data.dataset
    for dataset in {id(d): d for d in (config.train_dataloader.dataset, data)}.values():
        if 'pipeline' in dataset:
            dataset.pipeline = shrink(dataset.pipeline, args.factor)
    data.update(data_root=f'{Path(args.data_root).resolve()}/', indices=2 * args.iterations)
    config.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    config.model.student.backbone.init_cfg = None
    teacher.checkpoint = save_untrained(teacher.config, args.work_dir / 'teachers' / f'{Path(teacher.config).stem}.pth')
    config.train_cfg.update(max_epochs=1)
    for key in ('dynamic_intervals', 'val_interval'):
        config.train_cfg.pop(key, None)
    for part in ('dataloader', 'evaluator', 'cfg'):
        config[f'val_{part}'] = None
    config.default_hooks.logger.interval = 1
    config.randomness = dict(seed=0)
    written = args.work_dir / 'configs' / Path(path).name
    write_whole(config.pretty_text.encode(), written)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='distillation configs on COCO')
    parser.add_argument('--data-root', default='data/coco', help='annotations/ and train2017/')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--iterations', type=int, default=3)
    parser.add_argument('--factor', type=int, default=4, help='by which images are smaller')
    args = parser.parse_args()
    args.work_dir = args.work_dir.resolve()
    print('| config | iterations | first loss | last loss | terms of the last |\n|---|---:|---:|---:|---|')
    failed = 0
    for path in args.configs:
        run = Run(str(small(path, args)), args.work_dir / Path(path).stem)
        try:
            run.train()
        except RunFailed as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        lines = [line for line in run.scalars() if 'loss' in line]
        losses = [line['loss'] for line in lines]
        terms = ', '.join(f'{k.removeprefix("loss_kd.")} {v:.3g}' for k, v in lines[-1].items() if 'loss_kd' in k)
        failed += not all(map(math.isfinite, losses))
        print(f'| {Path(path).stem} | {len(lines)} | {losses[0]:.3g} | {losses[-1]:.3g} | {terms} |', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
