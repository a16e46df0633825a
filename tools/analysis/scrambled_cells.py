"""Draw what each term of CRG says of features whose cells are scrambled, over the size of the windows.

The features are smooth random ones. The student's are the teacher's with all cells of the map permuted, alike in all
channels; each value is a share of what the term says of another image's features, a mean over seeds. There is no
attention.

Example:
    scrambled_cells.py docs/scrambled_cells.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmkd_graph.losses import CRGLoss, DistillContext, PyramidSpec
from mmkd_graph.testing import smooth_maps
from mmkd_graph.visualization.canvas import new_figure

WINDOWS = (1, 2, 3, 4, 5, 8, 40)
SIDE = 40
"""Cells per side of the map; a window of that size is the whole map."""

TERMS = ('vertex', 'edge', 'spectral')


def shares(windows: tuple[int, ...] = WINDOWS, seeds: int = 5, channels: int = 64) -> dict[str, NDArray[np.float64]]:
    """Values of scrambled cells as shares of those of another image: (seeds, windows) for each term."""
    context = DistillContext(data_samples=(), strides=(8,), batch_shape=(8 * SIDE, 8 * SIDE))
    found = {term: np.zeros((seeds, len(windows))) for term in TERMS}
    for seed in range(seeds):
        teacher, other = smooth_maps(seed, 2, channels, SIDE).split(1)  # of two images
        order = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(seed))
        scrambled = teacher.flatten(2)[..., order].view_as(teacher)
        for i, window in enumerate(windows):
            loss = CRGLoss(window=window, temperature=None)
            loss.bind(PyramidSpec((8,), (channels,), (channels,), 'crg'))
            seen, most = (loss((x,), (teacher,), context) for x in (scrambled, other))
            for term in TERMS:
                found[term][seed, i] = seen[term] / most[term]
    return found


def draw(found: dict[str, NDArray[np.float64]], windows: tuple[int, ...] = WINDOWS) -> Figure:
    """The shares over the windows, a line for each term."""
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    for (term, values), marker in zip(found.items(), 'os^', strict=True):
        axes.plot(range(len(windows)), values.mean(axis=0), marker=marker, label=term)
    axes.set_xticks(range(len(windows)), [*map(str, windows[:-1]), 'whole map'])
    axes.set(xlabel='cells per side of a window', ylabel='value, share of another image’s')
    axes.set_ylim(bottom=-0.05)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title('What the terms say of scrambled cells', fontsize=11)
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='picture to write, .png')
    parser.add_argument('--seeds', type=int, default=5, help='of the features')
    args = parser.parse_args(arguments)
    found = shares(seeds=args.seeds)
    print(f'| term | {" | ".join(map(str, WINDOWS[:-1]))} | whole map |')
    print(f'|---|{"---:|" * len(WINDOWS)}')
    for term, values in found.items():
        print(f'| {term} | {" | ".join(f"{x:.2f}" for x in values.mean(axis=0))} |')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(args.out, dpi=90)
    return 0


if __name__ == '__main__':
    sys.exit(main())
