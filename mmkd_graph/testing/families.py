"""Every family of mmdet's zoo as student: one distilled step, then predict, save, reload, predict the same.

Models keep their architecture; weights are random and nothing is downloaded. A family or pair can run in a process of
its own, under limits of time and memory.
"""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from .round_trip import CONFIGS, RoundTripError, find, offline, plain_failure, round_trip

RETINANET = 'retinanet/retinanet_r50_fpn_1x_coco.py'

SIDES = (128, 320, 512)
"""Sides of the images in pixels; a larger one is tried where a detector, plain or not, does not take the smaller."""

MOST_STUDENTS = 3
"""How many configs of a family are tried, as long as they are refused or fail without distillation too."""
OF_TEACHERS = ('model.taps: no common stride', 'model.teacher', 'model.taps.teacher')
"""How the reasons begin for which another teacher is tried."""

STATES = {
    'ok': 'works',
    'refused': 'refused',
    'absent': 'cannot be built here',
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


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    ``family`` is a folder of configs or the name of a pair, ``student`` and ``teacher`` are configs relative to
    ``mmdet::``, ``state`` is a key of :data:`STATES`. Strides and the ``side`` of images are in pixels, ``heads`` names
    the losses of heads that fit.
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
    heads: tuple[str, ...] = ()
    seconds: float = 0.0


def families() -> list[str]:
    """Folders of configs, but those that only hold parts of configs."""
    return sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ('_base_', 'common'))


def models_of(family: str) -> tuple[dict[str, ConfigDict], dict[str, str]]:
    """Model dicts of a family, smallest backbone first, and what could not be read, with the reason."""
    models: dict[str, ConfigDict] = {}
    unreadable: dict[str, str] = {}
    for path in sorted((CONFIGS / family).glob('*.py')):
        name = str(path.relative_to(CONFIGS))
        try:
            config = Config.fromfile(path)
        except Exception as error:  # a config is Python: anything can be wrong in it
            unreadable[name] = f'{type(error).__name__}: {" ".join(str(error).split())}'
        else:
            models |= {name: config.model} if 'model' in config else {}
    backbones = {name: x.get('backbone') or (x.get('detector') or {}).get('backbone') for name, x in models.items()}
    sizes = {text: backbone_size(backbone) for text, backbone in {repr(x): x for x in backbones.values()}.items()}
    order = sorted(models, key=lambda name: (sizes[repr(backbones[name])], len(name), name))
    return {name: models[name] for name in order}, unreadable


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


def try_family(family: str) -> Outcome:
    """The smallest config of a family as student; where that is not one that mmdet trains here, one of other parts."""
    models, unreadable = models_of(family)
    if not models:
        if not unreadable:
            return Outcome(family, state='refused', reason='no config with a model')
        name, reason = next(iter(unreadable.items()))
        return Outcome(family, student=name, state='absent', reason=reason)
    first: dict[frozenset[str], str] = {}
    for name, model in models.items():  # configs that are made of the same parts fail alike
        first.setdefault(frozenset(map(str, find(model, 'type'))), name)
    outcomes = []
    for student in list(first.values())[:MOST_STUDENTS]:
        outcomes.append(try_student(family, student, models))
        if outcomes[-1].state in ('ok', 'failed'):
            break
    *others, outcome = outcomes
    if outcome.state not in ('ok', 'failed'):
        return outcomes[0]
    reasons = [outcome.reason] if outcome.reason else []
    reasons += [f'{stem(other.student, family)} {STATES[other.state]}: {other.reason}' for other in others]
    return dataclasses.replace(outcome, reason='; '.join(reasons))


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
    taps = f' ({", ".join(f"{side}: {tap}" for side, tap in pair.taps.items())})' if pair.taps else ''
    row = dict(family=pair.name, student=pair.student, teacher=pair.teacher + taps)
    outcome = None
    for side in SIDES:
        try:
            trip = round_trip(student, teacher, side, taps=pair.taps)
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
            told = dict(strides=trip.strides, skipped=trip.skipped, predictions=trip.predictions, heads=trip.heads)
            return Outcome(**row, state='ok', side=side, **told)
    return outcome


def work(task: str | Pair, name: str, memory: int, log: Path, answer: Connection) -> None:
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
        answer.send(Outcome(name, reason=f'needs more than {memory / 2**30:g} GiB of memory (--memory)'))


def limited(task: str | Pair, seconds: float, memory: int, folder: Path) -> Outcome:
    """The outcome of a task in a process of its own."""
    name = task if isinstance(task, str) else task.name
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.models', 'mmdet.engine', 'torch._dynamo', 'mmkd_graph.distillers'])
    ours, theirs = context.Pipe(duplex=False)
    log = folder / f'{name.replace(" ", "-").replace(",", "")}.log'
    process = context.Process(target=work, args=(task, name, memory, log, theirs))
    begin = time.perf_counter()
    process.start()
    theirs.close()
    try:
        outcome = ours.recv() if ours.poll(seconds) else Outcome(name, reason=f'took more than {seconds:g} s')
    except EOFError:
        process.join()
        lines = log.read_text().strip().splitlines() if log.exists() else []
        outcome = Outcome(name, reason=f'exit code {process.exitcode}: {lines[-1] if lines else "no output"}')
    process.kill()
    process.join()
    return dataclasses.replace(outcome, seconds=round(time.perf_counter() - begin, 1))


def stem(name: str, family: str) -> str:
    return name.removeprefix(f'{family}/').replace('.py', '')
