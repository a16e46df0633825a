"""A user's own data: which images and which classes, found in a folder or read from a config."""

from __future__ import annotations

import ast
import json
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS
from mmengine.config import Config

from mmkd_graph.findings import WARNING, Finding
from mmkd_graph.packaged import read_config, shipped

from .coco_files import no_garbage_collection
from .metainfo import config_classes
from .problems import listed
from .reading import leaves

SPLITS = ('train', 'val', 'test')
NAMES = ('own_type', 'own_root', 'own_classes', *(f'own_{split}' for split in SPLITS))
"""Variables of a file that says which images and which classes, and nothing else."""
BY_HAND = (
    f'copy {shipped("configs/_base_/datasets/custom_coco.py")} or custom_voc.py beside it, '
    'change the lines at its top, and give that file'
)
_KEPT = ('ann_file', 'data_prefix', 'img_subdir', 'ann_subdir')
"""Options of a data set that say where a split is."""
_DEPTH = 3
"""Folders below the given one that are looked through."""


@dataclass(frozen=True)
class OwnData:
    """Which images and which classes.

    Attributes:
        type: ``'CocoDataset'``, ``'XMLDataset'``, or a type that reads the same files.
        root: folder that all other paths are relative to.
        classes: names in the order of the labels.
        splits: options of the data set that differ between ``'train'``, ``'val'`` and ``'test'``, such as ``ann_file``.
        source: folder or file that this was read from.
        is_base: whether ``source`` holds nothing but :data:`NAMES`, so that a config can have it as a base.
        notes: what the user should know.
    """

    type: str
    root: str
    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, Any]]
    source: str
    is_base: bool = False
    notes: list[Finding] = field(default_factory=list, compare=False)

    @property
    def is_coco(self) -> bool:
        """Whether annotations are COCO's JSON rather than VOC's XML."""
        return issubclass(DATASETS.get(self.type), CocoDataset)

    def has_masks(self) -> bool:
        """Whether the training boxes have segmentations: a detector of masks can learn from them."""
        if not self.is_coco:
            return False
        content = _read(os.path.join(self.root, self.splits['train']['ann_file']))
        boxes = [entry for entry in content['annotations'] if not entry.get('iscrowd')]
        return bool(boxes) and all(entry.get('segmentation') for entry in boxes)


def find_data(source: str | os.PathLike[str]) -> OwnData:
    """The data in a folder (:func:`from_folder`) or a config (:func:`from_config`).

    Raises:
        FileNotFoundError, ValueError: if there is neither, or nothing that can be read; says what is accepted.
    """
    path = Path(source)
    if path.is_dir():
        return from_folder(path)
    if path.suffix == '.py' and path.is_file():
        return from_config(path)
    raise FileNotFoundError(
        f'{str(source)!r} is neither a folder nor a config file (working directory {os.getcwd()}); accepted: a folder '
        'with annotations of COCO or VOC, or a config (.py) of a data set'
    )


def from_folder(root: Path) -> OwnData:
    """Find COCO's JSON files of ``train``, ``val`` and ``test``, or VOC's ``ImageSets/Main``.

    A split is recognised by its file's name (``instances_train2017.json``) or its folder's
    (``train/_annotations.coco.json``). Without a ``test`` split, ``val`` stands for it. Classes are those with a box in
    the training split: of COCO in the order of the file's categories, as mmdet labels them, of VOC by name.

    Raises:
        ValueError: if there is no layout that can be recognised, or more than one.
    """
    voc = [path.parents[2] for path in _walk(root) if path.match('ImageSets/Main/train.txt')]
    coco = _coco_files(root)
    if coco:
        found = _from_coco(root, coco)
        if voc:
            what = f'COCO annotations are used; --data {voc[0]} takes the VOC ones that are there too'
            found.notes.append(Finding(WARNING, '--data', what, place=str(root)))
        return found
    if len(voc) == 1:
        return _from_voc(root, voc[0])
    if voc:
        raise ValueError(f'{str(root)!r} holds several VOC sets; accepted: one of {listed([*map(str, voc)])}')
    raise ValueError(
        f"{str(root)!r} holds neither COCO's JSON files with train and val in their names or folders, nor VOC's "
        f'ImageSets/Main/train.txt; to name the files yourself, {BY_HAND}'
    )


