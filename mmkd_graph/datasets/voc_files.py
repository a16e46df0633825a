"""Look through the annotation files of a VOC data set."""

from __future__ import annotations

import contextlib
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import SECONDS, Expected, Listings, image_size, look_at_images
from .problems import ERROR, WARNING, Problem, Problems, are_numbers, is_far_outside, listed, shown

_LARGEST = (65535, 65535)
"""Width and height in pixels that no JPEG exceeds."""


def check_voc(
    file: str | os.PathLike[str],
    classes: Sequence[str],
    folder: str | os.PathLike[str],
    img_subdir: str = 'JPEGImages',
    ann_subdir: str = 'Annotations',
    test_mode: bool = False,
    bbox_min_size: int | None = None,
    key: str = '',
    turned: bool = True,
    seconds: float = SECONDS,
) -> list[Problem]:
    """Look through the XML files that a split of a VOC data set names, and the headers of its images.

    Args:
        file: the split: one image name per line, without its suffix.
        classes: the class names of the detector.
        folder: folder of ``img_subdir`` and ``ann_subdir``.
        img_subdir: name of the folder of ``<name>.jpg``.
        ann_subdir: name of the folder of ``<name>.xml``.
        test_mode: nothing is trained on it.
        bbox_min_size: pixels below which a training ignores a box (``filter_cfg``).
        key: config key, for the problems.
        turned: whether the images' EXIF orientation counts, see :func:`~mmkd_graph.datasets.images.image_size`.
        seconds: time for the images' headers; 0 leaves them alone.

    Returns:
        What was found, errors first.
    """
    problems = Problems(file, key)
    try:
        names = Path(file).read_bytes().decode('utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(ERROR, '', f'it cannot be read as UTF-8 text: {error}')
        return problems.all()
    reader = _Reader({*classes}, test_mode, bbox_min_size or 0, problems)
    files, there = Listings(), []
    for i, name in enumerate(names):
        place = f'line {i + 1}'
        image = os.path.join(folder, img_subdir, f'{name}.jpg')
        if image not in files:
            problems.add(ERROR, place, f'there is no image {image}', f'no such image in {os.path.dirname(image)}')
        path = Path(folder, ann_subdir, f'{name}.xml')
        if str(path) not in files:
            problems.add(ERROR, place, f'there is no annotation {path}', f'no such file in {path.parent}')
            continue
        size = reader.read(path, image)
        if image in files:
            there.append(Expected(image, size, '', str(path)))
    if not reader.usable:
        rest = f' ({reader.ignored} are difficult or too small)' if reader.ignored else ''
        problems.add(ERROR, '', f'no object of any of the classes {listed([*classes])} in the {len(names)} files{rest}')
    if seconds:
        look_at_images(there, problems, turned, seconds)
    return problems.all()


@dataclass
class _Reader:
    """Reads XML files; counts the boxes that are trained on, and those that are ignored."""

    classes: set[str]
    test_mode: bool
    min_size: int
    problems: Problems
    usable: int = 0
    ignored: int = 0

    def read(self, path: Path, image: str) -> tuple[int, int] | None:
        """Look through one file; returns the image's (width, height) that it says."""
        try:
            root = ET.parse(path).getroot()
        except ET.ParseError as error:
            line, column = error.position
            what = 'not in the encoding that it declares, or broken XML'
            self.problems.add(ERROR, f'line {line}, column {column + 1}', f'{what}: {error}', what, path)
            return None
        except (LookupError, ValueError, OSError) as error:
            self.problems.add(ERROR, '', f'it cannot be read: {error}', 'annotations that cannot be read', path)
            return None
        size = real = self._size(root, path)
        items = root.findall('object')
        if size is None and items:
            with contextlib.suppress(ValueError):  # reported with the images
                real = image_size(image)  # as mmdet does
        for i, item in enumerate(items):
            self._look(item, f'object {i + 1} ({item.findtext("name")})', real or _LARGEST, path)
        return size

    def _size(self, root: ET.Element, path: Path) -> tuple[int, int] | None:
        if (size := root.find('size')) is None:
            return None
        for name in ('width', 'height'):
            text = size.findtext(name) or ''
            if not re.fullmatch(r'\s*\d{1,9}\s*', text) or int(text) == 0:
                what = f'{shown(size.findtext(name))}: accepted is an integer > 0'
                self.problems.add(ERROR, f'size.{name}', what, f'{name} is no integer > 0', path)
                return None
        return int(size.findtext('width')), int(size.findtext('height'))

    def _look(self, item: ET.Element, place: str, size: tuple[int, int], path: Path) -> None:
        """One object, read as ``XMLDataset`` reads it."""
        name = item.findtext('name')
        corners = [item.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        values = [_parsed(text, float) for text in corners]
        difficult = item.find('difficult')
        hard = _parsed(difficult.text, int) if difficult is not None else 0
        if name is None:
            self.problems.add(ERROR, place, 'it has no name', file=path)
        elif name not in self.classes:
            what = f'{shown(name)} is none of the classes: the object is left out'
            self.problems.add(WARNING, place, what, file=path)
        elif hard is None:
            what = f'difficult {shown(difficult.text)}: accepted is an integer'
            self.problems.add(ERROR, place, what, 'difficult is no integer', path)
        elif not are_numbers(*values):
            what = f'bndbox {corners}: accepted are four numbers'
            self.problems.add(ERROR, place, what, 'bndbox is not what it should be', path)
        elif is_far_outside(values, size):
            what = f'bndbox {values} is far outside of the image of {size[0]}x{size[1]}'
            self.problems.add(ERROR, place, what, 'boxes far outside of their image', path)
        else:
            self._count([int(value) for value in values], hard, place, size, path)

    def _count(self, box: Sequence[int], hard: int, place: str, size: tuple[int, int], path: Path) -> None:
        smallest = min(box[2] - box[0], box[3] - box[1])
        if smallest <= 0:  # its logarithm is a target of the training
            if self.test_mode or self.min_size >= 1:
                self.problems.add(WARNING, place, f'bndbox {box} has no area', 'boxes without area', path)
            else:
                what = f'bndbox {box} has no area; filter_cfg=dict(bbox_min_size=1) makes it an ignored one'
                self.problems.add(ERROR, place, what, 'boxes without area', path)
        elif box[2] <= 0 or box[3] <= 0 or box[0] >= size[0] or box[1] >= size[1]:
            what = f'bndbox {box} has no pixel in the image of {size[0]}x{size[1]}'
            self.problems.add(WARNING, place, what, 'boxes without a pixel', path)
        if not self.test_mode and (hard or smallest < self.min_size):
            self.ignored += 1
        elif smallest > 0:
            self.usable += 1


def _parsed(text: str | None, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text or '')
    except ValueError:
        return None
