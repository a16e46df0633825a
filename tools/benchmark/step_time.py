"""Time and memory of one distilled training step, against the floor: student step + teacher ``extract_feat``.

Whole steps through ``train_step`` (preprocessing, forward, backward, optimizer) on random images and random weights.
Every round measures the student alone, the teacher's features alone and every path once, in changing order; the ratio
``path / (student + teacher)`` is taken within the round. Two kinds of paths are no methods:

- ``… alone``: no step, but forward and backward of the loss on the pyramids of the batch: what it costs;
- ``whole teacher``: the teacher runs its head and losses too, as it is done elsewhere.

Peak memory (``--memory``) is that of three steps of a path by itself: on CUDA that of tensors, models and optimizer
included, on a CPU that of a process, over what importing takes.

Example:
    step_time.py --rounds 20 --memory
    step_time.py --paths 'no loss' crg 'crg alone' --rounds 40
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmkd_graph.distillers.taps import as_pyramid, recorded
from mmkd_graph.distillers.teacher import FrozenTeacher, resolve_model_config
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.measuring import Spread, alternate, machine, write_report
from mmkd_graph.losses import DistillContext, PyramidLoss
from mmkd_graph.losses.base import Pyramid
from mmkd_graph.registry import MODELS
from mmkd_graph.testing import LOSSES


@MODELS.register_module()
class NoLoss(PyramidLoss):
    """Teacher and student run, nothing is compared: what memory is measured against."""

    def forward(self, student: Pyramid, teacher: Pyramid, context: DistillContext) -> dict[str, Tensor]:
        return dict(nothing=student[0].new_zeros(()))


class WholeTeacher:
    """A frozen teacher that runs its head and its losses as well."""

    def __init__(self, teacher: FrozenTeacher, samples: list) -> None:
        self._teacher, self._samples = teacher, samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        teacher = self._teacher
        with recorded(teacher.model.get_submodule(teacher.tap)) as outputs:
            teacher.model.loss(inputs, self._samples)
        return as_pyramid(outputs[-1], 'teacher')


CRG = 'mmkd_graph.CRGLoss'
PATHS: dict[str, dict] = {
    'no loss': dict(type='NoLoss'),
    'crg, vertex': dict(type=CRG, edge_weight=0, spectral_weight=0),
    'crg, edge': dict(type=CRG, vertex_weight=0, spectral_weight=0),
    'crg, spectral': dict(type=CRG, vertex_weight=0, edge_weight=0),
    'crg, whole maps': dict(type=CRG, window=1024),
    'crg alone': dict(type=CRG),
    'whole teacher': dict(type=CRG),
    **LOSSES,
}
ALONE = ' alone'
STUDENT = 'student'


class Bench:
    """Models and steps of one configuration."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        init_default_scope('mmdet')
        torch.manual_seed(0)
        self._student_config = resolve_model_config(args.student, '--student')
        self._teacher_config = resolve_model_config(args.teacher, '--teacher')
        self.student = MMDET_MODELS.build(copy.deepcopy(self._student_config)).to(self.device).train()
        self.teacher: FrozenTeacher | None = None
        classes = getattr(getattr(self.student, 'bbox_head', None), 'num_classes', 2)
        self._data = demo_mm_inputs(args.batch, (3, *args.size), [args.boxes] * args.batch, classes)

    def step(self, model: nn.Module) -> Callable[[], object]:
        """One training step of a model, through ``train_step`` and an optimizer of its own."""
        config: dict[str, Any] = dict(optimizer=dict(type='SGD', lr=1e-6, momentum=0.9))
        if self.args.dtype != 'float32':
            config |= dict(type='AmpOptimWrapper', dtype=self.args.dtype)
        wrapper = build_optim_wrapper(model, config)
        data = copy.deepcopy(self._data)
        return lambda: model.train_step(data, wrapper)

    def distiller(self, loss: Mapping) -> nn.Module:
        """The student in a distiller with one loss; all distillers share the teacher."""
        teacher = dict(config=self._teacher_config, strict=False)
        config = dict(
            type='mmkd_graph.GraphDistiller', student=self._student_config, teacher=teacher, losses=dict(kd=loss)
        )
        model = MMDET_MODELS.build(copy.deepcopy(config))
        if self.teacher is not None:
            model.pyramids.teacher = self.teacher
        self.teacher = model.teacher
        return model.to(self.device).train()

    def path(self, name: str) -> Callable[[], object]:
        model = self.distiller(PATHS[name])
        if name.endswith(ALONE):
            return self.loss(model)
        if name == 'whole teacher':
            samples = self._prepared(model)[1]
            model.pyramids.teacher = WholeTeacher(model.teacher, samples)
        return self.step(model)

    def loss(self, model: nn.Module) -> Callable[[], object]:
        """Forward and backward of a distiller's loss, down to the student's pyramid."""
        with torch.no_grad():
            _, pair = model.pyramids.run(model.student.loss, *self._prepared(model))
            student = tuple(x.requires_grad_() for x in model.distill.adapter(pair.student))

        def run() -> None:
            torch.autograd.grad(sum(model.distill.losses['kd'](student, pair.teacher, pair.context).values()), student)

        return run

    def features(self) -> Callable[[], object]:
        """The teacher's ``extract_feat`` on a preprocessed batch."""
        inputs, _ = self._prepared(self.student)
        enabled = self.args.dtype != 'float32'
        dtype = getattr(torch, self.args.dtype) if enabled else None

        def run() -> None:
            with torch.autocast(self.device.type, dtype=dtype, enabled=enabled):
                self.teacher(inputs)

        return run

    def _prepared(self, model: nn.Module) -> tuple[Tensor, list]:
        data = model.data_preprocessor(copy.deepcopy(self._data), True)
        return data['inputs'], data['data_samples']


