"""Look through a COCO annotation file."""

from __future__ import annotations

import gc
import json
import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkd_graph.findings import FAIL, WARNING, Finding

from .images import SECONDS, Expected, Listings, look_at_images
from .problems import Problems, are_numbers, is_far_outside, listed, shown


def read_coco(
    file: str | os.PathLike[str],
    classes: Sequence[str],
    images: str | os.PathLike[str] | None = None,
    test_mode: bool = False,
    key: str = '',
    turned: bool = True,
    seconds: float = SECONDS,
    metrics: Collection[str] = (),
) -> tuple[list[Finding], list[str]]:
    """Look through a COCO annotation file and the headers of its images.

    Args:
        file: the JSON file.
        classes: the class names of the detector, in its order.
        images: folder that the file names are relative to; None leaves the images alone.
        test_mode: annotations may be missing.
        key: config key, for the problems.
        turned: whether the images' EXIF orientation counts, see :func:`~mmkd_graph.datasets.images.image_size`.
        seconds: time for the images' headers; 0 leaves them alone.
        metrics: what a ``CocoMetric`` computes with the file, as its ``metric``; empty if none reads it.

    Returns:
        What was found, errors first, and the classes in the order of mmdet's labels, which is that of the file's
        categories.
    """
    problems = Problems(file, key)
    content = _read_json(file, problems)
    if content is None:
        return problems.all(), []
    lists = {name: content.get(name) for name in ('images', 'categories', 'annotations')}
    if test_mode and lists['annotations'] is None:
        lists['annotations'] = []
    for name, value in lists.items():
        if not isinstance(value, list):
            problems.add(FAIL, '', f'there is no list {name!r}, which a COCO annotation file has')
    if problems.findings:
        return problems.all(), []
    names = _check_categories(lists['categories'], classes, problems)
    sizes, there = _check_images(lists['images'], images, problems)
    usable, ignored = _check_annotations(lists['annotations'], names, sizes, {*classes}, problems)
    _check_fields(lists['annotations'], metrics, problems)
    if not usable and not test_mode:
        rest = f' ({ignored} are iscrowd or ignore)' if ignored else ''
        problems.add(FAIL, '', f'there is no usable box of any of the classes{rest}')
    if seconds:
        look_at_images(there, problems, turned, seconds)
    return problems.all(), [name for name in names.values() if name in classes]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Read large files twice as fast: else every few thousand new objects all of them are looked through."""
    restore = gc.enable if gc.isenabled() else gc.disable
    gc.disable()
    try:
        yield
    finally:
        restore()


def _read_json(file: str | os.PathLike[str], problems: Problems) -> dict | None:
    try:
        with no_garbage_collection():
            content = json.loads(Path(file).read_bytes().decode('utf-8'))
    except UnicodeDecodeError as error:
        problems.add(FAIL, f'byte {error.start}', 'it is not UTF-8 text')
    except json.JSONDecodeError as error:
        problems.add(FAIL, f'line {error.lineno}, column {error.colno}', f'broken JSON: {error.msg}')
    except (RecursionError, ValueError) as error:  # nested too deeply, an integer of too many digits
        problems.add(FAIL, '', f'it cannot be read: {error}')
    except OSError as error:
        problems.add(FAIL, '', f'it cannot be read: {error.strerror}')
    else:
        if isinstance(content, dict):
            return content
        problems.add(FAIL, '', 'it holds no object with images, annotations and categories')
    return None


def _check_categories(entries: list, classes: Sequence[str], problems: Problems) -> dict[Any, str]:
    """Names by id."""
    names: dict[Any, str] = {}
    for i, entry in enumerate(entries):
        place = _place('categories', i, entry)
        if not isinstance(entry, dict) or not {'id', 'name'} <= entry.keys():
            problems.add(FAIL, place, _lacks(entry, {'id', 'name'}))
        elif not _is_id(entry['id']) or not isinstance(entry['name'], str):
            what = f'id {shown(entry["id"])}, name {shown(entry["name"])}: accepted are a number and a text'
            problems.add(FAIL, place, what, 'id or name is not what it should be')
        elif entry['id'] in names:
            problems.add(FAIL, place, 'the id is there twice')
        elif entry['name'] in classes and entry['name'] in names.values():  # one name, two labels
            problems.add(FAIL, place, f'the class {shown(entry["name"])} is there twice', 'a class is there twice')
        else:
            names[entry['id']] = entry['name']
    # mmdet numbers the classes it finds in the file's order: a missing one shifts the labels of those after it
    if missing := [name for name in classes if name not in names.values()]:
        what = f'the classes {listed(missing)} are not there; there are {listed([*names.values()])}'
        problems.add(FAIL, 'categories', what)
    elif [name for name in names.values() if name in {*classes}] != [*classes]:
        problems.add(WARNING, 'categories', 'other order than metainfo.classes: mmdet labels in the order of the file')
    return names


def _check_images(
    entries: list, folder: Any, problems: Problems
) -> tuple[dict[Any, tuple[float, float]], list[Expected]]:
    """Width and height by id, and the images that are there."""
    sizes: dict[Any, tuple[float, float]] = {}
    there, files = [], Listings()
    wanted = {'id', 'file_name', 'width', 'height'}
    for i, entry in enumerate(entries):
        place = _place('images', i, entry)
        if not isinstance(entry, dict) or not wanted <= entry.keys():
            problems.add(FAIL, place, _lacks(entry, wanted))
            continue
        name, width, height = (entry[key] for key in ('file_name', 'width', 'height'))
        if not _is_id(entry['id']) or not isinstance(name, str):
            what = f'id {shown(entry["id"])}, file_name {shown(name)}: accepted are a number and a text'
            problems.add(FAIL, place, what, 'id or file_name is not what it should be')
            continue
        if entry['id'] in sizes:
            problems.add(FAIL, place, 'the id is there twice')
        if not (are_numbers(width, height) and min(width, height) > 0):
            what = f'width {shown(width)}, height {shown(height)}: accepted are numbers > 0'
            problems.add(FAIL, place, what, 'width or height is no number > 0')
            continue
        sizes[entry['id']] = (width, height)
        if folder is None:
            continue
        path = os.path.join(folder, name)
        if path in files:
            there.append(Expected(path, (width, height), place))
        else:
            problems.add(FAIL, place, f'there is no image {path}', f'no such image in {os.path.dirname(path)}')
    return sizes, there


_VALUES = dict(area='a["bbox"][2] * a["bbox"][3]', iscrowd='0')
"""What exporters leave out, and its value: mmdet's ``CocoDataset`` reads the first, pycocotools both."""


