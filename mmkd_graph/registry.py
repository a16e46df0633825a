"""Registries of the scope ``mmkd_graph``.

They are children of mmengine's root registries, as mmdet's are. ``locations`` names the modules whose
import registers the classes, so a config only has to write ``type='mmkd_graph.GraphDistiller'``: mmengine
imports this module for the prefix and the locations on the first look-up.
"""

from importlib.util import find_spec
from typing import Any

if missing := [name for name in ('mmengine', 'mmcv', 'mmdet') if find_spec(name) is None]:
    raise ImportError(
        f'mmkd_graph needs an MMDetection 3.x stack; not installed: {", ".join(missing)}. '
        "Install torch, then: pip install 'setuptools<81' wheel ninja psutil packaging && "
        'pip install --no-build-isolation -r requirements/mmdet.txt (or requirements/upstream.txt)'
    )

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import Registry, build_runner_from_cfg

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmkd_graph',
    locations=['mmkd_graph.backbones', 'mmkd_graph.distillers', 'mmkd_graph.losses', 'mmkd_graph.necks'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkd_graph', locations=['mmkd_graph.hooks'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmkd_graph', locations=['mmkd_graph.datasets.seeding']
)
RUNNERS = Registry(
    'runner',
    build_func=build_runner_from_cfg,
    parent=MMENGINE_RUNNERS,
    scope='mmkd_graph',
    locations=['mmkd_graph.engine.runner'],
)


def type_name(kind: Any) -> str:
    """Name, without scope or module, of what a config's ``type`` asks for, be it text or the class.

    Example:
        >>> type_name('mmdet.RetinaNet'), type_name(Registry)
        ('RetinaNet', 'Registry')
    """
    return kind.__qualname__ if isinstance(kind, type) else str(kind).rsplit('.', 1)[-1]
