"""Look through the annotation files of a config's data sets before a training reads them.

mmdet stops at the first broken entry with whatever exception that causes (``KeyError: 'bbox'``), without the name of
the file or the entry, and leaves out boxes without area and objects of unknown classes in silence.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS

ERROR, WARNING = 'error', 'warning'
_EXAMPLES = 3
"""Problems of one kind that are told one by one; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        severity: ``'error'`` (a training would fail, or learn something wrong) or ``'warning'`` (mmdet leaves the
            entry out in silence).
        file: the file it is in.
        entry: the entry in the file; empty if it is the file as a whole.
        message: what is wrong.
        key: the config key of the data set.
    """

    severity: str
    file: str
    entry: str
    message: str
    key: str = ''

    def __str__(self) -> str:
        place = f'{self.file}, {self.entry}' if self.entry else self.file
        return f'{self.key}: {place}: {self.message}' if self.key else f'{place}: {self.message}'


class _Findings:
    """Collects the problems of one data set; of each kind the first few with their entry."""

    def __init__(self, file: str | os.PathLike[str], key: str) -> None:
        self.file, self.key = str(file), key
        self.problems: list[Problem] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, severity: str, entry: str, message: str, kind: str = '', file: str | os.PathLike[str] = '') -> None:
        """Note a problem; ``kind`` is the message without what differs from entry to entry."""
        self._counts[severity, kind or message] += 1
        if self._counts[severity, kind or message] <= _EXAMPLES:
            self.problems.append(Problem(severity, str(file or self.file), entry, message, self.key))

    def all(self) -> list[Problem]:
        """What was noted, errors first, with the number of those not told."""
        rest = [
            Problem(severity, self.file, '', f'{kind}: {count - _EXAMPLES} more', self.key)
            for (severity, kind), count in self._counts.items()
            if count > _EXAMPLES
        ]
        return sorted([*self.problems, *rest], key=lambda problem: problem.severity)


def check_datasets(
    cfg: Mapping[str, Any], loaders: Sequence[str] = ('train_dataloader', 'val_dataloader')
) -> list[Problem]:
    """Look through the COCO and VOC data sets of a config's loaders, wrapped ones too.

    Other kinds of data sets, and those that are not on local disks, are left to mmdet.

    Args:
        cfg: a whole config.
        loaders: the loaders to look at; ``val_dataloader`` with the annotation file of its evaluator.

    Returns:
        What was found, errors first; empty if all is well.
    """
    problems: list[Problem] = []
    seen = set()
    for loader in loaders:
        if not cfg.get(loader):
            continue
        for key, dataset in _leaves(cfg[loader].get('dataset'), f'{loader}.dataset'):
            identity = repr(sorted((k, v) for k, v in dataset.items() if k in ('ann_file', 'data_root', 'data_prefix')))
            if identity not in seen:
                seen.add(identity)
                problems += check_dataset(dataset, key)
        evaluator = cfg.get(loader.replace('dataloader', 'evaluator'))
        local = isinstance(evaluator, Mapping) and not evaluator.get('backend_args')
        file = str(evaluator.get('ann_file') or '') if local else ''
        if file and _is_local(file) and not os.path.isfile(file):
            key = f'{loader.replace("dataloader", "evaluator")}.ann_file'
            problems.append(Problem(ERROR, file, '', 'there is no such file', key))
    return sorted(problems, key=lambda problem: problem.severity)


def check_dataset(dataset: Mapping[str, Any], key: str = '') -> list[Problem]:
    """Look through one COCO or VOC data set.

    Args:
        dataset: its config; of another kind, or on a remote storage, nothing is said.
        key: its config key.

    Returns:
        What was found, errors first.
    """
    kind = dataset.get('type')
    kind = kind if isinstance(kind, type) else DATASETS.get(str(kind))
    root = str(dataset.get('data_root') or '')
    base = next((b for b in (CocoDataset, XMLDataset) if kind is not None and issubclass(kind, b)), None)
    readers = ('load_data_list', 'parse_data_info')
    if base is None or any(getattr(kind, name) is not getattr(base, name) for name in readers):
        return []  # LVIS, panoptic and others read entries of their own
    prefix = dict(dataset.get('data_prefix') or {})
    paths = [root, str(dataset.get('ann_file') or ''), *map(str, prefix.values())]
    if dataset.get('backend_args') or not dataset.get('ann_file') or not all(map(_is_local, paths)):
        return []
    if root and not os.path.isdir(root):
        where = f'there is no such folder (working directory {os.getcwd()})'
        return [Problem(ERROR, root, '', where, f'{key}.data_root')]
    file = os.path.join(root, dataset['ann_file'])
    if not os.path.isfile(file):
        return [Problem(ERROR, file, '', 'there is no such file', f'{key}.ann_file')]
    classes = (dataset.get('metainfo') or {}).get('classes') or kind.METAINFO.get('classes')
    if isinstance(classes, str):  # a file with one name per line, or one name
        classes = Path(classes).read_text().splitlines() if os.path.isfile(classes) else [classes]
    classes = list(classes or ())
    if not classes:  # the data set finds them by itself
        return []
    loads_elsewhere = any(isinstance(t, Mapping) and t.get('backend_args') for t in dataset.get('pipeline') or ())
    if base is CocoDataset:
        images = None if loads_elsewhere else os.path.join(root, prefix.get('img') or prefix.get('img_path') or '')
        return check_coco(file, classes, images, bool(dataset.get('test_mode')), key)
    if loads_elsewhere:
        return []
    folder = os.path.join(root, prefix.get('sub_data_root', ''))
    names = {name: dataset[name] for name in ('img_subdir', 'ann_subdir') if name in dataset}
    return check_voc(file, classes, folder, key=key, **names)


def check_coco(
    file: str | os.PathLike[str],
    classes: Sequence[str],
    images: str | os.PathLike[str] | None = None,
    test_mode: bool = False,
    key: str = '',
) -> list[Problem]:
    """Look through a COCO annotation file.

    Args:
        file: the JSON file.
        classes: the class names of the detector, in its order.
        images: folder that the file names are relative to; None leaves the images alone.
        test_mode: annotations may be missing.
        key: config key, for the problems.

    Returns:
        What was found, errors first.
    """
    findings = _Findings(file, key)
    content = _read_json(file, findings)
    if content is None:
        return findings.all()
    lists = {name: content.get(name) for name in ('images', 'categories', 'annotations')}
    for name, value in lists.items():
        if not isinstance(value, list) and not (name == 'annotations' and test_mode and value is None):
            findings.add(ERROR, '', f'there is no list {name!r}, which a COCO annotation file has')
    if findings.problems:
        return findings.all()
    names = _check_categories(lists['categories'], classes, findings)
    sizes = _check_images(lists['images'], images, findings)
    known = _check_annotations(lists['annotations'] or [], names, sizes, set(classes), findings)
    if not known and not test_mode:
        findings.add(ERROR, '', 'there is no usable box of any of the classes')
    return findings.all()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Read large files twice as fast: else every few thousand new objects all of them are looked through."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_json(file: str | os.PathLike[str], findings: _Findings) -> dict | None:
    try:
        with no_garbage_collection():
            content = json.loads(Path(file).read_bytes().decode('utf-8'))
    except UnicodeDecodeError as error:
        findings.add(ERROR, f'byte {error.start}', 'it is not UTF-8 text')
    except json.JSONDecodeError as error:
        findings.add(ERROR, f'line {error.lineno}, column {error.colno}', f'broken JSON: {error.msg}')
    except OSError as error:
        findings.add(ERROR, '', f'it can not be read: {error.strerror}')
    else:
        if isinstance(content, dict):
            return content
        findings.add(ERROR, '', 'it holds no object with images, annotations and categories')
    return None


def _check_categories(entries: list, classes: Sequence[str], findings: _Findings) -> dict[Any, str]:
    """Names by id."""
    names = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {'id', 'name'} <= set(entry):
            findings.add(ERROR, f'categories[{i}]', 'id or name is missing', 'id or name is missing')
        else:
            names[entry['id']] = entry['name']
    # mmdet numbers the classes it finds in the file's order: a missing one shifts the labels of those after it
    if missing := [name for name in classes if name not in names.values()]:
        findings.add(ERROR, 'categories', f'the classes {missing} are not there; there are {[*names.values()]}')
    elif [name for name in names.values() if name in set(classes)] != [*classes]:
        findings.add(WARNING, 'categories', 'other order than metainfo.classes: mmdet labels in the order of the file')
    return names


def _check_images(entries: list, folder: Any, findings: _Findings) -> dict[Any, tuple[float, float]]:
    """Width and height by id."""
    sizes: dict[Any, tuple[float, float]] = {}
    listed: dict[str, set[str]] = {}
    wanted = {'id', 'file_name', 'width', 'height'}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not wanted <= entry.keys():
            findings.add(ERROR, _place('images', i, entry), _lacks(entry, wanted))
            continue
        if entry['id'] in sizes:
            findings.add(ERROR, _place('images', i, entry), 'the id is there twice')
        if not (_are_numbers(entry['width'], entry['height']) and min(entry['width'], entry['height']) > 0):
            size = f'width {entry["width"]!r}, height {entry["height"]!r}: accepted are numbers > 0'
            findings.add(ERROR, _place('images', i, entry), size, 'width or height is no number > 0')
            continue
        sizes[entry['id']] = (entry['width'], entry['height'])
        if folder is not None:
            parent, name = os.path.split(os.path.join(folder, entry['file_name']))
            if parent not in listed:  # one listing instead of one question per image: shared disks are slow
                listed[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
            if name not in listed[parent]:
                findings.add(
                    ERROR,
                    _place('images', i, entry),
                    f'there is no image {parent}/{name}',
                    f'no such image in {parent}',
                )
    return sizes


def _check_annotations(entries: list, names: Mapping, sizes: Mapping, classes: set[str], findings: _Findings) -> int:
    """Number of usable boxes."""
    known, ids, others = 0, set(), Counter()
    wanted = {'id', 'image_id', 'category_id', 'bbox', 'area'}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not wanted <= entry.keys():
            findings.add(ERROR, _place('annotations', i, entry), _lacks(entry, wanted))
            continue
        if entry['id'] in ids:
            findings.add(ERROR, _place('annotations', i, entry), 'the id is there twice')
        ids.add(entry['id'])
        box, size = entry['bbox'], sizes.get(entry['image_id'])
        if not isinstance(box, list) or len(box) != 4 or not _are_numbers(*box, entry['area']):
            what = f'bbox {box!r}, area {entry["area"]!r}: accepted are [x, y, width, height] and a number'
            findings.add(ERROR, _place('annotations', i, entry), what, 'bbox or area is not what it should be')
        elif size is None:
            findings.add(
                WARNING, _place('annotations', i, entry), f'no image has the id {entry["image_id"]}', 'no such image id'
            )
        elif entry['category_id'] not in names:
            what = f'no category has the id {entry["category_id"]}'
            findings.add(
                WARNING, _place('annotations', i, entry), f'{what}: the box is left out', 'no such category id'
            )
        elif names[entry['category_id']] not in classes:
            others[names[entry['category_id']]] += 1
        elif _is_degenerate(box, entry['area'], size):
            what = f'bbox {box}, area {entry["area"]} has no pixel in the image of {size[0]}x{size[1]}'
            findings.add(
                WARNING, _place('annotations', i, entry), f'{what}: the box is left out', 'boxes without a pixel'
            )
        else:
            known += 1
    if others:
        told = ', '.join(f'{name} ({count})' for name, count in others.most_common(5))
        findings.add(WARNING, 'annotations', f'boxes of classes that the config does not ask for: {told}')
    return known


def _lacks(entry: Any, wanted: set[str]) -> str:
    return f'{", ".join(sorted(wanted - entry.keys()))} missing' if isinstance(entry, dict) else 'it is no object'


def _place(name: str, index: int, entry: Any) -> str:
    known = isinstance(entry, dict) and 'id' in entry
    return f'{name}[{index}] (id {entry["id"]})' if known else f'{name}[{index}]'


def _is_degenerate(box: Sequence[float], area: float, size: tuple[float, float]) -> bool:
    """Whether mmdet's ``CocoDataset`` leaves the box out."""
    x, y, w, h = box
    inside = min(x + w, size[0]) > max(x, 0) and min(y + h, size[1]) > max(y, 0)
    return not inside or area <= 0 or w < 1 or h < 1


