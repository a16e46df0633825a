"""The COCO config on a folder in COCO layout, small enough for a CPU: it trains, evaluates, and is plain mmdet after.

A RetinaNet R101 is initialised and saved as the teacher, ``configs/crg/retinanet_r50_fpn_crg-r101_1x_coco.py`` learns
from it at reduced size, then the checkpoint is evaluated twice: here with the distillation config, and by mmdet's own
``tools/test.py`` with mmdet's own student config. It proves the path, not an accuracy.

Example:
    coco_end_to_end.py --data-root data/coco --work-dir work_dirs/coco_end_to_end
"""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()


from mmkd_graph.engine.children import interruptible
from mmkd_graph.engine.runs import TOOLS, Run, RunFailed, read_metrics, write_config
from mmkd_graph.testing import save_untrained
from mmkd_graph.testing.round_trip import same

MMDET = Path(find_spec('mmdet').origin).parent / '.mim'
CONFIG = TOOLS.parent / 'configs' / 'crg' / 'retinanet_r50_fpn_crg-r101_1x_coco.py'
PLAIN = MMDET / 'configs' / 'retinanet' / 'retinanet_r50_fpn_1x_coco.py'
TEACHER = MMDET / 'configs' / 'retinanet' / 'retinanet_r101_fpn_2x_coco.py'


def evaluate(script: Path, config: Path, checkpoint: Path, folder: Path, options: dict[str, Any]) -> tuple[dict, list]:
    """Metrics and predictions of one ``test.py`` on one config."""
    dump = folder / 'predictions.pkl'
    given = write_config(config, options, folder / 'configs')
    command = [sys.executable, script, given, checkpoint, '--work-dir', folder, '--out', dump]
    with (folder / 'test.log').open('w') as log:
        subprocess.run(list(map(str, command)), check=True, stdout=log, stderr=log)
    metrics = {k: v for k, v in read_metrics(folder).items() if k.startswith('coco/')}
    return metrics, [sample['pred_instances'] for sample in pickle.loads(dump.read_bytes())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/coco', help='annotations/, train2017/ and val2017/')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--epochs', type=int, default=7, help='7 epochs of 62 images in pairs are 217 iterations')
    parser.add_argument('--scale', type=int, nargs=2, default=(320, 192), metavar=('W', 'H'))
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()

    root = f'{Path(args.data_root).resolve()}/'
    data: dict[str, Any] = {}
    for split, step in (('train', 2), ('val', 1), ('test', 1)):
        data[f'{split}_dataloader.dataset.data_root'] = root
        data[f'{split}_dataloader.dataset.pipeline.{step}.scale'] = tuple(args.scale)
        if split != 'train':
            data[f'{split}_evaluator.ann_file'] = f'{root}annotations/instances_val2017.json'
    training = {
        'model.student.backbone.init_cfg': None,
        'model.teacher.checkpoint': save_untrained(str(TEACHER), work_dir / 'teacher.pth'),
        'train_cfg.max_epochs': args.epochs,
        'train_cfg.val_interval': args.epochs,
        'default_hooks.logger.interval': 1,
        'optim_wrapper.clip_grad.max_norm': 10,
        'param_scheduler.0.end': 50,
        'randomness.seed': 0,
    }
    run = Run(str(CONFIG), work_dir / 'crg', {**data, **training})
    try:
        run.train()
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    # after so short a training no score reaches the usual threshold
    low = {**data, 'model.student.test_cfg.score_thr': 0.001}
    ours, ours_found = evaluate(TOOLS / 'test.py', CONFIG, run.checkpoint, work_dir / 'ours', low)
    low = {**data, 'model.test_cfg.score_thr': 0.001}
    theirs, theirs_found = evaluate(MMDET / 'tools' / 'test.py', PLAIN, run.checkpoint, work_dir / 'mmdet', low)

    lines = [line for line in run.scalars() if 'loss' in line]
    print(f'\n{len(lines)} iterations\n\n| term | mean of the first 20 | mean of the last 20 |\n|---|---:|---:|')
    for term in sorted(key for key in lines[0] if 'loss' in key):
        print(f'| {term} | {mean(x[term] for x in lines[:20]):.4f} | {mean(x[term] for x in lines[-20:]):.4f} |')
    print('\n| metric | distillation config, tools/test.py | student config, mmdet tools/test.py |\n|---|---:|---:|')
    for key, value in ours.items():
        print(f'| {key} | {value!r} | {theirs[key]!r} |')
    boxes = sum(len(prediction['scores']) for prediction in ours_found)
    equal = bool(ours) and ours == theirs and boxes > 0 and same(ours_found, theirs_found)
    verdict = 'metrics and predictions agree to the last digit' if equal else 'THEY DIFFER'
    print(f'\n{boxes} predicted boxes: {verdict}')
    return 0 if equal else 1


if __name__ == '__main__':
    with interruptible():
        sys.exit(main())