def from_config(path: Path) -> OwnData:
    """Read :data:`NAMES` of a config, or else the data sets of its loaders (``test`` falls back on ``val``).

    Raises:
        ValueError: if neither is there, or what is there is no single set in COCO's or VOC's format.
    """
    try:
        cfg = read_config(path)
    except Exception as error:  # a config is Python: anything can be wrong in it
        raise ValueError(f'{str(path)!r} could not be read: {type(error).__name__}: {error}') from error
    given = [name for name in NAMES if name in cfg]
    if given and (missing := [name for name in NAMES if name not in cfg]):
        raise ValueError(f'{str(path)!r} lacks {", ".join(missing)}; it has {", ".join(given)}')
    if given:
        kind, root, classes, *parts = (cfg[name] for name in NAMES)
        splits = {split: dict(part) for split, part in zip(SPLITS, parts, strict=True)}
        is_base = {*cfg} == {*NAMES} and '_base_' not in _assigned(path)
        wrong = [split for split, part in splits.items() if 'ann_file' not in part]
        if wrong:
            raise ValueError(f'{str(path)!r}: own_{wrong[0]} has no ann_file')
    else:
        kind, root, classes, splits = _from_loaders(cfg, path)
        is_base = False
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes) or not len(classes):
        raise ValueError(f"{str(path)!r}: classes are {classes!r}; accepted: a tuple of names, as ('cat',)")
    found = DATASETS.get(str(kind))
    base = next((b for b in (CocoDataset, XMLDataset) if found is not None and issubclass(found, b)), None)
    if base is None or found.load_data_list is not base.load_data_list:
        raise ValueError(f"{str(path)!r}: type={kind!r}; accepted: 'CocoDataset' and 'XMLDataset'")
    return OwnData(str(kind), root, tuple(classes), splits, str(path), is_base)


def _from_loaders(cfg: Config, path: Path) -> tuple[str, str, Sequence[str], dict[str, dict[str, Any]]]:
    """Type, root, classes and splits of a config's loaders."""
    splits, common = {}, {}
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader') or (cfg.get('val_dataloader') if split == 'test' else None)
        if not loader:
            raise ValueError(
                f'{str(path)!r} has neither {split}_dataloader nor the variables {", ".join(NAMES)}; {BY_HAND}'
            )
        inner = [leaf for _, leaf in leaves(loader.dataset)]
        if len(inner) != 1:
            raise ValueError(
                f'{str(path)!r}: {split}_dataloader concatenates {len(inner)} data sets; accepted: one. Join them, or '
                'leave --data out and let the config of the student have them'
            )
        leaf = inner[0]
        splits[split] = {name: _plain(leaf[name]) for name in _KEPT if name in leaf}
        if not leaf.get('ann_file'):
            raise ValueError(f'{str(path)!r}: {split}_dataloader.dataset has no ann_file')
        own = (leaf.type, leaf.get('data_root') or '', config_classes(leaf))
        common.setdefault(own, split)
    if len(common) > 1:
        (first, split), (other, second) = [*common.items()][:2]
        name, a, b = next(
            (name, x, y) for name, x, y in zip(('type', 'data_root', 'classes'), first, other, strict=True) if x != y
        )
        raise ValueError(f'{str(path)!r}: {name} of {split} is {a!r}, of {second} {b!r}; accepted: the same in all')
    kind, root, classes = next(iter(common))
    if not classes:
        raise ValueError(f'{str(path)!r} names no classes; accepted: metainfo=dict(classes=(…,)) in its data sets')
    return kind, root, classes, splits


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _assigned(path: Path) -> set[str]:
    """Names that a config file assigns at its top level."""
    nodes = [node for node in ast.parse(path.read_text(encoding='utf-8')).body if isinstance(node, ast.Assign)]
    return {target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)}


def _walk(root: Path) -> list[Path]:
    """Annotation files (.json, .txt) below a folder, sorted."""
    found = []
    for folder, below, files in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        below[:] = [] if depth >= _DEPTH + 1 else sorted(x for x in below if not x.startswith('.'))
        found += [Path(folder, name) for name in sorted(files) if name.endswith(('.json', '.txt'))]
    return found


def _split_of(text: str) -> str | None:
    words = re.findall('[a-z]+', text.lower())
    named = dict(train='train', val='val', valid='val', validation='val', test='test')
    found = {named[word] for word in words if word in named}
    return found.pop() if len(found) == 1 else None


def _coco_files(root: Path) -> dict[str, Path]:
    """Annotation files by split; empty if none is recognised."""
    files: dict[str, list[Path]] = {}
    for path in _walk(root):
        split = _split_of(path.stem) or (_split_of(path.parent.name) if path.parent != root else None)
        if path.suffix == '.json' and split:
            files.setdefault(split, []).append(path)
    for split, paths in files.items():  # COCO has captions and key points beside its instances
        files[split] = [x for x in paths if x.name.startswith('instances')] or paths
    if several := next((paths for paths in files.values() if len(paths) > 1), None):
        names = listed([*map(str, several)])
        raise ValueError(f'{str(root)!r}: several annotation files could be meant: {names}; to name one, {BY_HAND}')
    if files and (missing := [split for split in ('train', 'val') if split not in files]):
        names = listed([str(path) for paths in files.values() for path in paths])
        raise ValueError(
            f'{str(root)!r}: no JSON file has {missing[0]} in its name or folder (found {names}); to name the files '
            f'yourself, {BY_HAND}'
        )
    return {split: paths[0] for split, paths in files.items()}


