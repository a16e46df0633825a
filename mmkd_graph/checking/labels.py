"""The labels that a data set gives in the end, whatever the config calls them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.datasets.problems import listed
from mmkd_graph.datasets.reading import leaves

from .batches import sample_indices
from .classes import count_things
from .findings import FAIL, OK, WARNING, Finding, failed

_IMAGES = 20_000
"""Images of a loader whose labels are counted: their records take less than 2 s to read."""
_SHOWN = 5
"""Labels and classes that a line names."""


def check_labels(dataset: Any, loader: str, training: bool = True) -> list[Finding]:
    """Count the labels of a built data set's records and compare them with its classes.

    mmdet's own map from names to labels has been applied to them; pipelines have not. Data sets that keep no records
    (``get_data_info``), or records without ``instances``, are passed over.

    Args:
        dataset: a built data set, wrapped or not.
        loader: config key of its loader.
        training: whether it is trained on: then it needs boxes.
    """
    parts = [(key, leaf) for key, leaf in leaves(dataset, f'{loader}.dataset') if hasattr(leaf, 'get_data_info')]
    findings: list[Finding] = []
    boxes: Counter[int] = Counter()
    names: tuple[str, ...] = ()
    things = images = looked = ignored = 0
    for key, leaf in parts:
        key, metainfo = f'{key}.metainfo.classes', common_metainfo(getattr(leaf, 'metainfo', None))
        classes = metainfo.get('classes')
        if isinstance(classes, str):
            found = f'{classes!r} is a string, of which mmdet takes every part that is the name of a category'
            findings.append(Finding(FAIL, key, found, f'write classes=({classes!r},)'))
        if not classes or getattr(leaf, 'return_classes', False):  # with a text, labels stand for its words
            continue
        if names and names != tuple(classes):
            found = f'other classes than those of {parts[0][0]}: the same label has another name'
            findings.append(Finding(FAIL, key, found, 'name the same classes in the same order'))
        own = count_things(metainfo)
        names, things = names or tuple(classes), things or own
        labels, part_ignored, part_looked = _count(leaf, _IMAGES // len(parts))
        findings += _wrong_labels(key, labels, own, f'{part_looked} of {len(leaf)} images')
        known = getattr(leaf, 'cat_ids', None)
        if isinstance(known, (list, tuple)) and len(known) < own:  # COCO-like: the labels of later ones are shifted
            found = f'{own - len(known)} of the {own} classes are none of the categories of {leaf.ann_file}'
            found += ', which shifts the labels of others'
            findings.append(Finding(FAIL, key, found, 'name them as the file does'))
        boxes += labels
        images, looked, ignored = images + len(leaf), looked + part_looked, ignored + part_ignored
    if failed(findings) or not looked:
        return findings
    key, where = f'{loader}.dataset.metainfo.classes', f'{looked} of {images} images'
    absent = [names[label] for label in range(things) if not boxes[label]]
    if not boxes:
        found = f'no box of any of the {things} classes in {where}'
        found += f', {ignored} that are ignored (iscrowd, difficult, too small)' if ignored else ''
        return [Finding(FAIL if training else WARNING, key, found, 'look at the classes and at the annotations')]
    if absent and training and looked == images:
        found = f'no box of {len(absent)} of the {things} classes: {listed(absent, _SHOWN)}'
        return [Finding(WARNING, key, found, 'nothing can be learned of them')]
    return [Finding(OK, key, f'{sum(boxes.values())} boxes in {where} have labels of the {things} classes')]


def check_batch_labels(batches: Sequence[Any], metainfo: Mapping[str, Any] | None, loader: str) -> list[Finding]:
    """Look for labels outside of the classes in batches as a loader gives them; without classes nothing is said."""
    things = count_things(metainfo)
    if not things:
        return []
    labels: Counter[int] = Counter()
    images: dict[int, Any] = {}
    for batch in batches:
        samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
        for sample in samples if isinstance(samples, (list, tuple)) else ():
            for label in getattr(getattr(sample, 'gt_instances', None), 'labels', ()):
                labels[int(label)] += 1
                images.setdefault(int(label), sample.get('img_path') or sample.get('img_id'))
    wrong = next((label for label in labels if not 0 <= label < things), None)
    where = f'the first batches, one of them in image {images[wrong]},' if wrong is not None else ''
    return _wrong_labels(f'{loader}.dataset.metainfo.classes', labels, things, where)


def _count(leaf: Any, most: int) -> tuple[Counter[int], int, int]:
    """Boxes by label, number of ignored ones, and of records that were read."""
    labels: Counter[int] = Counter()
    ignored = looked = 0
    records = getattr(leaf, 'data_list', None)  # empty where they are serialised
    for i in sample_indices(len(leaf), most):
        record = records[i] if records and isinstance(records[i], Mapping) else leaf.get_data_info(i)
        if not isinstance(record, Mapping) or not isinstance(record.get('instances'), (list, tuple)):
            continue
        looked += 1
        for thing in record['instances']:
            if thing.get('ignore_flag'):
                ignored += 1
            elif 'bbox_label' in thing:
                labels[int(thing['bbox_label'])] += 1
    return labels, ignored, looked


def _wrong_labels(key: str, labels: Counter[int], things: int, where: str) -> list[Finding]:
    wrong = sorted(label for label in labels if not 0 <= label < things)
    if not wrong:
        return []
    count, shown = sum(labels[label] for label in wrong), ', '.join(map(str, wrong[:_SHOWN]))
    found = f'{count} boxes in {where} have labels as {shown}, where {things} classes have 0 to {things - 1}'
    return [Finding(FAIL, key, found, 'name each class once, as the annotations do')]
