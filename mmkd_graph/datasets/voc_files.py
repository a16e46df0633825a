"""Look through the annotation files of a VOC data set."""

from __future__ import annotations

import contextlib
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd_graph.findings import FAIL, WARNING, Finding

from .images import SECONDS, Expected, Listings, image_size, look_at_images
from .metainfo import similar_name
from .problems import Problems, are_numbers, is_far_outside, listed, shown

_LARGEST = (65535, 65535)
"""Width and height in pixels that no JPEG exceeds."""
_NAMES = 10
"""Names of objects that a line tells."""


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
) -> list[Finding]:
    """Look through the XML files that a split of a VOC data set names, and the headers of its images.

    Args:
        file: the split: one image name per line, without its suffix.
        classes: the class names of the detector.
        folder: folder of ``img_subdir`` (``<name>.jpg``) and ``ann_subdir`` (``<name>.xml``).
        test_mode: nothing is trained on it.
        bbox_min_size: pixels below which a training ignores a box (``filter_cfg``).
        key, turned, seconds: see :func:`~mmkd_graph.datasets.coco_files.read_coco`.

    Returns:
        What was found, errors first.
    """
    problems = Problems(file, key)
    try:
        names = Path(file).read_bytes().decode('utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(FAIL, '', f'it cannot be read as UTF-8 text: {error}')
        return problems.all()
    reader = _Reader([*classes], test_mode, bbox_min_size or 0, problems)
    files, there = Listings(), []
    for i, name in enumerate(names):
        place = f'line {i + 1}'
        image = os.path.join(folder, img_subdir, f'{name}.jpg')
        if image not in files:
            problems.add(FAIL, place, f'there is no image {image}', f'no such image in {os.path.dirname(image)}')
        path = Path(folder, ann_subdir, f'{name}.xml')
        if str(path) not in files:
            problems.add(FAIL, place, f'there is no annotation {path}', f'no such file in {path.parent}')
            continue
        size = reader.read(path, image)
        if image in files:
            there.append(Expected(image, size, '', str(path)))
    reader.compare_names()
    if not reader.usable:
        rest = f' ({reader.ignored} are difficult or too small)' if reader.ignored else ''
        problems.add(FAIL, '', f'no object of any of the classes {listed([*classes])} in the {len(names)} files{rest}')
    if seconds:
        look_at_images(there, problems, turned, seconds)
    return problems.all()


@dataclass
class _Reader:
    """Reads XML files; counts the boxes that are trained on, those that are ignored, and all by their names."""

    classes: list[str]
    test_mode: bool
    min_size: int
    problems: Problems
    usable: int = 0
    ignored: int = 0
    names: Counter[str] = field(default_factory=Counter)

    def compare_names(self) -> None:
        """Say which names of the files are none of the classes, and which class is one of them, misspelt."""
        others = Counter({name: count for name, count in self.names.items() if name not in self.classes})
        if not others:
            return
        told = ', '.join(f'{name} ({count})' for name, count in others.most_common(_NAMES))
        told += f' and {len(others) - _NAMES} more' if len(others) > _NAMES else ''
        absent = [name for name in self.classes if name not in self.names]
        similar = {name: like for name in absent if (like := similar_name(name, others))}
        if similar and not self.test_mode:
            meant = ', '.join(f'{shown(name)} (did you mean {shown(like)}?)' for name, like in similar.items())
            what = f'no object of the classes {meant} of metainfo.classes; the files have, besides: {told}'
            self.problems.add(FAIL, '', what)
        else:
            self.problems.add(WARNING, '', f'boxes of classes that the config does not ask for: {told}')

    def read(self, path: Path, image: str) -> tuple[int, int] | None:
        """Look through one file; returns the image's (width, height) that it says."""
        try:
            root = ET.parse(path).getroot()
        except ET.ParseError as error:
            line, column = error.position
            what = 'not in the encoding that it declares, or broken XML'
            self.problems.add(FAIL, f'line {line}, column {column + 1}', f'{what}: {error}', what, path)
            return None
        except (LookupError, ValueError, OSError) as error:
            self.problems.add(FAIL, '', f'it cannot be read: {error}', 'annotations that cannot be read', path)
            return None
        size = real = self._size(root, path)
        items = root.findall('object')
        if size is None and items:
            with contextlib.suppress(ValueError):  # reported with the images
                real = image_size(image)  # as mmdet does
        for i, item in enumerate(items):
            if wrong := self._look(item, real or _LARGEST):
                severity, message, kind = wrong
                self.problems.add(severity, f'object {i + 1} ({item.findtext("name")})', message, kind, path)
        return size

    def _size(self, root: ET.Element, path: Path) -> tuple[int, int] | None:
        if (size := root.find('size')) is None:
            return None
        for name in ('width', 'height'):
            text = size.findtext(name) or ''
            if not re.fullmatch(r'\s*\d{1,9}\s*', text) or int(text) == 0:
                what = f'{shown(size.findtext(name))}: accepted is an integer > 0'
                self.problems.add(FAIL, f'size.{name}', what, f'{name} is no integer > 0', path)
                return None
        return int(size.findtext('width')), int(size.findtext('height'))

    def _look(self, item: ET.Element, size: tuple[int, int]) -> tuple[str, str, str] | None:
        """Severity, message and kind of what is wrong with an object, read as ``XMLDataset`` reads it."""
        name = item.findtext('name')
        corners = [item.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        values = [_parsed(text, float) for text in corners]
        difficult = item.find('difficult')
        hard = _parsed(difficult.text, int) if difficult is not None else 0
        if name is None:
            return FAIL, 'it has no name', ''
        self.names[name] += 1
        if name not in self.classes:
            return None  # left out; :meth:`compare_names` says so
        if hard is None:
            return FAIL, f'difficult {shown(difficult.text)}: accepted is an integer', 'difficult is no integer'
        if not are_numbers(*values):
            return FAIL, f'bndbox {corners}: accepted are four numbers', 'bndbox is not what it should be'
        image = f'the image of {size[0]}x{size[1]}'
        if is_far_outside(values, size):
            return FAIL, f'bndbox {values} is far outside of {image}', 'boxes far outside of their image'
        box = [int(value) for value in values]
        smallest = min(box[2] - box[0], box[3] - box[1])
        if not self.test_mode and (hard or smallest < self.min_size):
            self.ignored += 1
        elif smallest > 0:
            self.usable += 1
        if smallest <= 0:  # its logarithm is a target of the training
            if self.test_mode or self.min_size >= 1:
                return WARNING, f'bndbox {box} has no area', 'boxes without area'
            advice = 'filter_cfg=dict(bbox_min_size=1) makes it an ignored one'
            return FAIL, f'bndbox {box} has no area; {advice}', 'boxes without area'
        if box[2] <= 0 or box[3] <= 0 or box[0] >= size[0] or box[1] >= size[1]:
            return WARNING, f'bndbox {box} has no pixel in {image}', 'boxes without a pixel'
        return None


def _parsed(text: str | None, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text or '')
    except ValueError:
        return None
