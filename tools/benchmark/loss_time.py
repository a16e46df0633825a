"""Time of the losses alone, forward and backward: how it grows, and the spectral term against ``eigh`` with autograd.

Growth: one loss over the number of images N, of cells H*W, of channels C and of levels, each swept alone; the
exponent p of ``seconds = a + b * x^p`` is fitted with the constant a, which small problems consist of.

Spectral term: every distance and solver on the same graphs, against the same distance through ``torch.linalg.eigh`` and
autograd; the cosine and the relative difference of the gradients are against that in float64. Its solvers: time and
error on graphs with a gap, without one, and of a level of nine cells.

Example:
    python tools/benchmark/loss_time.py
    python tools/benchmark/loss_time.py --losses crg --rounds 30
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from scipy.optimize import least_squares
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

from samples import random_samples
from timing import Spread, alternate, machine

from mmkd_graph import graph
from mmkd_graph.losses.channel_graph_loss import TAPERED_DEGREE
from mmkd_graph.losses.interface import DistillContext, PyramidLoss, PyramidSpec
from mmkd_graph.registry import MODELS

LOSSES: dict[str, dict] = {
    'crg': dict(type='ChannelGraphLoss'),
    'mhgd': dict(type='AttentionGraphLoss'),
    'lfcc': dict(type='LowFrequencyContrastiveLoss'),
    'refilled': dict(type='RelationshipMatchingLoss', num_classes=80),
    'fitnet': dict(type='FeatureMSELoss'),
    'cwd': dict(type='ChannelWiseLoss'),
    'pkd': dict(type='PearsonLoss'),
    'fgd': dict(type='FocalGlobalLoss'),
    'mgd': dict(type='MaskedGenerativeLoss'),
}
BOXES = 8
START = dict(images=2, side=32, channels=128, levels=2)
SWEEPS: dict[str, Sequence[int]] = {
    'images': (1, 2, 4, 8, 16),
    'side': (16, 24, 32, 48, 64, 96),
    'channels': (64, 128, 192, 256, 384, 512),
    'levels': (2, 3, 4, 5),
}
"""What is swept, and the values; ``side`` is that of a square level and counts as side * side cells."""


def maps(images: int, channels: int, side: int, seed: int, device: torch.device) -> Tensor:
    """Features whose channels hang together: mixtures of 24 smooth random patterns, and noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = F.avg_pool2d(torch.randn(images, 24, side, side, generator=generator), 3, 1, 1)
    mixed = torch.einsum('ck,nkhw->nchw', torch.randn(channels, 24, generator=generator), patterns)
    noise = torch.randn(images, channels, side, side, generator=generator)
    return (mixed + 0.3 * noise).to(device)


