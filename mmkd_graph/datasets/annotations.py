"""Look through the data sets of a config before a training reads them: classes, annotation files, images.

mmdet stops at the first broken entry with whatever exception that causes (``KeyError: 'bbox'``), without the name of
the file or the entry, and leaves out boxes without area and objects of unknown classes in silence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS

from mmkd_graph.checkpoints import is_address
from mmkd_graph.findings import FAIL, Finding, sort_by_level
from mmkd_graph.registry import type_name

from .coco_files import check_scored, read_coco
from .images import SECONDS
from .problems import listed, problem, shown
from .reading import leaves
from .voc_files import check_voc

_MAKES_OTHERS = ('ann_file', 'data_root', 'data_prefix', 'metainfo', 'test_mode', 'filter_cfg', 'type')


def check_datasets(
    cfg: Mapping[str, Any], loaders: Sequence[str] = ('train_dataloader', 'val_dataloader'), seconds: float = SECONDS
) -> list[Finding]:
    """Look through the data sets of a config's loaders, wrapped ones too.

    Classes are looked at in all of them; files in COCO and VOC data sets on local disks. Others are left to mmdet.

    Args:
        cfg: a whole config.
        loaders: the loaders to look at; ``val_dataloader`` with the annotation file of its evaluator.
        seconds: time for the headers of all images together.

    Returns:
        What was found, errors first; empty if all is well.
    """
    problems: list[Finding] = []
    different: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for loader in loaders:
        for key, dataset in leaves((cfg.get(loader) or {}).get('dataset'), f'{loader}.dataset'):
            if isinstance(dataset, Mapping):
                different.setdefault(repr([(name, dataset.get(name)) for name in _MAKES_OTHERS]), (key, dataset))
    scored = _scored(cfg, loaders)
    first: tuple[list[str], str] | None = None
    for key, dataset in different.values():
        found, labels = _look(dataset, key, seconds / len(different), scored)
        problems += found
        file = str(dataset.get('ann_file'))
        if first and labels != first[0] and sorted(labels) == sorted(first[0]):
            what = f'its categories are in another order than those of {first[1]}, and so are the labels'
            problems.append(problem(FAIL, f'{key}.ann_file', file, 'categories', what))
        first = first or ((labels, file) if labels else None)
    return sort_by_level(problems + [x for scored_file in scored.values() for x in scored_file.unread()])


def check_evaluators(cfg: Mapping[str, Any], loaders: Sequence[str]) -> list[Finding]:
    """Look only at what the evaluators of loaders read: local annotation files of mmdet's ``CocoMetric``."""
    return sort_by_level(x for scored in _scored(cfg, loaders).values() for x in scored.unread())


@dataclass
class _Scored:
    """The annotation file of an evaluator; ``metrics`` are those of a ``CocoMetric``, ``seen`` whether it was read."""

    key: str
    file: str
    metrics: set[str]
    seen: bool = False

    def unread(self) -> list[Finding]:
        """What is wrong with it, if no data set has read it."""
        if self.seen:
            return []
        if not os.path.isfile(self.file):
            return [problem(FAIL, self.key, self.file, '', 'there is no such file')]
        return check_scored(self.file, self.metrics, self.key) if self.metrics else []


def _scored(cfg: Mapping[str, Any], loaders: Sequence[str]) -> dict[str, _Scored]:
    """The local annotation files of evaluators, by their real paths."""
    scored: dict[str, _Scored] = {}
    for key in (loader.replace('dataloader', 'evaluator') for loader in loaders):
        given = cfg.get(key)
        alone = isinstance(given, Mapping)
        for i, evaluator in enumerate([given] if alone else given if isinstance(given, (list, tuple)) else ()):
            file = str(evaluator.get('ann_file') or '') if isinstance(evaluator, Mapping) else ''
            if not file or evaluator.get('backend_args') or is_address(file):
                continue
            kind = evaluator.get('type')
            kind = kind if isinstance(kind, type) else METRICS.get(str(kind))
            metric = evaluator.get('metric', 'bbox')
            reads = kind is not None and issubclass(kind, CocoMetric) and not evaluator.get('format_only')
            metrics = set() if not reads else {metric} if isinstance(metric, str) else {*metric}
            here = _Scored(f'{key}.ann_file' if alone else f'{key}.{i}.ann_file', file, metrics)
            scored.setdefault(os.path.realpath(file), here).metrics.update(metrics)
    return scored