def memory_of(name: str, args: argparse.Namespace) -> int:
    """Peak memory of three steps, in bytes over what was taken before; on a CPU for a process of its own."""
    cuda = torch.device(args.device).type == 'cuda'
    if cuda:
        gc.collect()
        torch.cuda.reset_peak_memory_stats(args.device)
        before = torch.cuda.memory_allocated(args.device)
    else:
        before = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    bench = Bench(args)
    run = bench.step(bench.student) if name == STUDENT else bench.path(name)
    if name != STUDENT:
        bench.student.cpu()
    for _ in range(3):
        run()
    if cuda:
        return torch.cuda.max_memory_allocated(args.device) - before
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def memories(names: list[str], args: argparse.Namespace) -> dict[str, int]:
    """:func:`memory_of`, on a CPU in fresh processes whose allocator gives large blocks back at once."""
    found = {}
    environment = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}
    for name in names:
        if torch.device(args.device).type == 'cuda':
            found[name] = memory_of(name, args)
        else:
            command = [sys.executable, __file__, *sys.argv[1:], '--memory-of', name]
            output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            found[name] = int(output.rsplit('MEMORY ', 1)[1])
        print(f'{name}: {found[name] / 2**20:.0f} MiB', flush=True)
    return found


def report(args: argparse.Namespace, seconds: dict[str, list[float]], peaks: dict[str, int], where: str) -> str:
    floor = [a + b for a, b in zip(seconds[STUDENT], seconds['teacher'], strict=True)]
    lines = [
        '| path | seconds | ratio to student + teacher | 95 % interval | peak memory, MiB | over no loss |',
        '|---|---:|---:|---:|---:|---:|',
    ]
    base = peaks.get('no loss')
    for name, values in seconds.items():
        ratio = interval = ''
        if name not in (STUDENT, 'teacher'):
            spread = Spread.of([value / low for value, low in zip(values, floor, strict=True)])
            ratio, interval = f'{spread.median:.3f}', f'{spread.low:.3f} to {spread.high:.3f}'
        peak = f'{peaks[name] / 2**20:.0f}' if name in peaks else ''
        over = f'{peaks[name] / base:.3f}' if base and name in peaks and ratio else ''
        lines.append(f'| {name} | {Spread.of(values).median:.3f} | {ratio} | {interval} | {peak} | {over} |')
    height, width = args.size
    lines += [
        '',
        f'{args.student} <- {args.teacher}, {args.batch} x 3 x {height} x {width}, {args.dtype}; medians of '
        f'{args.rounds} alternating rounds on {where}.',
    ]
    return '\n'.join(lines) + '\n'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--student', default='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', help='config')
    parser.add_argument('--teacher', default='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', help='config')
    parser.add_argument('--batch', type=int, default=2, help='images')
    parser.add_argument('--size', type=int, nargs=2, default=(320, 320), metavar=('H', 'W'), help='in pixels')
    parser.add_argument('--boxes', type=int, default=8, help='per image')
    parser.add_argument(
        '--paths',
        nargs='+',
        choices=list(PATHS),
        default=[name for name in PATHS if name != 'ld'],  # the default student has no distributions of edges
        metavar='PATH',
        help='to measure',
    )
    parser.add_argument('--rounds', type=int, default=20, help='measured rounds, at least 6')
    parser.add_argument('--warmup', type=int, default=2, help='rounds before them')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--memory', action='store_true', help='measure peak memory too, each path by itself')
    parser.add_argument('--memory-of', choices=[STUDENT, *PATHS], help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/step_time'), help='without suffix')
    args = parser.parse_args(argv)
    if args.rounds < 6:
        parser.error('--rounds: an interval of the median needs at least 6')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.memory_of:
        print(f'MEMORY {memory_of(args.memory_of, args)}')
        return 0
    measured: dict[str, int] = {}
    if args.memory:  # first: a child's peak begins with what its parent holds
        measured = memories([STUDENT, *(name for name in args.paths if not name.endswith(ALONE))], args)
    bench = Bench(args)
    paths = {name: bench.path(name) for name in args.paths}  # the first one builds the teacher
    steps = {STUDENT: bench.step(bench.student), 'teacher': bench.features(), **paths}
    seconds = alternate(steps, args.rounds, args.warmup, bench.device)
    where = machine(bench.device)
    text = report(args, seconds, measured, where)
    arguments = {k: str(v) for k, v in vars(args).items()}
    write_report(args.out, text, dict(seconds=seconds, peak_bytes=measured, machine=where, arguments=arguments))
    return 0


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
