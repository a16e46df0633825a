"""The COCO config on a folder in COCO layout, small enough for a CPU: it trains, evaluates, and is plain mmdet after.

A RetinaNet R101 is initialised and saved as the teacher, ``configs/crg/retinanet_r50_fpn_crg-r101_1x_coco.py`` learns
from it at reduced size, then the checkpoint is evaluated twice: here with the distillation config, and by mmdet's own
``tools/test.py`` with mmdet's own student config. It proves the path, not an accuracy.

Example:
    python tools/benchmark/coco_end_to_end.py --data-root data/coco --work-dir work_dirs/coco_end_to_end
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiment import Run, RunFailed, interruptible, write_config

ROOT = Path(__file__).resolve().parents[2]
MMDET = Path(find_spec('mmdet').origin).parent / '.mim'
CONFIG = ROOT / 'configs' / 'crg' / 'retinanet_r50_fpn_crg-r101_1x_coco.py'
PLAIN = MMDET / 'configs' / 'retinanet' / 'retinanet_r50_fpn_1x_coco.py'


def make_teacher(path: Path) -> None:
    """Initialise a RetinaNet R101 without pretrained weights and save it."""
    if path.exists():
        return
    init_default_scope('mmdet')
    MMLogger.get_instance('coco_end_to_end', log_level='ERROR')  # not how each weight was initialised
    torch.manual_seed(0)
    model = get_config('mmdet::retinanet/retinanet_r101_fpn_2x_coco.py').model
    model.backbone.init_cfg = None
    detector = MODELS.build(model)
    detector.init_weights()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=detector.state_dict(), meta={}), path)


def evaluate(script: Path, config: Path, checkpoint: Path, folder: Path, options: dict[str, Any]) -> tuple[dict, list]:
    """Metrics and predictions of one ``test.py`` on one config."""
    dump = folder / 'predictions.pkl'
    folder.mkdir(parents=True, exist_ok=True)
    given = write_config(config, options, folder / 'configs')
    command = [sys.executable, script, given, checkpoint, '--work-dir', folder, '--out', dump]
    with (folder / 'test.log').open('w') as log:
        subprocess.run(list(map(str, command)), check=True, stdout=log, stderr=log)
    newest = max(folder.glob('*/[0-9]*.json'), key=lambda path: path.stat().st_mtime)
    metrics = {k: v for k, v in json.loads(newest.read_text()).items() if k.startswith('coco/')}
    return metrics, [sample['pred_instances'] for sample in pickle.loads(dump.read_bytes())]


def same(ours: list, plain: list) -> bool:
    """Whether two lists of predictions agree bit for bit."""
    return len(ours) == len(plain) and all(
        torch.equal(a[key], b[key]) for a, b in zip(ours, plain, strict=True) for key in ('bboxes', 'scores', 'labels')
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/coco', help='annotations/, train2017/ and val2017/')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--epochs', type=int, default=7, help='7 epochs of 62 images in pairs are 217 iterations')
    parser.add_argument('--scale', type=int, nargs=2, default=(320, 192), metavar=('W', 'H'))
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    teacher = work_dir / 'teacher.pth'
    make_teacher(teacher)

    root = f'{Path(args.data_root).resolve()}/'
    data: dict[str, Any] = {}
    for split, step in (('train', 2), ('val', 1), ('test', 1)):
        data[f'{split}_dataloader.dataset.data_root'] = root
        data[f'{split}_dataloader.dataset.pipeline.{step}.scale'] = tuple(args.scale)
        if split != 'train':
            data[f'{split}_evaluator.ann_file'] = f'{root}annotations/instances_val2017.json'
    run = Run(
        str(CONFIG),
        work_dir / 'crg',
        {
            **data,
            'model.student.backbone.init_cfg': None,
            'model.teacher.checkpoint': str(teacher),
            'train_cfg.max_epochs': args.epochs,
            'train_cfg.val_interval': args.epochs,
            'default_hooks.logger.interval': 1,
            'optim_wrapper.clip_grad.max_norm': 10,
            'param_scheduler.0.end': 50,
            'randomness.seed': 0,
        },
    )
    try:
        run.train(lambda p: print(f'training: {p.done}/{p.total} of the epoch, {p.eta} left', flush=True))
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    # after so short a training no score reaches the usual threshold
    ours, our_predictions = evaluate(
        ROOT / 'tools' / 'test.py',
        CONFIG,
        run.checkpoint,
        work_dir / 'ours',
        {**data, 'model.student.test_cfg.score_thr': 0.001},
    )
    plain, plain_predictions = evaluate(
        MMDET / 'tools' / 'test.py',
        PLAIN,
        run.checkpoint,
        work_dir / 'mmdet',
        {**data, 'model.test_cfg.score_thr': 0.001},
    )

    lines = [line for line in run.scalars() if 'loss' in line]
    print(f'\n{len(lines)} iterations\n\n| term | mean of the first 20 | mean of the last 20 |\n|---|---:|---:|')
    for term in sorted(key for key in lines[0] if 'loss' in key):
        print(f'| {term} | {mean(x[term] for x in lines[:20]):.4f} | {mean(x[term] for x in lines[-20:]):.4f} |')
    print('\n| metric | distillation config, tools/test.py | student config, mmdet tools/test.py |\n|---|---:|---:|')
    for key, value in ours.items():
        print(f'| {key} | {value!r} | {plain[key]!r} |')
    boxes = sum(len(prediction['scores']) for prediction in our_predictions)
    equal = bool(ours) and ours == plain and boxes > 0 and same(our_predictions, plain_predictions)
    print(
        f'\n{boxes} predicted boxes: ' + ('metrics and predictions agree to the last digit' if equal else 'THEY DIFFER')
    )
    return 0 if equal else 1


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