def _look(
    dataset: Mapping[str, Any], key: str, seconds: float, scored: Mapping[str, _Scored]
) -> tuple[list[Finding], list[str]]:
    """What is wrong with a data set, and its classes in the order of their labels where its file has that order."""
    kind = dataset.get('type')
    kind = kind if isinstance(kind, type) else DATASETS.get(str(kind))
    classes = (dataset.get('metainfo') or {}).get('classes') or getattr(kind, 'METAINFO', {}).get('classes')
    try:
        classes = _class_names(classes)
    except ValueError as error:
        return [problem(FAIL, f'{key}.metainfo.classes', '', '', str(error))], []
    base = next((b for b in (CocoDataset, XMLDataset) if kind is not None and issubclass(kind, b)), None)
    readers = ('load_data_list', 'parse_data_info')
    if base is None or any(getattr(kind, name) is not getattr(base, name) for name in readers):
        return [], []  # LVIS, panoptic and others read entries of their own
    root = str(dataset.get('data_root') or '')
    prefix = dict(dataset.get('data_prefix') or {})
    paths = [root, str(dataset.get('ann_file') or ''), *map(str, prefix.values())]
    if dataset.get('backend_args') or not dataset.get('ann_file') or any(map(is_address, paths)):
        return [], []
    if root and not os.path.isdir(root):
        where = f'there is no such folder (working directory {os.getcwd()})'
        return [problem(FAIL, f'{key}.data_root', root, '', where)], []
    file = os.path.join(root, dataset['ann_file'])
    if not os.path.isfile(file):
        return [problem(FAIL, f'{key}.ann_file', file, '', 'there is no such file')], []
    if not classes:  # the data set finds them by itself
        return [], []
    local, reading = _image_reading(dataset.get('pipeline') or (), seconds)
    test_mode = bool(dataset.get('test_mode'))
    if base is CocoDataset:
        images = os.path.join(root, prefix.get('img') or prefix.get('img_path') or '') if local else None
        metrics: set[str] = set()
        if read := scored.get(os.path.realpath(file)):
            read.seen, metrics = True, read.metrics
        return read_coco(file, classes, images, test_mode, key, metrics=metrics, **reading)
    if not local:
        return [], []
    folder = os.path.join(root, prefix.get('sub_data_root', ''))
    options = {name: dataset[name] for name in ('img_subdir', 'ann_subdir') if name in dataset}
    options['bbox_min_size'] = (dataset.get('filter_cfg') or {}).get('bbox_min_size')
    return check_voc(file, classes, folder, test_mode=test_mode, key=key, **options, **reading), []


def _class_names(classes: Any) -> list[str]:
    """The names as mmdet reads them: a string is a file with one name per line.

    Raises:
        ValueError: where they are something else that mmdet takes all the same.
    """
    if not classes:
        return []
    if isinstance(classes, str):
        if is_address(classes):
            return []
        if not os.path.exists(classes):
            names = tuple(name.strip() for name in classes.split(',') if name.strip())
            raise ValueError(
                f'{classes!r} is a string, of which mmdet takes every part that is the name of a category, and there '
                f'is no file of that name; write classes={names!r}'
            )
        try:
            with open(classes, encoding='utf-8') as file:
                classes = [line.rstrip('\r\n') for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f'{classes!r} cannot be read as a file with one name per line: {error}') from error
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'{shown(classes)}; accepted: a tuple of names')
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise ValueError(f'{listed(twice)} are there twice; accepted: names that differ')
    return list(classes)


def _image_reading(pipeline: Sequence[Any], seconds: float) -> tuple[bool, dict[str, Any]]:
    """Whether a pipeline reads its images from local disks, and how they are to be looked at.

    Images that are loaded by a transform of another kind may be no images at all.
    """
    transforms = [t for t in pipeline if isinstance(t, Mapping)]
    local = not any(t.get('backend_args') for t in transforms)
    loads = [t for t in transforms if type_name(t.get('type')) == 'LoadImageFromFile']
    if not loads or loads[0].get('imdecode_backend') == 'tifffile':
        return local, dict(seconds=0.0)
    upright = loads[0].get('imdecode_backend') == 'turbojpeg'
    turned = loads[0].get('color_type', 'color') in ('color', 'grayscale') and not upright
    return local, dict(turned=turned, seconds=seconds)
