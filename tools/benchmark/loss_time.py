"""Time of the losses alone, forward and backward: how it grows, and what CRG's small matrices save.

Growth: one loss over the number of images N, of cells H*W, of channels C and of levels, each swept alone; the
exponent p of ``seconds = a + b * x^p`` is fitted with the constant a, which small problems consist of.

Windows: edges and spectrum of CRG over the size of a window, by matrices of channels × channels and by those of the
loss.

Example:
    loss_time.py
    loss_time.py --losses crg --rounds 30
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

import numpy as np
import torch
from mmdet.testing import demo_mm_inputs
from scipy.optimize import least_squares
from torch import Tensor

from mmkd_graph import graph
from mmkd_graph.engine.interrupts import ended_by_signals
from mmkd_graph.engine.measuring import Spread, alternate, machine, write_report
from mmkd_graph.losses import DistillContext, HeadLoss, HeadOutputs, HeadSpec, PyramidSpec
from mmkd_graph.registry import MODELS
from mmkd_graph.testing import LOSSES, smooth_maps

BOXES = 8
WINDOWS = (2, 3, 4, 5, 8)
START = dict(images=2, side=32, channels=128, levels=2)
SWEEPS: dict[str, Sequence[int]] = {
    'images': (1, 2, 4, 8, 16),
    'side': (16, 24, 32, 48, 64, 96),
    'channels': (64, 128, 192, 256, 384, 512),
    'levels': (2, 3, 4, 5),
}
"""What is swept, and the values; ``side`` is that of a square level and counts as side * side cells.

