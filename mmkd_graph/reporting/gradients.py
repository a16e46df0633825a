"""How large the gradients of distillation losses are beside the task's: as training measured it, and at its end."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from numpy.typing import NDArray

from mmkd_graph.checking.training import publish_position
from mmkd_graph.checkpoints import weights_only
from mmkd_graph.datasets.seeding import seed_generators
from mmkd_graph.distillers import GraphDistiller, gradient_norms
from mmkd_graph.distillers.rng import preserved_rng
from mmkd_graph.registry import MODELS, type_name


@dataclass(frozen=True)
class Weight:
    """The weight of a loss.

    Attributes:
        loss: class of the loss.
        value: the weight; None if its measurement has not ended.
        ratio: the gradient ratio that the weight was measured for; None for a given number.
        passes: (n,) numbers of the measured passes, from 1.
        ratios: (n,) gradient norm of the loss at weight 1 in them, divided by the task's.
    """

    loss: str
    value: float | None
    ratio: float | None
    passes: NDArray[np.int64]
    ratios: NDArray[np.float64]


def loss_weights(config: Config, state: Mapping[str, Any]) -> dict[str, Weight]:
    """The weights of a distillation's losses, from its config and the weights in its checkpoint."""
    found = {}
    for name, loss in config.model.losses.items():
        weight = loss.get('loss_weight', 1.0)
        scales = np.asarray(state.get(f'distill.weights.{name}.scales', ()), dtype=np.float64)
        known = np.flatnonzero(np.isfinite(scales))
        ratio = weight.ratio if isinstance(weight, Mapping) else None
        value = float(weight) if ratio is None else None
        scale = float(state.get(f'distill.weights.{name}.scale', np.nan))
        if ratio is not None and np.isfinite(scale):
            value = ratio * scale
        found[name] = Weight(type_name(loss['type']), value, ratio, known + 1, 1 / scales[known])
    return found


def read_state(checkpoint: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """All weights in a training checkpoint, the distiller's too, and when it was saved; read as weights only."""
    with weights_only():
        content = torch.load(checkpoint, map_location='cpu')
    meta = content.get('meta') or {}
    return content['state_dict'], dict(iteration=meta.get('iter') or 0, epoch=meta.get('epoch') or 0)


def gradient_shares(
    config: Config, state: Mapping[str, Any], position: Mapping[str, int], device: str
) -> dict[str, float]:
    """Gradient norms at the tapped features on one training batch, as shares of the task's, as the losses are weighted.

    Returns:
        ``task`` is 1; ``<loss>`` all its terms together; ``<loss>.<term>`` each alone. The factor of a schedule is not
        in them, as it depends on the time.

    Raises:
        Exception: whatever prevents a training from being built again: teacher, data set.
    """
    publish_position(config, **position)
    with preserved_rng():
        seed_generators(0, devices=True)
        model: GraphDistiller = MODELS.build(copy.deepcopy(config.model))
        model.load_state_dict(state)
        model.to(device).train()
        loader = dict(config.train_dataloader, num_workers=0, persistent_workers=False)
        loader.pop('prefetch_factor', None)  # torch refuses it without workers
        with contextlib.redirect_stdout(io.StringIO()):  # of pycocotools
            batches = Runner.build_dataloader(loader, seed=0)
        batch = next(iter(batches))
        norms = gradient_norms(model, **model.data_preprocessor(batch, True))
    shares = {'task': 1.0}
    for name, weight in model.distill.weights.items():
        factor = (weight.value or 0.0) / norms.task
        own = model.distill.losses[name].own_terms
        shares[name] = factor * norms.losses[name]
        if len(norms.terms[name]) > 1:
            shares |= {
                f'{name}.{term}': (1 / norms.task if term in own else factor) * norm
                for term, norm in norms.terms[name].items()
            }
    return shares
