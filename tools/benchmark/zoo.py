"""Every family of mmdet's zoo as student: one distilled step with CRG, then predict, save, reload, predict the same.

Of every folder of configs inside the installed mmdet the config with the smallest backbone is the student, and the
next larger one of the folder its teacher; where there is none, a RetinaNet. Models keep their architecture, weights are
random and nothing is downloaded. ``--pairs`` takes students and teachers of different families instead.

Every family runs in a process of its own under a time and a memory limit. What is finished is kept in a JSON lines
file and not done again unless asked. Exit code 1 if a family fails that works without distillation.

Example:
    python tools/benchmark/zoo.py
    python tools/benchmark/zoo.py --pairs
    python tools/benchmark/zoo.py --families retinanet yolox --again
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

sys.path.insert(0, str(Path(__file__).resolve().parent))

from round_trip import CONFIGS, RoundTripError, find, offline, plain_failure, round_trip

RETINANET = 'retinanet/retinanet_r50_fpn_1x_coco.py'

SIDES = (128, 320, 512)
"""Sides of the images in pixels; a larger one is tried where a detector, plain or not, does not take the smaller."""

MOST_STUDENTS = 3
"""How many configs of a family are tried, as long as they are refused or fail without distillation too."""
OF_TEACHERS = ('model.taps: no common stride', 'model.teacher', 'model.taps.teacher')
"""How the reasons begin for which another teacher is tried."""

PACKAGES = (
    *('torch', 'mmengine', 'mmcv', 'mmdet', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection'),
    *('mmpretrain', 'onedl-mmpretrain', 'timm', 'torchvision', 'scikit-learn', 'transformers', 'fairscale', 'lap'),
)
"""The stacks, and packages without which some families cannot be built or trained."""

STATES = {
    'ok': 'works',
    'refused': 'refused',
    'absent': 'can not be built here',
    'mmdet': 'fails without distillation too',
    'failed': 'FAILED',
}


@dataclass(frozen=True)
class Pair:
    """Student and teacher of different kinds, with further arguments of the distiller."""

    name: str
    student: str
    teacher: str
    taps: dict[str, str] | None = None


PAIRS = (
    Pair('two-stage teacher', 'retinanet/retinanet_r18_fpn_1x_coco.py', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'),
    Pair('one-stage teacher', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'gfl/gfl_r50_fpn_1x_coco.py'),
    Pair('anchor-free teacher', 'yolox/yolox_tiny_8xb8-300e_coco.py', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'),
    Pair('one stride of five', 'yolof/yolof_r50-c5_8xb8-1x_coco.py', 'retinanet/retinanet_r50_fpn_1x_coco.py'),
    Pair('three strides of five', 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', 'gfl/gfl_r50_fpn_1x_coco.py'),
    Pair('SSD against a pyramid', 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', RETINANET),
    Pair('pad divisor 1 and 32, other norm', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'atss/atss_r50_fpn_1x_coco.py'),
    Pair(
        'pad divisor 32 and 128',
        'retinanet/retinanet_r18_fpn_1x_coco.py',
        'mask_rcnn/mask-rcnn_r50_fpn_1x-wandb_coco.py',
    ),
    Pair(
        'caffe BGR student',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'retinanet/retinanet_r50_fpn_1x_coco.py',
    ),
    Pair(
        'caffe BGR teacher',
        'retinanet/retinanet_r18_fpn_1x_coco.py',
        'retinanet/retinanet_r50-caffe_fpn_1x_coco.py',
    ),
    Pair(
        'instance-segmentation teacher',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'solov2/solov2_r50_fpn_1x_coco.py',
    ),
    Pair('Swin teacher', 'retinanet/retinanet_r18_fpn_1x_coco.py', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    Pair('PVT teacher', 'atss/atss_r50_fpn_1x_coco.py', 'pvt/retinanet_pvt-t_fpn_1x_coco.py'),
    Pair('DETR-like teacher', 'retinanet/retinanet_r18_fpn_1x_coco.py', 'dino/dino-4scale_r50_8xb2-12e_coco.py'),
    Pair('DETR-like student', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', RETINANET),
    Pair(
        'backbone to backbone',
        'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
        RETINANET,
        dict(student='backbone', teacher='backbone'),
    ),
    Pair(
        'backbone to neck',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    ),
)


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    Attributes:
        family: folder of configs, or the name of a pair.
        student: config, relative to ``mmdet::``.
        teacher: config, relative to ``mmdet::``.
        state: a key of :data:`STATES`.
        reason: why not, in one line.
        strides: paired, in pixels per cell.
        skipped: strides that only one side has.
        side: of the images in pixels.
        predictions: how many were compared.
        seconds: of everything, reading the configs included.
    """

    family: str
    student: str = ''
    teacher: str = ''
    state: str = 'failed'
    reason: str = ''
    strides: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    side: int = 0
    predictions: int = 0
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------------ configs