def check_scored(file: str | os.PathLike[str], metrics: Collection[str], key: str) -> list[Finding]:
    """Look in a COCO file for what makes a ``CocoMetric`` fail when a detector has found something, hours later.

    Args:
        file: ``ann_file`` of the metric.
        metrics: what it computes, as its ``metric``.
        key: config key, for the problems.
    """
    problems = Problems(file, key)
    content = _read_json(file, problems)
    if content is not None and isinstance(content.get('annotations'), list):
        _check_fields(content['annotations'], metrics, problems)
    return problems.all()


def _check_fields(entries: list, metrics: Collection[str], problems: Problems) -> None:
    """What annotations lack, one line per field: whoever wrote the file left it out everywhere."""
    entries = [entry for entry in entries if isinstance(entry, dict)]
    lacking = {name: sum(name not in entry for entry in entries) for name in (*_VALUES, 'segmentation')}
    readers = dict(area='mmdet and pycocotools read', iscrowd='CocoMetric (pycocotools) reads once something is found')
    if not metrics:
        del readers['iscrowd']
    for name, reader in readers.items():
        if count := lacking[name]:
            what = f'{name} missing in {count} of {len(entries)}, which {reader}; to add it: {_adding(problems.file)}'
            problems.add(FAIL, 'annotations', what)
    if 'segm' in metrics and (count := lacking['segmentation']):
        what = f"segmentation missing in {count} of {len(entries)}, which CocoMetric reads for metric 'segm'"
        problems.add(FAIL, 'annotations', f"{what}; to score boxes alone: metric='bbox'")