Channels are classes for losses of heads.
"""
BINS = 17
"""Values of a box edge, of GFL."""


def loss_call(config: dict, images: int, side: int, channels: int, levels: int, device: torch.device) -> Callable:
    """Forward and backward of one loss on levels that halve the side, down to 4."""
    sides = [max(side // 2**level, 4) for level in range(levels)]
    strides = tuple(8 * 2**level for level in range(levels))
    loss = MODELS.build(dict(config))

    def pyramid(seed: int, width: int) -> tuple[Tensor, ...]:
        return tuple(smooth_maps(seed, images, width, s).to(device) for s in sides)

    if isinstance(loss, HeadLoss):
        loss.bind(HeadSpec(strides, channels, sigmoid=True, bins=BINS, name='loss'))
        positives = tuple(x > 1 for x in pyramid(5, 1))
        student, teacher = (
            HeadOutputs(pyramid(seed, channels), pyramid(seed + 2, 4 * BINS), positives) for seed in (1, 2)
        )
        leaves = (*student.scores, *student.boxes)
    else:
        loss.bind(PyramidSpec(strides, (channels,) * levels, (channels,) * levels, 'loss'))
        student, teacher = leaves, _ = pyramid(1, channels), pyramid(2, channels)
    loss.to(device).train()
    for x in leaves:
        x.requires_grad_()
    size = (8 * side, 8 * side)
    samples = demo_mm_inputs(images, (3, *size), [BOXES] * images, 80)['data_samples']
    context = DistillContext(samples, strides, size)

    def run() -> None:
        for x in leaves:
            x.grad = None
        sum(loss(student, teacher, context).values()).backward()

    return run


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """p of ``seconds = a + b * size^p``, a, b >= 0, fitted to relative errors."""
    x, y = np.asarray(sizes) / max(sizes), np.asarray(seconds)

    def error(parameters: np.ndarray) -> np.ndarray:
        a, b, p = parameters
        return (a + b * x**p) / y - 1

    return float(least_squares(error, [y.min() / 2, y.max(), 1.5], bounds=([0, 0, 0.1], [np.inf, np.inf, 4])).x[2])


def growth(args: argparse.Namespace, device: torch.device) -> tuple[list[str], dict[str, Any]]:
    lines = ['| loss | swept | values | milliseconds | exponent |', '|---|---|---|---|---:|']
    found: dict[str, Any] = {}
    for name in args.losses:
        for swept, values in SWEEPS.items():
            calls = {}
            for value in values:
                calls[str(value)] = loss_call(LOSSES[name], **{**START, swept: value}, device=device)
            seconds = alternate(calls, args.rounds, 2, device)
            medians = [Spread.of(x).median for x in seconds.values()]
            sizes = [value**2 if swept == 'side' else value for value in values]
            power = exponent(sizes, medians)
            found[f'{name}/{swept}'] = dict(sizes=sizes, seconds=medians, exponent=power)
            milliseconds = ', '.join(f'{1000 * m:.1f}' for m in medians)
            what = 'cells' if swept == 'side' else swept
            lines.append(f'| {name} | {what} | {", ".join(map(str, sizes))} | {milliseconds} | {power:.2f} |')
    return lines, found


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """Edge and spectral distance of unit rows (N, K, C, L) by matrices of C × C, as the formulas are read."""
    affinities = [rows @ rows.mT for rows in (student, teacher)]
    edges = (affinities[0] - affinities[1]).square().sum((-2, -1))
    roots = [((1 + a) / 2).sum(-1, keepdim=True).sqrt() for a in affinities]
    graphs = [(1 + a) / 2 / root / root.mT for a, root in zip(affinities, roots, strict=True)]
    trivial = roots[1] / torch.linalg.vector_norm(roots[1], dim=-2, keepdim=True)
    embedding = graphs[1] - trivial @ trivial.mT
    return (edges + ((graphs[0] - graphs[1]) @ embedding).square().sum((-2, -1))).mean()


def small(student: Tensor, teacher: Tensor) -> Tensor:
    """The same by the matrices of the loss."""
    edges, _ = graph.edge_distance(student, teacher)
    embedding, _ = graph.spectral_distance(student, teacher)
    return (edges + embedding).mean()


def windows(args: argparse.Namespace, device: torch.device) -> tuple[list[str], dict[str, Any]]:
    """Time of edges and spectrum over the sizes of windows, and how far apart both ways are."""
    header = '| window | C × C, milliseconds | by cells | faster | value: relative difference |'
    lines = [header, '|---|---:|---:|---:|---:|']
    found: dict[str, Any] = {}
    features = [smooth_maps(seed, 2, args.graph_channels, 40).to(device) for seed in (1, 2)]
    for size in WINDOWS:
        rows = [graph.unit_rows(graph.cut_windows(x, size)) for x in features]
        student = rows[0].detach().requires_grad_()
        calls = {
            way.__name__: (lambda way=way, s=student, t=rows[1]: torch.autograd.grad(way(s, t), s))
            for way in (plain, small)
        }
        seconds = alternate(calls, args.rounds, 1, device)
        exact = plain(*(x.detach().double() for x in (student, rows[1])))
        difference = (small(student, rows[1]).double() / exact - 1).abs().item()
        speedup = Spread.of([a / b for a, b in zip(seconds['plain'], seconds['small'], strict=True)])
        found[str(size)] = dict(seconds=seconds, difference=difference)
        times = ' | '.join(f'{1000 * Spread.of(seconds[way]).median:.1f}' for way in ('plain', 'small'))
        interval = f'{speedup.median:.1f} ({speedup.low:.1f} to {speedup.high:.1f})'
        lines.append(f'| {size} | {times} | {interval} | {difference:.0e} |')
    lines += ['', f'Unit rows of 2 images, 40 × 40 cells, {args.graph_channels} channels; forward and backward.']
    return lines, found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--losses', nargs='+', choices=list(LOSSES), default=['crg'], help='whose growth')
    parser.add_argument('--graph-channels', type=int, default=256, help='of the graphs of windows')
    parser.add_argument('--rounds', type=int, default=15, help='at least 6')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/loss_time'), help='without suffix')
    args = parser.parse_args(argv)
    if args.rounds < 6:
        parser.error('--rounds: an interval of the median needs at least 6')
    device = torch.device(args.device)
    window_lines, window_found = windows(args, device)
    growth_lines, growth_found = growth(args, device)
    footer = f'Medians of {args.rounds} rounds on {machine(device)}.\n'
    content = dict(windows=window_found, growth=growth_found, machine=machine(device))
    write_report(args.out, '\n'.join([*window_lines, '', *growth_lines, '', footer]), content)
    return 0


if __name__ == '__main__':
    with ended_by_signals():
        sys.exit(main())