def families() -> list[str]:
    """Folders of configs, but those that only hold parts of configs."""
    return sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ('_base_', 'common'))


def models_of(family: str) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Model dicts of a family, smallest backbone first, and what could not be read, with the reason."""
    found: dict[str, tuple[int, ConfigDict]] = {}
    unreadable: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for path in sorted((CONFIGS / family).glob('*.py')):
        name = str(path.relative_to(CONFIGS))
        try:
            config = Config.fromfile(path)
        except Exception as error:  # a config is Python: anything can be wrong in it
            unreadable[name] = f'{type(error).__name__}: {" ".join(str(error).split())}'
            continue
        if 'model' in config:
            model = config.model
            backbone = model.get('backbone') or (model.get('detector') or {}).get('backbone')
            key = repr(backbone)
            if key not in sizes:
                sizes[key] = backbone_size(backbone)
            found[name] = (sizes[key], model)
    order = sorted(found, key=lambda name: (found[name][0], len(name), name))
    return {name: found[name][1] for name in order}, unreadable


def backbone_size(backbone: Mapping | None) -> int:
    """Number of weights, for an order; those that cannot be built come last."""
    if backbone is None:
        return sys.maxsize
    config = offline(backbone, SIDES[0])
    for device in ('meta', 'cpu'):  # some constructors read values, which meta tensors do not have
        try:
            with torch.device(device):
                return sum(p.numel() for p in MMDET_MODELS.build(copy.deepcopy(config)).parameters())
        except Exception:  # what cannot be built says why when it is its turn
            continue
    return sys.maxsize


def read(name: str) -> ConfigDict:
    """The model dict of one config."""
    return Config.fromfile(CONFIGS / name).model


# ------------------------------------------------------------------------------------------------ one family


def try_family(family: str) -> Outcome:
    """The smallest config of a family as student; where that is not one that mmdet trains here, one of other parts."""
    models, unreadable = models_of(family)
    if not models:
        if not unreadable:
            return Outcome(family, state='refused', reason='no config with a model')
        name, reason = next(iter(unreadable.items()))
        return Outcome(family, student=name, state='absent', reason=reason)
    outcomes = []
    for student in different(models):
        outcomes.append(try_student(family, student, models))
        if outcomes[-1].state in ('ok', 'failed'):
            break
    *others, outcome = outcomes
    if outcome.state not in ('ok', 'failed'):
        return outcomes[0]
    reasons = [outcome.reason] if outcome.reason else []
    reasons += [f'{_stem(other.student, family)} {STATES[other.state]}: {other.reason}' for other in others]
    return dataclasses.replace(outcome, reason='; '.join(reasons))


def different(models: Mapping[str, ConfigDict]) -> list[str]:
    """The first few configs that are made of different parts: those of the same parts fail alike."""
    first: dict[frozenset[str], str] = {}
    for name, model in models.items():
        first.setdefault(frozenset(map(str, find(model, 'type'))), name)
    return list(first.values())[:MOST_STUDENTS]


def try_student(family: str, student: str, models: Mapping[str, ConfigDict]) -> Outcome:
    """One config as student of the first teacher that fits: a larger one, another one, or a RetinaNet."""
    names = list(models)
    later = names[names.index(student) + 1 :]
    larger = [name for name in later if repr(models[name].get('backbone')) != repr(models[student].get('backbone'))]
    candidates: list[tuple[str, dict | None]] = [(name, None) for name in (larger or later)[:1]]
    # a RetinaNet has the strides 8 to 128, its backbone 4 to 32
    candidates += [(RETINANET, None), (RETINANET, dict(teacher='backbone'))]
    for teacher, taps in candidates:
        pair = Pair(family, student, teacher, taps)
        outcome = try_pair(pair, models[student], models[teacher] if teacher in models else read(teacher))
        if not outcome.reason.startswith(OF_TEACHERS):
            return outcome
    return outcome


def try_pair(pair: Pair, student: ConfigDict | None = None, teacher: ConfigDict | None = None) -> Outcome:
    """One pair on growing images, until the student takes them."""
    student, teacher = student or read(pair.student), teacher or read(pair.teacher)
    extra: dict[str, Any] = dict(taps=pair.taps) if pair.taps else {}
    shown = (
        pair.teacher if not pair.taps else f'{pair.teacher} ({", ".join(f"{k}: {v}" for k, v in pair.taps.items())})'
    )
    row = dict(family=pair.name, student=pair.student, teacher=shown)
    outcome = None
    for side in SIDES:
        try:
            trip = round_trip(student, teacher, side, **extra)
        except RoundTripError as error:
            print(f'{side} pixels: {error}')
            traceback.print_exception(error)
            if error.stage == 'build':
                missing = error.reason.startswith('model.student') and 'could not be built' in error.reason
                state = 'absent' if missing else 'mmdet' if 'extract_feat fails' in error.reason else 'refused'
                return Outcome(**row, state=state, reason=error.reason, side=side)
            plain = plain_failure(student, side)
            state, reason = ('failed', str(error)) if plain is None else ('mmdet', plain)
            if outcome and outcome.reason == reason:
                return outcome
            outcome = Outcome(**row, state=state, reason=reason, side=side)
        else:
            return Outcome(
                **row, state='ok', strides=trip.strides, skipped=trip.skipped, side=side, predictions=trip.predictions
            )
    return outcome


# ------------------------------------------------------------------------------------------------ processes


def work(task: str | Pair, memory: int, log: Path, answer: Connection) -> None:
    """What a process does: one family or pair, with its output in a file and its memory limited."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')
    init_default_scope('mmdet')
    MMLogger.get_instance('mmengine').setLevel('WARNING')  # every weight that is initialised is a line of INFO
    try:
        answer.send(try_family(task) if isinstance(task, str) else try_pair(task))
    except MemoryError:
        traceback.print_exc()
        name = task if isinstance(task, str) else task.name
        answer.send(Outcome(name, reason=f'needs more than {memory / 2**30:g} GiB of memory (--memory)'))


