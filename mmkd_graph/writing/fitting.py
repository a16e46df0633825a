"""A detector's config on other data: which images it reads, how many classes its heads have, how it is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmkd_graph.datasets.metainfo import config_classes
from mmkd_graph.datasets.own import SPLITS, OwnData
from mmkd_graph.datasets.problems import shown
from mmkd_graph.datasets.reading import leaves
from mmkd_graph.registry import type_name

from .code import Code, assignment
from .sources import Source

COUNT = Code('len(_base_.own_classes)')
_KEPT = ('return_classes', 'serialize_data', 'max_refetch')
"""Options of a detector's data set that stay, as they do not say which images it holds."""
_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
"""Those of mmdet's ``PackDetInputs`` where a config gives none."""


def fitted(source: Source, data: OwnData, role: str) -> str:
    """The settings, after ``_base_``, of a detector's config on ``data``, whose variables are in a second base.

    Images come from ``data``; the pipelines, wrappers of data sets, batch sizes, samplers and hooks are the detector's.

    Raises:
        ValueError: if the detector cannot be trained on the data, or what has to change cannot be found; names the
            ``role`` and the config key.
    """
    cfg, where = source.cfg, f'{role}={source.name!r}'
    masks = _with_masks(cfg)
    if masks and not data.has_masks():
        raise ValueError(
            f'{where} is trained on masks ({masks}), and the data of {data.source} have none; accepted: a detector of '
            'boxes, or data with a segmentation in every annotation'
        )
    parts = [assignment('own', dict(type=_own('type'), data_root=_own('root'), metainfo=dict(classes=_own('classes'))))]
    packs: dict[str, str] = {}
    for split in SPLITS:
        parts += _loader(cfg, split, data, where, packs)
    for split in SPLITS[1:]:
        evaluator: dict[str, Any] = dict(_delete_=True, type='CocoMetric')
        if data.is_coco:
            evaluator['ann_file'] = Code(f'join(_base_.own_root, _base_.own_{split}.ann_file)')
        evaluator['metric'] = ['bbox', 'segm'] if masks else 'bbox'
        parts.append(assignment(f'{split}_evaluator', evaluator))
    parts.append(assignment('model', _classes(cfg, where)))
    imports = 'from os.path import join\n\n' if data.is_coco else ''
    return imports + ''.join(parts)


def _own(name: str) -> Code:
    return Code(f'_base_.own_{name}')


def _with_masks(cfg: Config) -> str:
    """The config key of what reads masks in training; empty without."""
    for key, leaf in leaves((cfg.get('train_dataloader') or {}).get('dataset'), 'train_dataloader.dataset'):
        for i, step in enumerate((leaf or {}).get('pipeline') or ()):
            if type_name(step.get('type')) == 'LoadAnnotations' and (step.get('with_mask') or step.get('with_seg')):
                return f'{key}.pipeline[{i}]'
    return ''


def _loader(cfg: Config, split: str, data: OwnData, where: str, packs: dict[str, str]) -> Iterator[str]:
    """The assignment of a loader: its own data set, inside of what the detector wraps around one."""
    name = f'{split}_dataloader'
    loader = cfg.get(name)
    if not isinstance(loader, Mapping) or not loader.get('dataset'):
        raise ValueError(f'{where} has no {name}.dataset, whose pipeline could be kept')
    key, leaf = next(leaves(loader.dataset, 'dataset'))
    if not leaf.get('pipeline'):
        raise ValueError(f'{where}: {name}.{key} has no pipeline that could be kept')
    if leaf.get('proposal_file'):
        raise ValueError(f'{where}: {name}.{key} reads proposals, which other data do not have')
    # of several sets that are concatenated, the one set here takes the place of all
    path = key.split('.')
    at = '.'.join(path).replace('.datasets.', '.datasets[', 1) + (']' if 'datasets' in path else '')
    outer = path[: path.index('datasets')] if 'datasets' in path else path
    pipeline = Code(f'_base_.{name}.{at}.pipeline')
    if split != 'train' and not data.is_coco:
        packed, pipeline = _packed(pipeline, leaf.pipeline, packs)
        yield packed
    inner: dict[Any, Any] = {'_delete_': True, Code('**own'): None, Code(f'**_base_.own_{split}'): None}
    inner |= {option: value for option, value in leaf.items() if option in _KEPT}
    if split == 'train':
        # a VOC box without area becomes an ignored one
        smallest = {} if data.is_coco else dict(bbox_min_size=1)
        inner['filter_cfg'] = dict(filter_empty_gt=True, min_size=32, **smallest)
    else:
        inner['test_mode'] = True
    inner['pipeline'] = pipeline
    for option in reversed(outer):
        inner = {option: inner}
    yield assignment(name, inner)