def check_voc(
    file: str | os.PathLike[str],
    classes: Sequence[str],
    folder: str | os.PathLike[str],
    img_subdir: str = 'JPEGImages',
    ann_subdir: str = 'Annotations',
    key: str = '',
) -> list[Problem]:
    """Look through the XML files that a split of a VOC data set names.

    Args:
        file: the split: one image name per line, without its suffix.
        classes: the class names of the detector.
        folder: folder of ``img_subdir`` and ``ann_subdir``.
        img_subdir: name of the folder of ``<name>.jpg``.
        ann_subdir: name of the folder of ``<name>.xml``.
        key: config key, for the problems.

    Returns:
        What was found, errors first.
    """
    findings = _Findings(file, key)
    try:
        names = Path(file).read_bytes().decode('utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        findings.add(ERROR, '', f'it can not be read as UTF-8 text: {error}')
        return findings.all()
    images = Path(folder, img_subdir)
    there = set(os.listdir(images)) if images.is_dir() else set()
    known = 0
    for i, name in enumerate(names):
        place = f'line {i + 1}'
        if f'{name}.jpg' not in there:
            findings.add(ERROR, place, f'there is no image {images}/{name}.jpg', f'no such image in {images}')
        path = Path(folder, ann_subdir, f'{name}.xml')
        if not path.is_file():
            findings.add(ERROR, place, f'there is no annotation {path}', f'no such file in {path.parent}')
        else:
            known += _check_xml(path, set(classes), findings)
    if not known:
        findings.add(ERROR, '', f'no object of any of the classes {list(classes)} in the {len(names)} files')
    return findings.all()


def _check_xml(path: Path, classes: set[str], findings: _Findings) -> int:
    """Number of objects of the classes."""
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        line, column = error.position
        what = 'not in the encoding that it declares, or broken XML'
        findings.add(ERROR, f'line {line}, column {column + 1}', f'{what}: {error}', what, path)
        return 0
    except (LookupError, ValueError, OSError) as error:
        findings.add(ERROR, '', f'it can not be read: {error}', 'annotations that can not be read', path)
        return 0
    if (size := root.find('size')) is not None:
        for name in ('width', 'height'):
            if not re.fullmatch(r'\s*\d+\s*', size.findtext(name) or '') or int(size.findtext(name)) == 0:
                what = f'{size.findtext(name)!r}: accepted is an integer > 0'
                findings.add(ERROR, f'size.{name}', what, f'{name} is no integer > 0', path)
    known = 0
    for i, item in enumerate(root.findall('object')):
        name = item.findtext('name')
        place = f'object {i + 1} ({name})'
        corners = [item.findtext(f'bndbox/{side}') for side in ('xmin', 'ymin', 'xmax', 'ymax')]
        values = [_number(text) for text in corners]
        if name is None:
            findings.add(ERROR, place, 'it has no name', file=path)
        elif name not in classes:
            what = f'{name!r} is none of the classes: the object is left out'
            findings.add(WARNING, place, what, file=path)
        elif not _are_numbers(*values):
            what = f'bndbox {corners}: accepted are four numbers'
            findings.add(ERROR, place, what, 'bndbox is not what it should be', path)
        else:
            known += 1
            if values[2] <= values[0] or values[3] <= values[1]:
                what = f'bndbox {values} has no area; filter_cfg=dict(bbox_min_size=1) makes it an ignored one'
                findings.add(WARNING, place, what, 'boxes without area', path)
    return known


def _leaves(dataset: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The data sets inside of RepeatDataset, ConcatDataset and their like."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(inner := dataset.get('dataset'), Mapping):
        yield from _leaves(inner, f'{key}.dataset')
    elif isinstance(several := dataset.get('datasets'), Sequence):
        for i, inner in enumerate(several):
            yield from _leaves(inner, f'{key}.datasets.{i}')
    else:
        yield key, dataset


def _is_local(path: str) -> bool:
    return re.match(r'[\w-]+:', path) is None


def _are_numbers(*values: Any) -> bool:
    return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values))


def _number(text: str | None) -> float | None:
    try:
        return float(text or '')
    except ValueError:
        return None