def _adding(file: str) -> str:
    """A command that adds to all annotations of a file what :data:`_VALUES` has."""
    adds = ', '.join(f'a.setdefault("{name}", {value})' for name, value in _VALUES.items())
    lines = [
        *('import json', f'f = {json.dumps(file)}', 'd = json.load(open(f))'),
        f'[({adds}) for a in d["annotations"]]',
        'json.dump(d, open(f, "w"))',
    ]
    return f'python -c {shlex.quote("; ".join(lines))}'


def _check_annotations(
    entries: list, names: Mapping, sizes: Mapping, classes: set[str], problems: Problems
) -> tuple[int, int]:
    """Number of boxes that are trained on, and of those that would be, but are ``iscrowd`` or ``ignore``."""
    usable = ignored = 0
    ids, others = set(), Counter()
    for i, entry in enumerate(entries):
        place = _place('annotations', i, entry)
        if wrong := _wrong_annotation(entry):
            problems.add(FAIL, place, *wrong)
            continue
        if entry['id'] in ids:
            problems.add(FAIL, place, 'the id is there twice')
        ids.add(entry['id'])
        box, category = entry['bbox'], entry['category_id']
        area = entry.get('area', 1)  # where it is missing, that is said once
        size = sizes.get(entry['image_id'])
        image = f'the image of {size[0]}x{size[1]}' if size else ''
        if size is None:
            problems.add(WARNING, place, f'no image has the id {shown(entry["image_id"])}', 'no such image id')
        elif category not in names:
            what = f'no category has the id {shown(category)}: the box is left out'
            problems.add(WARNING, place, what, 'no such category id')
        elif names[category] not in classes:
            others[names[category]] += 1
        elif is_far_outside((box[0], box[1], box[0] + box[2], box[1] + box[3]), size):
            problems.add(FAIL, place, f'bbox {box} is far outside of {image}', 'boxes far outside of their image')
        elif _is_degenerate(box, area, size):
            what = f'bbox {box}, area {area} has no pixel in {image}: the box is left out'
            problems.add(WARNING, place, what, 'boxes without a pixel')
        elif entry.get('iscrowd') or entry.get('ignore'):
            ignored += 1
        else:
            usable += 1
    if others:
        told = ', '.join(f'{name} ({count})' for name, count in others.most_common(5))
        problems.add(WARNING, 'annotations', f'boxes of classes that the config does not ask for: {told}')
    return usable, ignored


def _wrong_annotation(entry: Any) -> tuple[str, str] | None:
    """What of an entry mmdet or pycocotools cannot read, and of what kind that is."""
    wanted = {'id', 'image_id', 'category_id', 'bbox'}
    if not isinstance(entry, dict) or not wanted <= entry.keys():
        what = _lacks(entry, wanted)
        return what, what
    for name in ('id', 'image_id', 'category_id'):
        if not _is_id(entry[name]):
            return f'{name} {shown(entry[name])}: accepted is a number', f'{name} is no number'
    for name in ('iscrowd', 'ignore'):
        if name in entry and entry[name] not in (0, 1):
            return f'{name} {shown(entry[name])}: accepted are 0 and 1', f'{name} is neither 0 nor 1'
    box, area = entry['bbox'], entry.get('area', 1)
    if not isinstance(box, list) or len(box) != 4 or not are_numbers(*box, area):
        what = f'bbox {shown(box)}, area {shown(area)}: accepted are [x, y, width, height] and a number'
        return what, 'bbox or area is not what it should be'
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or are_numbers(value)


def _lacks(entry: Any, wanted: set[str]) -> str:
    return f'{", ".join(sorted(wanted - entry.keys()))} missing' if isinstance(entry, dict) else 'it is no object'


def _place(name: str, index: int, entry: Any) -> str:
    if not isinstance(entry, dict) or 'id' not in entry:
        return f'{name}[{index}]'
    value = entry['id']
    return f'{name}[{index}] (id {value if type(value) in (int, str) else shown(value)})'


def _is_degenerate(box: Sequence[float], area: float, size: tuple[float, float]) -> bool:
    """Whether mmdet's ``CocoDataset`` leaves the box out."""
    x, y, w, h = box
    inside = min(x + w, size[0]) > max(x, 0) and min(y + h, size[1]) > max(y, 0)
    return not inside or area <= 0 or w < 1 or h < 1
