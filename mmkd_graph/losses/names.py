"""Names, options and choices of losses that configs and checkpoints may still hold; to go in version 0.3."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.logging import print_log
from mmengine.registry import Registry

from mmkd_graph.registry import MODELS, type_name

RENAMED = {
    'AttentionGraphLoss': 'MHGDLoss',
    'ChannelGraphLoss': 'CRGLoss',
    'ChannelWiseLoss': 'CWDLoss',
    'FeatureMSELoss': 'FitNetLoss',
    'FocalGlobalLoss': 'FGDLoss',
    'LowFrequencyContrastiveLoss': 'LFCCLoss',
    'MaskedGenerativeLoss': 'MGDLoss',
    'PearsonLoss': 'PKDLoss',
    'RelationshipMatchingLoss': 'REFILLEDLoss',
}
"""Old name of a class to its name."""

CHANGED = {
    'ChannelGraphLoss': 'it compares graphs of windows, with their whole spectrum, instead of graphs of whole maps',
    'AttentionGraphLoss': 'it sees the sign of cells, and its own network trains at weight 1',
    'LowFrequencyContrastiveLoss': 'its filters are averages; the optimizer state of learned ones cannot be resumed '
    '(load_from takes the weights alone)',
}
"""Old name of a class that is more than renamed, to what is different."""

_SPECTRUM = 'the whole spectrum is compared, exactly; remove it'
_GRAPHS = 'a graph has cosines shifted into [0, 1] as edges and is that of a window; remove it'
_RANK = 'every rank compares its own samples; remove it'
_AVERAGE = 'a low-pass filter is the average over its window; remove it'
_ATTENTION = 'temperature=None switches the attention off, a number gives it to cells and to channels of the vertices'
GONE = {
    'CRGLoss': dict(
        vertex='features are compared relative to the energy of the teacher; remove it',
        affinity=_GRAPHS,
        graph=_GRAPHS,
        weights=_GRAPHS,
        knn=_GRAPHS,
        k=_SPECTRUM,
        skip_trivial=_SPECTRUM,
        distance='the difference in the diffusion map of the teacher is the one distance; remove it',
        solver='no eigenvectors are computed; remove it',
        diffusion_time='the diffusion map is that of one step; remove it',
        taper=_SPECTRUM,
        spatial_attention=_ATTENTION,
        channel_attention=_ATTENTION,
        relational_attention='edges have no attention of their own; remove it',
    ),
    'LFCCLoss': dict(gather=_RANK, student_filters=_AVERAGE, teacher_filters=_AVERAGE),
    'MHGDLoss': dict(gather=_RANK),
    'REFILLEDLoss': dict(gather=_RANK),
}
"""Name of a class to the options that it had, and what takes their place."""

LEVEL_WEIGHTS = {'alike': 'equal', 'cells': 'area'}
"""Old choice of ``level_weights`` to its name."""


def current_config(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A loss's config under the names of its type and choices; one line in the log for each that was another.

    Args:
        config: ``dict(type=…, …)``.
        key: where it stands, for the messages.

    Raises:
        ValueError: if it has options that are gone; says what takes their place.

    Example:
        >>> current_config(dict(type='CRGLoss', k=16), 'losses.crg')
        Traceback (most recent call last):
        ...
        ValueError: losses.crg.k is gone: the whole spectrum is compared, exactly; remove it
    """
    config = dict(config)
    kind = config['type']
    name = type_name(kind)
    place = kind.__module__ if isinstance(kind, type) else str(kind)
    if place != name and not place.startswith('mmkd_graph.'):  # another package's
        return config
    if place == name and any(_is_of_others(registry, name) for registry in (MODELS, MMDET_MODELS)):
        return config
    renamed = {}
    if isinstance(kind, str) and name in RENAMED:
        name = RENAMED[name]
        renamed['type'] = f'mmkd_graph.{name}'
    weights = config.get('level_weights')
    if name in RENAMED.values() and isinstance(weights, str) and weights in LEVEL_WEIGHTS:
        renamed['level_weights'] = LEVEL_WEIGHTS[weights]
    for option, new in renamed.items():
        message = f'{key}.{option}={config[option]!r} is {new!r} now; the old name works until version 0.3'
        print_log(message, 'current', logging.WARNING)
    config |= renamed
    gone = [f'{key}.{option} is gone: {instead}' for option, instead in GONE.get(name, {}).items() if option in config]
    if gone:
        raise ValueError(' | '.join(gone))
    return config


