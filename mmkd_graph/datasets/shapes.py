"""The demonstration set on disk: one rendering, read by mmdet's COCO and VOC datasets alike.

::

    <root>/manifest.json                         what the set was made from; written last
    <root>/annotations/instances_<split>.json    COCO; file names are relative to JPEGImages
    <root>/VOC2007/JPEGImages/<split>_<index>.jpg
    <root>/VOC2007/Annotations/<split>_<index>.xml
    <root>/VOC2007/ImageSets/Main/<split>.txt    and trainval.txt

Both layouts hold the same integer boxes, each in its own convention: COCO ``x, y, w, h`` from zero, VOC
one-based corners with the last pixel included. mmdet subtracts one from all four VOC corners, so the boxes
it reads from the VOC layout are one pixel narrower and lower than those from the COCO layout; its VOC metric
adds that pixel back.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from .scene import CLASSES, render_scene

GENERATOR = 'mmkd_graph.datasets.shapes'
VERSION = 1
"""Raised whenever the same parameters give another set."""
SPLITS = ('train', 'val', 'test')
LAYOUTS = ('coco', 'voc')
MANIFEST = 'manifest.json'
_JPEG_QUALITY = 90


def print_progress(done: int, total: int) -> None:
    """Print a line at every tenth of the way; a ``progress`` of :func:`generate_shapes`."""
    if done == total or done % max(1, total // 10) == 0:
        print(f'  {done}/{total} images', flush=True)


class _Thing(NamedTuple):
    """What the annotation files say of one object."""

    box: list[int]
    label: int
    difficult: bool
    area: int


def generate_shapes(
    root: str | os.PathLike[str],
    seed: int = 0,
    num_train: int = 800,
    num_val: int = 150,
    num_test: int = 200,
    image_size: tuple[int, int] = (256, 192),
    layouts: Sequence[str] = LAYOUTS,
    workers: int = 1,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Makes the set, or finds it complete and leaves it alone.

    The set is written beside ``root`` and moved there when it is whole, so ``root`` never holds a part of
    one. Each image depends on the seed, its split and its index only: the bytes are the same for any number
    of workers, and a larger set starts with the images of a smaller one. (JPEG encoders differ: the same
    bytes need the same OpenCV.)

    Args:
        root: folder of the set; created.
        seed: non-negative seed.
        num_train: images in the training split.
        num_val: images in the validation split.
        num_test: images in the test split.
        image_size: width and height in pixels.
        layouts: annotation layouts to write, of ``'coco'`` and ``'voc'``. The images are at the same place in
            either case.
        workers: rendering processes; one renders in this process.
        force: replace a set that was made with other parameters.
        progress: called after each image with the number done and the number of all.

    Returns:
        The manifest.

    Raises:
        ValueError: if a parameter is out of range.
        FileExistsError: if ``root`` holds a set made with other parameters and ``force`` is not given, or
            holds anything that is not such a set (that is never replaced).
    """
    counts = {'train': num_train, 'val': num_val, 'test': num_test}
    if seed < 0:
        raise ValueError(f'seed must not be negative, got {seed}')
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f'num_{split} must be at least 1, got {count}')
    if isinstance(layouts, str) or not layouts or set(layouts) - set(LAYOUTS):
        raise ValueError(f'layouts must be a non-empty selection of {LAYOUTS}, got {layouts!r}')
    if workers < 1:
        raise ValueError(f'workers must be at least 1, got {workers}')
    asked = {
        'generator': GENERATOR,
        'version': VERSION,
        'seed': seed,
        'counts': counts,
        'image_size': list(image_size),
        'layouts': sorted(layouts),
        'classes': list(CLASSES),
    }
    root = Path(root)
    found = _find(root, asked, force)
    if found is not None:
        return found

    root.parent.mkdir(parents=True, exist_ok=True)
    prefix = f'.{root.name}.partial-'
    for path in root.parent.glob(f'{prefix}*'):  # of killed runs: one that lives takes less than an hour
        if time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)
    partial = root.with_name(f'{prefix}{uuid.uuid4().hex}')
    partial.mkdir()
    try:
        _write_set(partial, asked, workers, progress)
        manifest = {**asked, 'sha256': _digest(partial)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    except BaseException:  # an interrupt too must not leave a half-made set behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _find(root: Path, asked: dict, force: bool) -> dict | None:
    """The manifest of a complete set that matches, or None where a set can be written."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        found = json.loads((root / MANIFEST).read_text())
        ours = found['generator'] == GENERATOR
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise FileExistsError(
            f'{root} exists and is not a set made by {GENERATOR}; it is left as it is. '
            'Give another root, or remove it yourself.'
        )
    if force:
        return None
    differing = [key for key, value in asked.items() if found.get(key) != value]
    if not differing:
        return found
    details = '; '.join(f'{key}: found {found.get(key)}, asked {asked[key]}' for key in differing)
    raise FileExistsError(
        f'{root} holds a set made with other parameters ({details}). '
        'Give --force (force=True) to replace it, or another root to keep both.'
    )


def _write_set(root: Path, asked: dict, workers: int, progress: Callable[[int, int], None] | None) -> None:
    folder = root / 'VOC2007' / 'JPEGImages'
    folder.mkdir(parents=True)
    tasks = [
        (folder, split, index, asked['seed'], tuple(asked['image_size']))
        for split in SPLITS
        for index in range(asked['counts'][split])
    ]
    with ExitStack() as stack:
        results = map(_render_one, tasks)
        if workers > 1:
            # Spawned, not forked: the caller may have threads running, of torch for instance.
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context('spawn')))
            stack.callback(pool.shutdown, cancel_futures=True)  # on an error, drop what has not begun
            results = pool.map(_render_one, tasks, chunksize=8)
        splits: dict[str, dict[str, list[_Thing]]] = {split: {} for split in SPLITS}
        for done, (task, (name, things)) in enumerate(zip(tasks, results, strict=True), start=1):
            splits[task[1]][name] = things
            if progress is not None:
                progress(done, len(tasks))
    for split, images in splits.items():
        if 'coco' in asked['layouts']:
            _write_coco(root, split, images, *asked['image_size'])
        if 'voc' in asked['layouts']:
            _write_voc(root, split, images, *asked['image_size'])


def _render_one(task: tuple[Path, str, int, int, tuple[int, int]]) -> tuple[str, list[_Thing]]:
    """Renders one image and stores it; returns its name and its objects."""
    folder, split, index, seed, size = task
    name = f'{split}_{index:05d}'
    sequence = np.random.SeedSequence((seed, SPLITS.index(split), index))
    scene = render_scene(np.random.default_rng(sequence), size)
    encoded = cv2.imencode('.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    (folder / f'{name}.jpg').write_bytes(encoded.tobytes())
    areas = np.bincount(scene.owner[scene.owner >= 0], minlength=len(scene.boxes))
    columns = (column.tolist() for column in (scene.boxes, scene.labels, scene.difficult, areas))
    return name, [_Thing(*row) for row in zip(*columns, strict=True)]


def _write_coco(root: Path, split: str, images: dict[str, list[_Thing]], width: int, height: int) -> None:
    annotations = []
    for image_id, things in enumerate(images.values(), start=1):
        for (x1, y1, x2, y2), label, difficult, area in things:
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 1,
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': area,
                    'iscrowd': int(difficult),
                }
            )
    content = {
        'info': {'description': f'Generated shapes, {split} split', 'version': str(VERSION)},
        'images': [
            {'id': image_id, 'file_name': f'{name}.jpg', 'width': width, 'height': height}
            for image_id, name in enumerate(images, start=1)
        ],
        'annotations': annotations,
        'categories': [{'id': number, 'name': name} for number, name in enumerate(CLASSES, start=1)],
    }
    path = root / 'annotations' / f'instances_{split}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _write_voc(root: Path, split: str, images: dict[str, list[_Thing]], width: int, height: int) -> None:
    annotations = root / 'VOC2007' / 'Annotations'
    listings = root / 'VOC2007' / 'ImageSets' / 'Main'
    annotations.mkdir(exist_ok=True)
    listings.mkdir(parents=True, exist_ok=True)
    for name, things in images.items():
        tree = ET.ElementTree(_voc_annotation(name, things, width, height))
        ET.indent(tree)
        tree.write(annotations / f'{name}.xml')
    listing = ''.join(f'{name}\n' for name in images)
    (listings / f'{split}.txt').write_text(listing)
    if split in ('train', 'val'):
        with (listings / 'trainval.txt').open('a') as file:
            file.write(listing)


def _voc_annotation(name: str, things: Sequence[_Thing], width: int, height: int) -> ET.Element:
    annotation = ET.Element('annotation')
    _add_texts(annotation, folder='VOC2007', filename=f'{name}.jpg')
    _add_texts(ET.SubElement(annotation, 'size'), width=width, height=height, depth=3)
    for (x1, y1, x2, y2), label, difficult, _ in things:
        item = ET.SubElement(annotation, 'object')
        truncated = x1 == 0 or y1 == 0 or x2 == width or y2 == height
        _add_texts(item, name=CLASSES[label], truncated=int(truncated), difficult=int(difficult))
        _add_texts(ET.SubElement(item, 'bndbox'), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    return annotation


def _add_texts(parent: ET.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ET.SubElement(parent, tag).text = str(text)


def _digest(root: Path) -> str:
    """One hash of all paths and contents, to compare sets from two machines at a glance."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob('*') if path.is_file()):
        content = path.read_bytes()
        digest.update(f'{path.relative_to(root).as_posix()}\0{len(content)}\0'.encode())
        digest.update(content)
    return digest.hexdigest()
