"""Draw what distillation does to the student's channel graphs, and every loss term."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch import Tensor

from mmkd_graph.checkpoints import write_whole
from mmkd_graph.datasets.seeding import seed_generators
from mmkd_graph.distillers.rng import preserved_rng
from mmkd_graph.graph import cut_windows, unit_rows
from mmkd_graph.losses import DistillContext
from mmkd_graph.registry import HOOKS
from mmkd_graph.unwrapping import unwrapped
from mmkd_graph.visualization import laplacian_spectrum, plot_affinities, plot_losses, plot_spectra, window_affinity

WINDOW = 4
"""Cells per side of a window, as ``CRGLoss`` cuts them by default."""


@dataclass(frozen=True)
class _Graphs:
    """Channel graphs of one level at one moment, means over the windows of the probe images.

    Affinities of shape (C, C), and the m smallest eigenvalues of the Laplacians.
    """

    student: NDArray[np.float32]
    teacher: NDArray[np.float32]
    student_spectrum: NDArray[np.float32]
    teacher_spectrum: NDArray[np.float32]
    stride: int
    level: int
    num_images: int
    iteration: int


@HOOKS.register_module()
class GraphPicturesHook(Hook):
    """Leave pictures of the distillation in ``work_dir/pictures/``.

    - ``affinity.png``: the student's channel affinities before and after, beside the teacher's,
    - ``spectra.png``: the Laplacian spectra of the three graphs over each other,
    - ``losses.png``: every loss term over the iterations,

    and the numbers behind them: ``before.npz``, ``after.npz`` and ``losses.json``. A resumed run goes on with
    the curves and with the "before" of the run it continues. A detector that is not distilled (it offers no
    ``pyramids``) gets the losses only. The first two also go to the config's visualizer, as RGB images
    ``graph_affinity`` and ``graph_spectra``: to TensorBoard, W&B and ``vis_data/vis_image/``, whichever
    ``vis_backends`` names.

    The graphs are those of windows of 4 × 4 cells, means over all windows of a fixed probe batch: the first images
    of the validation set, or of the training set where there is none. Padding does not count. With an ``EMAHook``,
    "after" shows the averaged weights, which are the ones a checkpoint holds. Where student and teacher keep
    different widths (``adapter='never'``), their graphs are saved, not drawn. Training is the same to the last bit
    with and without this hook: it restores all random generators. Everything happens on the first rank; the losses
    are those of its batches.

    Args:
        level: which of the paired levels to draw; 0 is the finest one, negative numbers count from the end.
        num_images: images of the probe batch.
        interval: iterations between two recorded values of each loss.
        picture_interval: iterations between two drawings of the graphs; default: they are drawn at the end only.

    Raises:
        ValueError: if an argument is out of range; when training starts, if the distiller has no such level.

    Example:
        >>> custom_hooks = [dict(type='mmkd_graph.GraphPicturesHook', level=1, picture_interval=1000)]
    """

    priority = 'LOW'

    def __init__(
        self, level: int = 0, num_images: int = 4, interval: int = 10, picture_interval: int | None = None
    ) -> None:
        numbers = dict(num_images=num_images, interval=interval, picture_interval=picture_interval)
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f'GraphPicturesHook: {name} must be at least 1, got {value}')
        self.level, self.num_images, self.interval = level, num_images, interval
        self.picture_interval = picture_interval
        self._history: dict[str, list[list[float]]] = {}
        self._before: _Graphs | None = None

    def before_train(self, runner: Runner) -> None:
        """Keep the graphs of the untrained student, or read them when the run is a resumed one."""
        if not is_main_process():
            return
        folder = _folder(runner)
        history = folder / 'losses.json'
        recorded = json.loads(history.read_text()) if runner.iter and history.exists() else {}
        # What was recorded after the checkpoint is going to be trained again.
        self._history = {name: [x for x in points if x[0] <= runner.iter] for name, points in recorded.items()}
        if not hasattr(unwrapped(runner.model), 'compared_features'):
            return
        now = self._graphs(runner)
        self._before = _read_before(folder / 'before.npz', now) if runner.iter else None
        if self._before is None:
            self._before = now
            _write_graphs(folder / 'before.npz', now)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Record the scalars of this iteration; between the recorded ones nothing is read from the device."""
        iteration = runner.iter + 1
        if not is_main_process():
            return
        if outputs and (iteration % self.interval == 0 or iteration == 1):
            for name, value in outputs.items():
                if isinstance(value, torch.Tensor) and value.numel() == 1:
                    value = value.item()
                if isinstance(value, (int, float)):
                    self._history.setdefault(name, []).append([iteration, float(value)])
        # the last ones are drawn at the end of the training
        if self.picture_interval and iteration % self.picture_interval == 0 and iteration < runner.max_iters:
            self._draw(runner, iteration)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the curves with every checkpoint, so that a run resumed from it has their beginning."""
        if is_main_process() and self._history:
            write_whole(json.dumps(self._history).encode(), _folder(runner) / 'losses.json')

    def after_train(self, runner: Runner) -> None:
        """Draw the pictures."""
        if not is_main_process():
            return
        folder = _folder(runner)
        drawn = []
        if any('loss' in name for name in self._history):
            write_whole(json.dumps(self._history).encode(), folder / 'losses.json')
            plot_losses(self._history).savefig(folder / 'losses.png')
            drawn.append('losses.png')
        drawn += self._draw(runner, runner.iter)
        print_log(f'GraphPicturesHook: {", ".join(drawn) or "nothing to draw"} in {folder}', 'current')

    def _draw(self, runner: Runner, iteration: int) -> list[str]:
        """Draw the graphs as they are after ``iteration``; returns the names of the pictures."""
        if self._before is None:
            return []
        averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        for hook in averages:  # into the model, as in a validation, and out again
            hook.before_val_epoch(runner)
        after = replace(self._graphs(runner), iteration=iteration)
        for hook in reversed(averages):
            hook.after_val_epoch(runner)
        folder = _folder(runner)
        _write_graphs(folder / 'after.npz', after)
        figures = _figures(self._before, after)
        for name, figure in figures.items():
            path = folder / f'{name}.png'
            figure.savefig(path)
            image = mmcv.imread(str(path), channel_order='rgb')
            # no '/' in the name: LocalVisBackend would take it for a folder, and write nothing
            runner.visualizer.add_image(f'graph_{name}', image, iteration)
        return [f'{name}.png' for name in figures]

    def _graphs(self, runner: Runner) -> _Graphs:
        """Graphs of the probe batch at this moment; leaves no trace in the model or the random generators."""
        model = unwrapped(runner.model)
        with preserved_rng(), torch.no_grad():
            seed_generators(0)  # a training pipeline with random transforms has to give the same images again
            loader = runner.train_dataloader if runner.val_loop is None else runner.val_dataloader
            images = [loader.dataset[i] for i in range(min(self.num_images, len(loader.dataset)))]
            batch = model.data_preprocessor(loader.collate_fn(images), training=False)
            student, teacher = model.compared_features(batch['inputs'], batch['data_samples'])
            strides = model.strides
            if not -len(strides) <= self.level < len(strides):
                raise ValueError(
                    f'GraphPicturesHook: level={self.level}, but student and teacher share {len(strides)} '
                    f'levels, of strides {tuple(strides)}'
                )
            level = self.level % len(strides)
            context = DistillContext(batch['data_samples'], tuple(strides), tuple(batch['inputs'].shape[-2:]))
            valid = context.valid_cells(teacher[level], strides[level])
            rows = [_window_rows(pyramid[level], valid) for pyramid in (student, teacher)]
            graphs = [*map(window_affinity, rows), *map(laplacian_spectrum, rows)]
        return _Graphs(*graphs, int(strides[level]), level, len(batch['inputs']), runner.iter)


def _window_rows(features: Tensor, valid: Tensor) -> Tensor:
    """Unit rows (B, C, L) of the windows that hold a valid cell, of all images."""
    rows = unit_rows(cut_windows(torch.where(valid, features, 0), WINDOW))
    return rows[cut_windows(valid.float(), WINDOW).sum((2, 3)) > 0]


def _figures(before: _Graphs, after: _Graphs) -> dict[str, Figure]:
    """Both pictures of the graphs by name; none if the affinities are NaN or the widths differ."""
    matrices = (before.student, after.student, after.teacher)
    if len({matrix.shape for matrix in matrices}) > 1:  # adapter='never'
        widths = f'student {len(after.student)}, teacher {len(after.teacher)}'
        print_log(f'GraphPicturesHook: graphs of different size are not drawn (channels: {widths})', 'current')
        return {}
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        print_log('GraphPicturesHook: affinities are not finite, not drawn', 'current', logging.WARNING)
        return {}
    words: dict[str, Any] = {
        'name': f'level {after.level} (stride {after.stride})',
        'labels': tuple(f'at iteration {graphs.iteration}' for graphs in (before, after)),
    }
    spectra = (before.student_spectrum, after.student_spectrum, after.teacher_spectrum)
    return {'affinity': plot_affinities(*matrices, **words), 'spectra': plot_spectra(*spectra, **words)}


def _folder(runner: Runner) -> Path:
    folder = Path(runner.work_dir) / 'pictures'
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_graphs(path: Path, graphs: _Graphs) -> None:
    with io.BytesIO() as buffer:
        np.savez_compressed(buffer, **asdict(graphs))
        write_whole(buffer.getvalue(), path)


def _read_before(path: Path, now: _Graphs) -> _Graphs | None:
    """The graphs that an earlier part of this run left, or None where there are none of the same probe."""
    if path.exists():
        with np.load(path) as archive:
            values = {name: archive[name] for name in archive.files}
        if {field.name for field in fields(_Graphs)} == set(values):  # other versions wrote others
            scalars = {name: int(values.pop(name)) for name in ('stride', 'level', 'num_images', 'iteration')}
            before = _Graphs(**values, **scalars)
            if all(getattr(before, name) == getattr(now, name) for name in ('stride', 'level', 'num_images')):
                return before
    print_log(
        f'GraphPicturesHook: {path} is missing or belongs to another level, num_images or version; "before" will be '
        f'the state at iteration {now.iteration}',
        'current',
        logging.WARNING,
    )
    return None