def _packed(pipeline: Code, steps: Any, packs: dict[str, str]) -> tuple[str, Code]:
    """A pipeline whose images carry the ground truth that ``CocoMetric`` makes its own of; each is written once."""
    if 'instances' in (keys := tuple(steps[-1].get('meta_keys') or _META_KEYS)):
        return '', pipeline
    text = repr(steps)
    if text in packs:
        return '', Code(packs[text])
    packs[text] = name = f'own_pipeline{len(packs) or ""}'
    last = {Code(f'{pipeline}[-1]'): None, 'meta_keys': (*keys, 'instances')}
    comment = "# 'instances' lets CocoMetric make its ground truth of the XML files.\n"
    return comment + assignment(name, [Code(f'*{pipeline}[:-1]'), last]), Code(name)


def _classes(cfg: Config, where: str) -> dict[str, Any]:
    """The changes of a model that give every head as many classes as the data have."""
    counts = [count for _, count in _head_counts(cfg.model, 'model')]
    named = len(config_classes((cfg.train_dataloader or {}).get('dataset')) or ())
    before = named if named in counts else counts[0] if len({*counts}) == 1 else None
    if before is None:
        found = ', '.join(f'{key}={count}' for key, count in _head_counts(cfg.model, 'model')) or 'none'
        raise ValueError(
            f'{where}: which num_classes of its heads are those of the data is not known (found: {found}; its data '
            f'have {named} classes); write this config by hand'
        )
    return _changes(cfg.model, '_base_.model', before, False, where)


def _head_counts(node: Any, key: str, inside: bool = False) -> Iterator[tuple[str, int]]:
    """Every ``num_classes`` in a head, but not in one of proposals."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == 'num_classes' and inside and isinstance(value, int):
                yield f'{key}.{name}', value
            elif name != 'rpn_head':
                yield from _head_counts(value, f'{key}.{name}', inside or name.endswith('head'))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _head_counts(value, f'{key}[{i}]', inside)


def _changes(node: Mapping[str, Any], base: str, before: int, inside: bool, where: str) -> dict[str, Any]:
    """What differs in ``node``, which is called ``base`` in the file: nested dicts, and expressions for lists."""
    changes: dict[str, Any] = {}
    for name, value in node.items():
        key = f'{base}.{name}'
        if name in ('num_things_classes', 'num_stuff_classes') or (
            name == 'class_weight' and isinstance(value, (list, tuple))
        ):
            raise ValueError(
                f'{where}: {key.removeprefix("_base_.")}={shown(value)} cannot be fitted to other classes; write this '
                'config by hand'
            )
        if name == 'num_classes' and inside and value == before:
            changes[name] = COUNT
        elif isinstance(value, Mapping) and name != 'rpn_head':
            if found := _changes(value, key, before, inside or name.endswith('head'), where):
                changes[name] = found
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) for item in value):
            found = [_changes(item, 'head', before, inside or name.endswith('head'), where) for item in value]
            if any(found) and any(item != found[0] for item in found):
                raise ValueError(
                    f'{where}: the entries of the list {key.removeprefix("_base_.")} have num_classes at different '
                    'places; write this config by hand'
                )
            if found[0]:
                changes[name] = Code(f'[{_merged("head", found[0])} for head in {key}]')
    return changes


def _merged(name: str, changes: Mapping[str, Any]) -> str:
    """The expression of a dict with changes."""
    items = [f'{k}={_merged(f"{name}.{k}", v) if isinstance(v, Mapping) else v}' for k, v in changes.items()]
    return f'dict({name}, {", ".join(items)})'
