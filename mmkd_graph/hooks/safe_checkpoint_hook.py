"""Checkpoints that are complete or not there, of which the last good one is never gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mmkd_graph.checkpoints import is_address, remove_partial
from mmkd_graph.datasets.metainfo import common_metainfo
from mmkd_graph.plain import plain
from mmkd_graph.registry import HOOKS
from mmkd_graph.unwrapping import unwrapped


class _RemovesLater:
    """A storage backend that only takes note of what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.noted: dict[str, Callable[[], None]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.noted[path] = partial(self.backend.remove, path)

    def rmtree(self, path: str) -> None:
        self.noted[path] = partial(self.backend.rmtree, path)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with the same arguments, for machines on which processes are killed.

    - A local file is written under another name and renamed when all of it is on the disk.
    - What ``max_keep_ckpts`` and ``save_best`` no longer want is removed after the new file is there (mmengine
      removes first; between the two, ``max_keep_ckpts=1`` leaves nothing). The disk needs room for one file more.
    - Parameters that are NaN or infinite are not saved: the training stops, and the checkpoint before stays the last.
    - Of several processes, the buffers of those that differ from the first one's are saved too (``buffers_of_ranks``:
      running statistics are each rank's own), and given back to them when as many processes resume.
    - In the middle of a gradient accumulation, the gradients are saved too (of one process; several warn at the start
      that a resumed run will be near the uninterrupted one, not equal to it).
    - What is saved beside the weights (``meta``, ``message_hub.runtime_info``) is written as plain values, which can be
      read back as weights only. The ``dataset_meta`` of a ``ConcatDataset``, a list, becomes what its parts have in
      common, which mmdet's ``init_detector`` reads; the list itself is in ``meta['dataset_metas']``.

    ``tools/train.py`` puts it in the place of ``CheckpointHook``.

    Example:
        >>> default_hooks = dict(checkpoint=dict(type='mmkd_graph.SafeCheckpointHook', interval=1, max_keep_ckpts=1))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        local = not is_address(str(kwargs.get('out_dir') or ''))
        self._whole = local and kwargs.get('backend_args') is None and kwargs.get('file_client_args') is None
        if self._whole:
            kwargs['backend_args'] = dict(backend='mmkd_graph.whole')
        self._buffers: list[dict[str, Tensor]] = []
        self._told: set[str] = set()
        super().__init__(*args, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder; say when a resumed run will not be exact."""
        super().before_train(runner)
        if runner.iter and self.last_ckpt is None:
            # mmengine writes the last checkpoint again when there is a new best one, but forgets it in a resumed run
            self.last_ckpt = runner._load_from
        if not is_main_process():
            return
        if self._whole and Path(self.out_dir).is_dir():
            remove_partial(self.out_dir)
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        steps = self.interval * (len(runner.train_dataloader) if self.by_epoch else 1)
        if runner.distributed and steps > 0 and steps % counts:
            runner.logger.warning(
                f'optim_wrapper.accumulative_counts={counts}: checkpoints every {steps} iterations fall in the middle '
                'of an accumulation, whose gradients are lost in them; accepted for exact resuming: '
                f'default_hooks.checkpoint.interval a multiple of {counts}, or one process'
            )

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Save when it is due."""
        with self._removals_last():
            super().after_train_iter(*args, **kwargs)

    def after_train_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Save when it is due."""
        with self._removals_last():
            super().after_train_epoch(*args, **kwargs)

    def after_val_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Save the best when there is a new one."""
        with self._removals_last():
            super().after_val_epoch(*args, **kwargs)

    def _save_checkpoint_with_step(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # Here all ranks are; what follows of mmengine's is on the first alone. Sharded models save every rank's part.
        replicated = isinstance(runner.model, DistributedDataParallel)
        self._buffers = _other_buffers(runner.model.module) if replicated else []
        try:
            super()._save_checkpoint_with_step(runner, *args, **kwargs)
        finally:
            self._buffers = []

    @contextmanager
    def _removals_last(self) -> Iterator[None]:
        """Remove what is not wanted at the end, and nothing if anything failed before."""
        backend = getattr(self, 'file_backend', None)
        if backend is None:  # validation alone
            yield
            return
        self.file_backend = _RemovesLater(backend)
        try:
            yield
            wanted = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
            wanted |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
            for path, remove in self.file_backend.noted.items():
                if path not in wanted:
                    remove()
        finally:
            self.file_backend = backend

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite; add gradients that wait for their step.

        Raises:
            FloatingPointError: naming the parameters.
        """
        model = unwrapped(runner.model)
        states = (checkpoint['state_dict'], checkpoint.get('ema_state_dict', {}))
        broken = [
            name
            for name, _ in model.named_parameters()
            for key, state in zip((name, f'module.{name}'), states, strict=True)
            if key in state and not torch.isfinite(state[key]).all()
        ]
        if broken:
            more = f' and {len(broken) - 3} more' if len(broken) > 3 else ''
            raise FloatingPointError(
                f'parameters are NaN or infinite at iteration {checkpoint["meta"].get("iter")} and were not saved: '
                f'{", ".join(broken[:3])}{more}. The losses were finite, so their gradients were not; '
                'the checkpoint before is still there'
            )
        checkpoint['meta']['processes'] = get_world_size()
        if any(self._buffers):
            checkpoint['buffers_of_ranks'] = self._buffers
        if _is_accumulating(runner):
            gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
            checkpoint['gradients'] = gradients
        self._make_plain(runner, checkpoint)

    def _make_plain(self, runner: Runner, checkpoint: dict) -> None:
        as_text: list[str] = []
        meta = checkpoint['meta'] = plain(checkpoint['meta'], 'meta', as_text)
        if isinstance(meta.get('dataset_meta'), list):
            meta['dataset_metas'] = meta['dataset_meta']
            meta['dataset_meta'] = common_metainfo(meta['dataset_meta'])
        hub = checkpoint.get('message_hub')
        if isinstance(hub, dict) and 'runtime_info' in hub:
            info = plain(hub['runtime_info'], 'message_hub.runtime_info', as_text)
            checkpoint['message_hub'] = dict(hub, runtime_info=info)
        if new := [place for place in as_text if place not in self._told]:
            self._told.update(new)
            runner.logger.warning(f'saved in checkpoints as text, since it is no plain value: {", ".join(new)}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put this rank's buffers back, and gradients that wait for their step, if this is a resumed run."""
        if not runner._resume:  # as EMAHook asks
            return
        now = get_world_size()
        before = checkpoint.get('meta', {}).get('processes', now)
        others = checkpoint.get('buffers_of_ranks')
        if now != before:
            runner.logger.warning(
                f'{now} processes resume a run of {before}: the batches are others, and of another size together; all '
                'processes start with the running statistics of the first'
            )
        elif others:
            checkpoint['state_dict'].update(others[get_rank()])
        meta = checkpoint.get('meta', {})
        if 'dataset_meta' in meta:
            metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None)
            if _are_equal(plain(metainfo), meta.get('dataset_metas', meta['dataset_meta'])):
                meta['dataset_meta'] = metainfo  # mmengine compares the pickles of the two, not what they say
        parameters = dict(unwrapped(runner.model).named_parameters())
        for name, gradient in checkpoint.get('gradients', {}).items():
            parameters[name].grad = gradient.to(parameters[name])


def _other_buffers(model: torch.nn.Module) -> list[dict[str, Tensor]]:
    """The buffers of each rank in which it differs from the first one; those of the first are in the weights."""
    names = model.state_dict().keys()
    own = {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in names}
    first, *others = all_gather_object(own)
    return [{}, *({name: b for name, b in other.items() if not torch.equal(b, first[name])} for other in others)]


def _are_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # arrays in them
        return False


def _is_accumulating(runner: Runner) -> bool:
    wrapper = getattr(runner, 'optim_wrapper', None)
    return isinstance(wrapper, OptimWrapper) and not runner.distributed and not wrapper.should_update()
