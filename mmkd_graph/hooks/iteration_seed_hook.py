"""Make what the model draws depend on the iteration, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkd_graph.datasets.seeding import seed_generators
from mmkd_graph.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed all random generators before every training iteration with the run's seed, the rank and the iteration.

    Checkpoints of mmengine hold no states of random generators: after a resume, dropout and the sampling of
    proposals start their sequences again. With this hook nothing needs to be saved, and nothing that ran in
    between (validation, drawing, other hooks) has an influence. The data's random numbers are the business of
    :class:`~mmkd_graph.datasets.seeding.SeededSampler`. ``tools/train.py`` adds both to every training.
    """

    # before anything else of the iteration draws
    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed Python, NumPy, torch and the accelerators."""
        seed_generators(runner.seed, get_rank(), runner.iter, devices=True)