def limited(task: str | Pair, seconds: float, memory: int, folder: Path) -> Outcome:
    """The outcome of a task in a process of its own."""
    name = task if isinstance(task, str) else task.name
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.models', 'mmdet.engine', 'torch._dynamo', 'mmkd_graph.distillers'])
    ours, theirs = context.Pipe(duplex=False)
    log = folder / f'{name.replace(" ", "-").replace(",", "")}.log'
    process = context.Process(target=work, args=(task, memory, log, theirs))
    begin = time.perf_counter()
    process.start()
    theirs.close()
    try:
        outcome = ours.recv() if ours.poll(seconds) else Outcome(name, reason=f'took more than {seconds:g} s')
    except EOFError:
        process.join()
        lines = log.read_text().strip().splitlines() if log.exists() else []
        reason = f'exit code {process.exitcode}: {lines[-1] if lines else "no output"}'
        outcome = Outcome(name, reason=reason)
    process.kill()
    process.join()
    return dataclasses.replace(outcome, seconds=round(time.perf_counter() - begin, 1))


def finished(path: Path) -> dict[str, Outcome]:
    """The rows of a JSON lines file; of several about one family the last."""
    if not path.exists():
        return {}
    rows: Iterator[dict] = map(json.loads, path.read_text().splitlines())
    return {row['family']: Outcome(**row) for row in rows}


def table(outcomes: list[Outcome], what: str) -> str:
    """The outcomes in markdown."""
    lines = [
        f'| {what} | student | teacher | | strides paired | predictions compared |',
        '|---|---|---|---|---|---:|',
    ]
    for row in outcomes:
        says = STATES[row.state] + (f': {row.reason}' if row.reason else '')
        cells = [
            row.family,
            _stem(row.student, row.family),
            _stem(row.teacher, row.family),
            says.replace('|', '\\|'),
            ' '.join(map(str, row.strides)),
            str(row.predictions) if row.state == 'ok' else '',
        ]
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


def _stem(name: str, family: str) -> str:
    return name.removeprefix(f'{family}/').replace('.py', '')


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
    text = table(outcomes, 'pair' if args.pairs else 'family')
    print(f'\n{text}')
    (args.out / f'{what}.md').write_text(text)
    (args.out / f'{what}.json').write_text(json.dumps([dataclasses.asdict(row) for row in outcomes], indent=1))
    return int(any(row.state == 'failed' for row in outcomes))


if __name__ == '__main__':
    sys.exit(main())