def _from_coco(root: Path, files: Mapping[str, Path]) -> OwnData:
    splits, classes, notes = {}, (), []
    for split, file in files.items():
        content = _read(file)
        if split == 'train':
            used = Counter(entry.get('category_id') for entry in content['annotations'])
            names = {entry['name']: used[entry['id']] for entry in content['categories']}
            classes = tuple(name for name, count in names.items() if count)
            if empty := [name for name, count in names.items() if not count]:
                what = f'the categories {listed(empty)} have no box and were left out of the classes'
                notes.append(Finding(WARNING, '--data', what, place=str(file)))
            filled = {entry.get('image_id') for entry in content['annotations']}
            notes += _empty(file, [entry for entry in content['images'] if entry.get('id') not in filled])
        images = _image_folder(root, file, [entry['file_name'] for entry in content['images']])
        ann, folder = file.relative_to(root).as_posix(), images.relative_to(root).as_posix()
        splits[split] = dict(ann_file=ann, data_prefix=dict(img='' if folder == '.' else f'{folder}/'))
    if not classes:
        raise ValueError(f'{str(files["train"])!r} has no box')
    return _complete('CocoDataset', root, classes, splits, root, notes)


def _empty(file: Path, images: Sequence[Any]) -> list[Finding]:
    """What mmdet does in silence."""
    what = f'{len(images)} images without a box, which are not trained on (filter_cfg)'
    return [Finding(WARNING, '--data', what, place=str(file))] if images else []


def _complete(
    kind: str, root: Path, classes: tuple[str, ...], splits: dict[str, Any], source: Path, notes: list[Finding]
) -> OwnData:
    """Validation data stand for test data that are not there."""
    if 'test' not in splits:
        splits['test'] = splits['val']
        what = 'there is no test split: the validation data are tested on'
        notes.append(Finding(WARNING, '--data', what, place=str(source)))
    return OwnData(kind, root.as_posix(), classes, {s: splits[s] for s in SPLITS}, str(source), notes=notes)


def _read(file: str | os.PathLike[str]) -> dict[str, Any]:
    """A COCO file, with no more checks than are needed here; :func:`~.coco_files.read_coco` looks through it."""
    try:
        with no_garbage_collection():
            content = json.loads(Path(file).read_bytes())
        for name, wanted in (('images', {'file_name'}), ('categories', {'id', 'name'}), ('annotations', set())):
            if not all(wanted <= entry.keys() for entry in content[name]):
                raise ValueError(f'an entry of {name} lacks {" or ".join(sorted(wanted))}')
        if not content['images']:
            raise ValueError('it names no image')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f'no list {error}' if isinstance(error, KeyError) else error
        raise ValueError(f'{str(file)!r} is no annotation file of COCO: {what}') from error
    return content


def _image_folder(root: Path, file: Path, names: Sequence[str]) -> Path:
    """The folder that the image names of a COCO file are relative to."""
    some = [names[0], names[len(names) // 2], names[-1]]
    found = []
    for folder, below, _ in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        below[:] = [] if depth >= _DEPTH else sorted(x for x in below if not x.startswith('.'))
        if all(os.path.isfile(os.path.join(folder, name)) for name in some):
            found.append(Path(folder))
    if len(found) > 1:  # images of several splits have the same names
        found = [x for x in found if x == file.parent or _split_of(x.name) == _split_of(file.stem)]
    if len(found) != 1:
        what = f'in {len(found)} folders' if found else 'in no folder'
        raise ValueError(
            f'{str(file)!r}: its images, as {some[0]!r}, are {what} below {str(root)!r}; to name the folder, {BY_HAND}'
        )
    return found[0]


def _from_voc(source: Path, root: Path) -> OwnData:
    lists = root / 'ImageSets/Main'
    if not (lists / 'val.txt').is_file():
        raise ValueError(f'{str(lists)!r} has no val.txt; to name other files, {BY_HAND}')
    names = (lists / 'train.txt').read_text(encoding='utf-8').splitlines()  # as mmdet reads it
    classes: set[str] = set()
    empty = []
    for name in names:
        file = root / 'Annotations' / f'{name}.xml'
        try:
            found = {item.findtext('name') or '' for item in ET.parse(file).getroot().iter('object')} - {''}
        except (OSError, ET.ParseError, LookupError, ValueError) as error:
            raise ValueError(f'{str(file)!r}, which {str(lists / "train.txt")!r} names: {error}') from error
        classes |= found
        empty += [] if found else [name]
    if not classes:
        raise ValueError(f'no object in the {len(names)} files that {str(lists / "train.txt")!r} names')
    splits = {
        split: dict(ann_file=f'ImageSets/Main/{split}.txt', data_prefix=dict(sub_data_root=''))
        for split in SPLITS
        if (lists / f'{split}.txt').is_file()
    }
    return _complete('XMLDataset', root, tuple(sorted(classes)), splits, source, _empty(lists / 'train.txt', empty))
