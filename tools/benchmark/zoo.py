"""Every family of mmdet's zoo as student: one distilled step with CRG, then predict, save, reload, predict the same.

Of every folder of configs inside the installed mmdet the config with the smallest backbone is the student, and the
next larger one of the folder its teacher; where there is none, a RetinaNet. Models keep their architecture, weights are
random and nothing is downloaded. ``--pairs`` takes students and teachers of different families instead.

Every family runs in a process of its own under a time and a memory limit. What is finished is kept in a JSON lines
file and not done again unless asked. Exit code 1 if a family fails that works without distillation.

Example:
    zoo.py
    zoo.py --pairs
    zoo.py --families retinanet yolox --again
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.measuring import write_report
from mmkd_graph.testing.families import RETINANET, STATES, Outcome, Pair, families, limited, stem

PACKAGES = (
    *('torch', 'mmengine', 'mmcv', 'mmdet', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'),
    *('mmpretrain', 'onedl-mmpretrain', 'timm', 'torchvision', 'scikit-learn', 'transformers', 'fairscale', 'lap'),
)
"""The stacks, and packages without which some families cannot be built or trained."""

FASTER = 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
FCOS = 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
GFL = 'gfl/gfl_r50_fpn_1x_coco.py'
SMALL = 'retinanet/retinanet_r18_fpn_1x_coco.py'
_BACKBONES = dict(student='backbone', teacher='backbone')

PAIRS = (
    Pair('two-stage teacher', SMALL, FASTER),
    Pair('one-stage teacher', FASTER, GFL),
    Pair('anchor-free teacher', 'yolox/yolox_tiny_8xb8-300e_coco.py', FCOS),
    Pair('one stride of five', 'yolof/yolof_r50-c5_8xb8-1x_coco.py', RETINANET),
    Pair('three strides of five', 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', GFL),
    Pair('SSD against a pyramid', 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', RETINANET),
    Pair('pad divisor 1 and 32, other norm', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'atss/atss_r50_fpn_1x_coco.py'),
    Pair('pad divisor 32 and 128', SMALL, 'mask_rcnn/mask-rcnn_r50_fpn_1x-wandb_coco.py'),
    Pair('caffe BGR student', FCOS, RETINANET),
    Pair('caffe BGR teacher', SMALL, 'retinanet/retinanet_r50-caffe_fpn_1x_coco.py'),
    Pair('instance-segmentation teacher', FCOS, 'solov2/solov2_r50_fpn_1x_coco.py'),
    Pair('Swin teacher', SMALL, 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    Pair('PVT teacher', 'atss/atss_r50_fpn_1x_coco.py', 'pvt/retinanet_pvt-t_fpn_1x_coco.py'),
    Pair('DETR-like teacher', SMALL, 'dino/dino-4scale_r50_8xb2-12e_coco.py'),
    Pair('DETR-like student', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', RETINANET),
    Pair('backbone to backbone', 'centernet/centernet_r18_8xb16-crop512-140e_coco.py', RETINANET, _BACKBONES),
    Pair('backbone to neck', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', FASTER),
)


def finished(path: Path) -> dict[str, Outcome]:
    """The rows of a JSON lines file; of several about one family the last."""
    if not path.exists():
        return {}
    return {row['family']: Outcome(**row) for row in map(json.loads, path.read_text().splitlines())}


def table(outcomes: list[Outcome], what: str) -> str:
    """The outcomes in markdown."""
    header = f'| {what} | student | teacher | | strides paired | predictions compared | losses of heads |'
    lines = [header, '|---|---|---|---|---|---:|---|']
    for row in outcomes:
        says = STATES[row.state] + (f': {row.reason}' if row.reason else '')
        names = (row.family, stem(row.student, row.family), stem(row.teacher, row.family))
        counted = row.predictions if row.state == 'ok' else ''
        heads = ' '.join(name.removesuffix('Loss') for name in row.heads)
        cells = (*names, says.replace('|', '\\|'), ' '.join(map(str, row.strides)), str(counted), heads)
        lines.append(f'| {" | ".join(cells)} |')
    counts = {state: sum(row.state == state for row in outcomes) for state in STATES}
    lines += ['', f'{len(outcomes)}: ' + ', '.join(f'{n} {STATES[state]}' for state, n in counts.items() if n) + '.']
    lines += ['', f'Packages: {", ".join(packages())}.']
    return '\n'.join(lines) + '\n'


def packages() -> list[str]:
    """Names and versions of the installed packages that say which families can run."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f'{name} {version(name)}')
        except PackageNotFoundError:
            continue
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--families', nargs='+', metavar='FAMILY', help='default: all')
    parser.add_argument('--pairs', action='store_true', help='pairs of different families instead')
    parser.add_argument('--again', action='store_true', help='also what is finished')
    parser.add_argument('--seconds', type=float, default=300, help='limit for each')
    parser.add_argument('--memory', type=float, default=10, help='limit for each, in GiB')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/zoo'), help='folder')
    args = parser.parse_args(argv)
    unknown = sorted(set(args.families or ()) - set(families()))
    if unknown:
        parser.error(f'--families: {", ".join(unknown)}; accepted: {", ".join(families())}')
    if args.families and args.pairs:
        parser.error('--families selects families, --pairs leaves them out; accepted: one of them')
    return args


def main(argv: list[str] | None = None, run: Callable[..., Outcome] = limited) -> int:
    args = parse_args(argv)
    what = 'pairs' if args.pairs else 'families'
    tasks = {pair.name: pair for pair in PAIRS} if args.pairs else {name: name for name in families()}
    wanted = args.families or list(tasks)
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f'{what}.jsonl'
    done = finished(kept)
    for name in wanted:
        if name in done and not args.again:
            continue
        done[name] = run(tasks[name], args.seconds, int(args.memory * 2**30), args.out)
        with kept.open('a') as file:
            file.write(json.dumps(dataclasses.asdict(done[name])) + '\n')
        print(f'{name}: {STATES[done[name].state]} {done[name].reason} ({done[name].seconds:.0f} s)', flush=True)
    outcomes = [done[name] for name in wanted]
    rows = [dataclasses.asdict(row) for row in outcomes]
    write_report(args.out / what, table(outcomes, 'pair' if args.pairs else 'family'), rows)
    return int(any(row.state == 'failed' for row in outcomes))


if __name__ == '__main__':
    with ended_by_signals(lambda: 'the same command goes on'):
        sys.exit(main())
