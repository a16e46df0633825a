"""Every distillation loss: those of the package, of pyramids and of heads, and the one that docs/own_loss.md writes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from mmkd_graph.losses import LOSSES, DistillLoss, HeadLoss, PyramidLoss
from mmkd_graph.registry import MODELS

PAGE = Path(__file__).parents[1] / 'docs' / 'own_loss.md'


def example() -> str:
    """The code of the page's example."""
    return re.search(r'```python\n(# my_losses.py\n.+?)```', PAGE.read_text(), flags=re.DOTALL)[1]


def _run_example() -> type[PyramidLoss]:
    names: dict[str, Any] = dict(__name__='my_losses')
    exec(compile(example(), str(PAGE), 'exec'), names)
    return names['AttentionTransferLoss']


# This module may be imported under two names.
AttentionTransferLoss = MODELS.module_dict.get('AttentionTransferLoss') or _run_example()
METHODS = [*(kind for kind in LOSSES.values() if issubclass(kind, PyramidLoss)), AttentionTransferLoss]
HEAD_METHODS = [kind for kind in LOSSES.values() if issubclass(kind, HeadLoss)]


def options(method: type[DistillLoss]) -> dict[str, Any]:
    """What a loss has to be given."""
    return dict(num_classes=3) if takes(method, 'num_classes') else {}


def takes(method: type[DistillLoss], option: str) -> bool:
    return option in inspect.signature(method).parameters


def terms_of(method: type[DistillLoss]) -> set[str]:
    """Names of its terms: each has a weight; of a single term the weight may be that of the whole loss."""
    weights = {name for name in inspect.signature(method).parameters if name.endswith('_weight')}
    return {name.removesuffix('_weight') for name in weights} or {'contrast'}