def loss_call(config: dict, images: int, side: int, channels: int, levels: int, device: torch.device) -> Callable:
    """Forward and backward of one loss on levels that halve the side, down to 4."""
    sides = [max(side // 2**level, 4) for level in range(levels)]
    strides = tuple(8 * 2**level for level in range(levels))
    with DefaultScope.overwrite_default_scope('mmkd_graph'):
        loss: PyramidLoss = MODELS.build(dict(config))
    loss.bind(PyramidSpec(strides, (channels,) * levels, (channels,) * levels, 'loss'))
    loss.to(device).train()
    student = tuple(maps(images, channels, s, 1, device).requires_grad_() for s in sides)
    teacher = tuple(maps(images, channels, s, 2, device) for s in sides)
    size = (8 * side, 8 * side)
    context = DistillContext(random_samples(images, size, BOXES, 80), strides, size)

    def run() -> None:
        for x in student:
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
            seconds, _ = alternate(calls, args.rounds, 2, device)
            medians = [Spread.of(x).median for x in seconds.values()]
            sizes = [value**2 if swept == 'side' else value for value in values]
            power = exponent(sizes, medians)
            found[f'{name}/{swept}'] = dict(sizes=sizes, seconds=medians, exponent=power)
            milliseconds = ', '.join(f'{1000 * m:.1f}' for m in medians)
            what = 'cells' if swept == 'side' else swept
            lines.append(f'| {name} | {what} | {", ".join(map(str, sizes))} | {milliseconds} | {power:.2f} |')
    return lines, found


def projection_by_autograd(laplacian_s: Tensor, laplacian_t: Tensor, k: int) -> Tensor:
    vectors_s, vectors_t = (torch.linalg.eigh(x).eigenvectors[..., :k] for x in (laplacian_s, laplacian_t))
    return 1 - (vectors_t.mT @ vectors_s).square().sum((-2, -1)) / k


def residual_by_autograd(laplacian_s: Tensor, laplacian_t: Tensor, k: int) -> Tensor:
    spectrum = graph.Spectrum(*(x[..., : k + 1] for x in torch.linalg.eigh(laplacian_t)))
    return graph.residual_distance(laplacian_s, laplacian_t, spectrum, taper=True)


def residual_fast(weights_s: Tensor, laplacian_t: Tensor, k: int, solver: str) -> Tensor:
    spectrum = graph.spectral_embedding(laplacian_t, k + 1, solver, degree=TAPERED_DEGREE)
    return graph.residual_of_weights(weights_s, laplacian_t, spectrum, taper=True)


def spectral(args: argparse.Namespace, device: torch.device) -> tuple[list[str], dict[str, Any]]:
    """Time and gradient, down to the student's edge weights."""
    k, graphs, channels = args.k, args.graphs, args.graph_channels
    affinity_s, affinity_t = (graph.channel_affinity(maps(graphs, channels, 20, seed, device)) for seed in (1, 2))
    weights_t = graph.adjacency(affinity_t)
    laplacian_t = graph.normalized_laplacian(weights_t)
    weights = graph.adjacency(affinity_s).requires_grad_()

    def dense(distance: Callable) -> Callable:
        return lambda w, t: distance(graph.normalized_laplacian(w), t, k)

    reference = {'projection': dense(projection_by_autograd), 'residual': dense(residual_by_autograd)}
    paths: dict[str, tuple[str, Callable]] = {
        'projection, eigh with autograd': ('projection', reference['projection']),
        'projection, exact': ('projection', dense(graph.projection_distance)),
        'projection, subspace': (
            'projection',
            dense(lambda s, t, k: graph.projection_distance(s, t, k, solver='subspace')),
        ),
        'residual, exact': ('residual', lambda w, t: residual_fast(w, t, k, 'exact')),
        'residual, subspace (default)': ('residual', lambda w, t: residual_fast(w, t, k, 'subspace')),
    }

    def gradient(distance: Callable, weights: Tensor, laplacian: Tensor) -> Tensor:
        return torch.autograd.grad(distance(weights, laplacian).mean(), weights)[0]

    def edges(grad: Tensor) -> Tensor:
        return (grad - torch.diag_embed(grad.diagonal(dim1=-2, dim2=-1))).double().flatten()

    exact = {
        name: edges(gradient(distance, weights.double().detach().requires_grad_(), laplacian_t.double()))
        for name, distance in reference.items()
    }
    calls = {name: (lambda d=distance: gradient(d, weights, laplacian_t)) for name, (_, distance) in paths.items()}
    seconds, peaks = alternate(calls, args.rounds, 1, device)
    base = seconds['projection, eigh with autograd']
    lines = [
        '| spectral term | milliseconds | faster than eigh with autograd | gradient: cosine | relative difference |',
        '|---|---:|---:|---:|---:|',
    ]
    found: dict[str, Any] = {}
    for name, (kind, distance) in paths.items():
        grad = edges(gradient(distance, weights, laplacian_t))
        cosine = F.cosine_similarity(grad, exact[kind], dim=0).item()
        difference = ((grad - exact[kind]).norm() / exact[kind].norm()).item()
        speedup = Spread.of([b / x for b, x in zip(base, seconds[name], strict=True)])
        median = Spread.of(seconds[name]).median
        found[name] = dict(seconds=seconds[name], cosine=cosine, difference=difference, peak_bytes=peaks.get(name))
        lines.append(
            f'| {name} | {1000 * median:.1f} | {speedup.median:.1f} ({speedup.low:.1f} to {speedup.high:.1f}) | '
            f'{cosine:.5f} | {difference:.1e} |'
        )
    lines += ['', f'{graphs} graphs of {channels} channels, k = {k}. Gradients against the same distance in float64.']
    return lines, found


def solvers(args: argparse.Namespace, device: torch.device) -> tuple[list[str], dict[str, Any]]:
    """Time and error of the tapered embedding by each way to solve for it."""
    k, count, channels = args.k + 1, args.graphs, args.graph_channels

    def laplacian(features: Tensor) -> Tensor:
        return graph.normalized_laplacian(graph.adjacency(graph.channel_affinity(features)))

    # The first half are the graphs of the step before, for the warm start: same network, other images.
    kinds = {
        'patterns': maps(2 * count, channels, 20, 2, device),
        'noise': torch.randn(2 * count, channels, 20, 20, generator=torch.Generator().manual_seed(2)).to(device),
        'nine cells': maps(2 * count, channels, 3, 2, device),
    }
    lines = ['| graphs | solver | milliseconds | error: median | largest |', '|---|---|---:|---:|---:|']
    found: dict[str, Any] = {}
    for kind, features in kinds.items():
        before, now = laplacian(features).split(count)
        start = graph.spectral_embedding(before, k + 11).vectors
        ways: dict[str, Callable] = {
            'exact': lambda now=now: graph.spectral_embedding(now, k),
            'subspace': lambda now=now: graph.spectral_embedding(now, k, 'subspace'),
            f'subspace, degree {TAPERED_DEGREE} (the loss)': lambda now=now: graph.spectral_embedding(
                now, k, 'subspace', degree=TAPERED_DEGREE
            ),
            'subspace, warm start, one round': lambda now=now, start=start: graph.spectral_embedding(
                now, k, 'subspace', start=start
            ),
        }
        exact = tapered_projector(graph.spectral_embedding(now.double(), k))
        seconds, _ = alternate(ways, args.rounds, 1, device)
        for name, way in ways.items():
            difference = torch.linalg.matrix_norm(tapered_projector(way()).double() - exact)
            error = difference / torch.linalg.matrix_norm(exact).clamp(min=1e-3)
            median, largest = error.median().item(), error.max().item()
            time = Spread.of(seconds[name]).median
            found[f'{kind}/{name}'] = dict(seconds=seconds[name], median=median, largest=largest)
            lines.append(f'| {kind} | {name} | {1000 * time:.1f} | {median:.0e} | {largest:.0e} |')
    lines += ['', f'{count} graphs of {channels} channels, k = {args.k}; error of the tapered projector, relative.']
    return lines, found


def tapered_projector(spectrum: graph.Spectrum) -> Tensor:
    """The positive part of (cut-off - Laplacian), scaled to norm 1: what the tapered residual sees of the teacher."""
    values, vectors = spectrum
    last = values[:, -1:]
    weight = (last - values).clamp(min=0) / (last - values[:, :1]).clamp(min=1e-3)
    return (vectors * weight.square().unsqueeze(-2)) @ vectors.mT


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(SWEEPS), figsize=(4 * len(SWEEPS), 3.6), layout='constrained')
    for ax, swept in zip(axes, SWEEPS, strict=True):
        for key, result in found.items():
            name, what = key.split('/')
            if what == swept:
                label = f'{name}, exponent {result["exponent"]:.2f}'
                ax.loglog(result['sizes'], [1000 * s for s in result['seconds']], 'o-', label=label)
        ax.set_xlabel('cells of a level' if swept == 'side' else swept)
        ax.set_ylabel('milliseconds, forward and backward')
        ax.grid(alpha=0.3, which='both')
        ax.legend(fontsize=8)
    figure.suptitle(
        'How the time of a loss grows; what is not swept: '
        f'{START["images"]} images, {START["side"]}x{START["side"]} cells, {START["channels"]} channels, 2 levels'
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--losses', nargs='+', choices=list(LOSSES), default=['crg'], help='whose growth')
    parser.add_argument('--graphs', type=int, default=80, help='of the spectral term')
    parser.add_argument('--graph-channels', type=int, default=256, help='of the spectral term')
    parser.add_argument('--k', type=int, default=16, help='eigenvectors')
    parser.add_argument('--rounds', type=int, default=15, help='at least 6')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark/loss_time'), help='without suffix')
    args = parser.parse_args(argv)
    if args.rounds < 6:
        parser.error('--rounds: an interval of the median needs at least 6')
    device = torch.device(args.device)
    spectral_lines, spectral_found = spectral(args, device)
    solver_lines, solver_found = solvers(args, device)
    growth_lines, growth_found = growth(args, device)
    text = '\n'.join(
        [
            *spectral_lines,
            '',
            *solver_lines,
            '',
            *growth_lines,
            '',
            f'Medians of {args.rounds} rounds on {machine(device)}.',
            '',
        ]
    )
    print(f'\n{text}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix('.md').write_text(text)
    content = dict(spectral=spectral_found, solvers=solver_found, growth=growth_found, machine=machine(device))
    args.out.with_suffix('.json').write_text(json.dumps(content, indent=1))
    draw(growth_found, args.out.with_suffix('.png'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