def _is_of_others(registry: Registry, name: str) -> bool:
    """Whether a plain name is that of a class which somebody else has registered."""
    return name in registry.module_dict and not registry.module_dict[name].__module__.startswith('mmkd_graph.')


def rename_losses(model: MutableMapping[str, Any]) -> None:
    """:func:`current_config` of all losses of a distillation, in place, so that its checkpoints hold their names.

    Example:
        >>> model = dict(losses=dict(pkd=dict(type='PKDLoss')))
        >>> rename_losses(model)
        >>> model
        {'losses': {'pkd': {'type': 'PKDLoss'}}}
    """
    losses = model.get('losses')
    if not isinstance(losses, MutableMapping):
        return
    for name, config in list(losses.items()):
        if isinstance(config, Mapping) and 'type' in config:
            losses[name] = current_config(config, f'model.losses.{name}')


def changed_losses(config: str) -> list[str]:
    """What losses of a training are others than when it was begun, one sentence for each.

    Args:
        config: text of the training's config as its checkpoints hold it, ``meta['cfg']``. It is read, never run.

    Example:
        >>> changed_losses("model = dict(losses=dict(crg=dict(type='mmkd_graph.ChannelGraphLoss')))")[0][:60]
        'losses.crg was a ChannelGraphLoss and goes on as CRGLoss: it'
    """
    changed = []
    for name, loss in _losses(config).items():
        given = loss.get('type')
        kind = type_name(given.value) if isinstance(given, ast.Constant) else ''
        if kind in CHANGED:
            sentence = f'losses.{name} was a {kind} and goes on as {RENAMED[kind]}: {CHANGED[kind]}'
            measured = '; the weight that was measured for the old one stays' if _items(loss.get('loss_weight')) else ''
            changed.append(sentence + measured)
    return changed


def distilled_losses(config: str) -> list[str] | None:
    """Names of the losses of a distillation, of its config as :func:`changed_losses` reads it.

    Returns:
        The names; empty for a plain detector, None where the text holds no model.

    Example:
        >>> distilled_losses("model = dict(losses=dict(crg=dict(type='mmkd_graph.CRGLoss')))")
        ['crg']
    """
    model = _model(config)
    return [*_items(model.get('losses'))] if model else None


def _losses(config: str) -> dict[str, dict[str, ast.expr]]:
    """Options of every loss in the text of a config, by its key; empty for what is no distillation's."""
    return {name: _items(loss) for name, loss in _items(_model(config).get('losses')).items()}


def _model(config: str) -> dict[str, ast.expr]:
    """The model in the text of a config; empty where there is none."""
    try:
        statements = ast.parse(config).body
    except (SyntaxError, ValueError):
        return {}
    models = [
        statement.value
        for statement in statements
        if isinstance(statement, ast.Assign) and any(getattr(x, 'id', None) == 'model' for x in statement.targets)
    ]
    return _items(models[-1]) if models else {}


def _items(node: ast.expr | None) -> dict[str, ast.expr]:
    """Items of ``dict(…)`` or ``{…}`` whose keys are text."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {word.arg: word.value for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        keys = ((key.value if isinstance(key, ast.Constant) else None) for key in node.keys)
        return {key: value for key, value in zip(keys, node.values, strict=True) if isinstance(key, str)}
    return {}
