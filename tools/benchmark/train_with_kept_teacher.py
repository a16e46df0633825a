"""``tools/train.py`` with a teacher that keeps its features of every image it has seen in a folder.

A frozen teacher gives the same features for the same image. Where a data set is small and augmented by little more
than flips, as those of the benchmarks are, all methods and seeds together see few different images, and the teacher
need run once for each of them. ``MMKD_KEPT_TEACHER`` names the folder; features are found by teacher and image.
"""

from __future__ import annotations

import hashlib
import os
import runpy
from collections.abc import Callable
from pathlib import Path

from mmkd_graph.engine.start import start

if __name__ == '__main__':
    start()

import torch
from torch import Tensor

from mmkd_graph.distillers.teacher import FrozenTeacher
from mmkd_graph.losses.base import Pyramid


def digest(*tensors: Tensor, words: str = '') -> str:
    """A name for the values, shapes and dtypes of some tensors."""
    state = hashlib.blake2b(words.encode(), digest_size=16)
    for tensor in tensors:
        state.update(f'{tuple(tensor.shape)} {tensor.dtype}'.encode())
        state.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def kept(
    extract: Callable[[FrozenTeacher, Tensor], Pyramid], folder: Path
) -> Callable[[FrozenTeacher, Tensor], Pyramid]:
    """``extract``, but for each image once: its features are kept in ``folder``, one file per teacher and image."""
    folders: dict[int, Path] = {}

    def remembered(teacher: FrozenTeacher, inputs: Tensor) -> Pyramid:
        if id(teacher) not in folders:
            weights = teacher.model.state_dict().values()
            folders[id(teacher)] = folder / digest(*weights, words=f'{teacher.model} {teacher.tap}')
            folders[id(teacher)].mkdir(parents=True, exist_ok=True)
        autocast = str(torch.is_autocast_enabled(inputs.device.type))
        paths = [folders[id(teacher)] / f'{digest(image, words=autocast)}.pt' for image in inputs]
        if new := [i for i, path in enumerate(paths) if not path.exists()]:
            for i, *levels in zip(new, *extract(teacher, inputs[new]), strict=True):
                part = paths[i].with_suffix(f'.{os.getpid()}')
                # a view would be saved with the whole batch
                torch.save([level.cpu().clone() for level in levels], part)
                part.replace(paths[i])
        images = [torch.load(path, map_location=inputs.device, weights_only=True) for path in paths]
        return tuple(torch.stack(levels) for levels in zip(*images, strict=True))

    return remembered


if __name__ == '__main__':
    FrozenTeacher.__call__ = kept(FrozenTeacher.__call__, Path(os.environ['MMKD_KEPT_TEACHER']))
    runpy.run_path(str(Path(__file__).resolve().parents[1] / 'train.py'), run_name='__main__')
