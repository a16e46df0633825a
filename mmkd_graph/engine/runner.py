"""mmengine's runner, for trainings that are killed, resumed and started twice."""

from __future__ import annotations

import copy
import errno
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from mmkd_graph.checkpoints import HOW_TO_TRUST, TRUST, allow_logs, is_address, refusal, weights_only
from mmkd_graph.distillers import GraphDistiller
from mmkd_graph.distillers.initial import initialising
from mmkd_graph.distillers.missing import missing_weights
from mmkd_graph.findings import one_line
from mmkd_graph.losses.names import changed_losses, distilled_losses
from mmkd_graph.registry import RUNNERS
from mmkd_graph.unwrapping import unwrapped

from .errors import NotStarted, WrongInput
from .guards import check_data, check_folder, check_weights, guard
from .interrupts import command_to_go_on, ended_by_signals, hidden_cause, raise_pending
from .lock import WorkDirLock
from .resuming import Start, differences, find_start, named_checkpoint

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@RUNNERS.register_module()
class TrainingRunner(Runner):
    """mmengine's ``Runner`` with everything that guards a training; see docs/robustness.md.

    - The config gets this package's sampler, checkpoint hook and guards (:func:`~mmkd_graph.engine.guards.guard`).
    - One training at a time writes in a work dir (:class:`~mmkd_graph.engine.lock.WorkDirLock`).
    - Annotations, and files that weights come from, are looked through before data loaders are built; files that hold
      more than weights are refused.
    - ``resume`` goes on from the last checkpoint that is whole, with the seed of its run, or from ``load_from`` where
      there is none (``resume='auto'``). A checkpoint of another make-up is refused before anything of it is loaded.
    - A validation that was due when the training was killed is made up for.
    - Ctrl-C and SIGTERM end the program with a line, the exit code 130 or 143, and no worker left.

    Testing never resumes. The config that is left in the work dir does not either.

    Raises:
        NotStarted: by the constructor and by :meth:`train`, on all processes, if a training cannot be started.

    Example:
        >>> runner_type = 'mmkd_graph.TrainingRunner'  # in a config, for tools/train.py of mmdet and for mim
    """

    def __init__(
        self, *args: Any, load_from: str | None = None, resume: bool | str = False, cfg: Any = None, **kwargs: Any
    ) -> None:
        self._asked = (load_from, resume)
        self._start: Start | None = None
        self._lock: WorkDirLock | None = None
        if resume and cfg is not None:  # the config that is written down starts anew, wherever it is used
            cfg = copy.deepcopy(cfg)
            cfg['resume'] = False
            if resume != 'auto':
                cfg['load_from'] = None
        check_folder(kwargs['work_dir'] if 'work_dir' in kwargs else args[1])
        try:
            super().__init__(*args, load_from=load_from, resume=bool(resume), cfg=cfg, **kwargs)
        except OSError as error:
            if error.errno not in CANNOT_WRITE:
                raise
            raise NotStarted(f'no space is left on the disk, or it is not allowed: {error}') from error

    @classmethod
    def from_cfg(cls, cfg: Any) -> TrainingRunner:
        """Build a runner from a config, with the guards around it."""
        allow_logs()
        cfg = copy.deepcopy(cfg)
        guard(cfg)
        return super().from_cfg(cfg)

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        """Set the seed; of a training that goes on without one, that of the run so far.

        mmengine takes over the seed of a checkpoint only after the data loader has been built with another one.
        """
        if self._start is None:  # in the constructor, when the processes have met
            self._seen = named_checkpoint(self.work_dir)
            self._start = self._together(lambda: find_start(self.work_dir, *self._asked, sharded=False))
            if seed is None and self._start.seed is not None:
                seed = self._start.seed
                self._randomness_cfg = dict(self._randomness_cfg, seed=seed)
        super().set_randomness(seed, diff_rank_seed, deterministic)

    def train(self) -> nn.Module:
        """Train; see the class.

        Raises:
            NotStarted: if the training cannot be started.
            FloatingPointError: by hooks, at losses and weights that are not finite.
        """
        with ended_by_signals(command_to_go_on):
            try:
                self._prepare()
                return super().train()
            except Exception as error:
                raise_pending(error)
                cause = hidden_cause(error)
                if cause is error:
                    raise
                raise cause from None
            finally:
                if self._lock is not None:
                    self._lock.release()

    def test(self) -> dict[str, Any]:
        """Test; ``resume`` only says which weights."""
        self._load_only()
        return super().test()

    def val(self) -> dict[str, Any]:
        """Validate; ``resume`` only says which weights."""
        self._load_only()
        return super().val()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks, unless the training is to end."""
        raise_pending()
        super().call_hook(fn_name, **kwargs)

    def load_or_resume(self) -> None:
        """Load or resume, if the checkpoint is one of this training.

        Raises:
            WrongInput: naming what differs.
        """
        local = self._resume and not self._has_loaded and not is_address(self._load_from)
        if found := local and differences(self._load_from, self.model, self.optim_wrapper):
            raise WrongInput(
                f'--resume: {self._load_from} is a checkpoint of another training: {"; ".join(found)}. Accepted: one '
                'of this config; load_from takes over the weights that fit'
            )
        super().load_or_resume()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Load weights, from a file that holds nothing else than weights and logs.

        Raises:
            WrongInput: if it holds more.
        """
        with _weights_alone(str(filename)):
            try:
                return super().load_checkpoint(filename, *args, **kwargs)
            except Exception as error:  # of networks and files
                if missing := missing_weights(error, 'load_from', str(filename)):
                    raise WrongInput(str(missing)) from error
                raise

    def _init_model_weights(self) -> None:
        model = unwrapped(self.model)
        with _weights_alone("a file of the model's init_cfg or pretrained"), initialising(model, 'model', 'model'):
            super()._init_model_weights()

    def _prepare(self) -> None:
        """Everything that can be known before data loaders are built."""
        if self._together(self._take_lock):  # the other training may have saved meanwhile
            self._start, asked = None, dict(self._randomness_cfg)
            self.set_randomness(**asked)
        start = self._start
        for reason in start.passed_over:
            self.logger.warning(f'--resume: passed over {reason}')
        if start.error:
            raise WrongInput(start.error)
        self._compare_losses(start)
        for change in changed_losses(start.config):
            self.logger.warning(f'--resume: {change}')

        def look() -> None:
            check_weights(start)
            check_data(self.cfg, self.logger.warning)

        self._together(look)
        self._load_from, self._resume = start.path, start.resume

    def _compare_losses(self, start: Start) -> None:
        """A plain training does not go on as a distillation, nor the reverse; other losses are a warning."""
        before = distilled_losses(start.config) if start.resume else None
        if before is None:
            return
        distils = isinstance(unwrapped(self.model), GraphDistiller)
        now = [*unwrapped(self.model).distill.losses] if distils else []
        if bool(before) != distils:
            was = f'a distillation (losses {", ".join(before)})' if before else 'a detector alone'
            kind = f'{type(unwrapped(self.model)).__name__!r} is {"a distillation" if distils else "none"}'
            raise WrongInput(
                f'--resume: {start.path} is a checkpoint of {was}, and model.type={kind}. Accepted: the config that '
                'this training began with; load_from takes over the weights'
            )
        if {*before} != {*now}:
            self.logger.warning(f'--resume: it began with the losses {", ".join(before)}, and has {", ".join(now)} now')

    def _take_lock(self) -> bool:
        self._lock = WorkDirLock(self.work_dir)
        try:
            waited = self._lock.acquire(self.logger.warning)
        except OSError as error:
            raise NotStarted(f'{self._lock.path} cannot be written: {error.strerror or error}') from error
        return waited or named_checkpoint(self.work_dir) != self._seen

    def _load_only(self) -> None:
        if self._resume:
            self._load_from, self._resume = self._load_from or self._start.path, False

    def _together(self, ask: Callable[[], Any]) -> Any:
        """The answer, or the error, of the first process on all of them."""
        outcome: list[Any] = [None, None]
        if is_main_process():
            try:
                outcome[0] = ask()
            except (NotStarted, OSError) as error:
                outcome[1] = error
            except Exception as error:  # of any kind, which may not travel to the other processes
                print_log(traceback.format_exc(), 'current', logging.ERROR)
                outcome[1] = NotStarted(one_line(error))
        broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


@RUNNERS.register_module()
class TestingRunner(Runner):
    """mmengine's ``Runner`` for tests: the config of a training that is in the work dir stays.

    That of the test is in ``<work dir>/<time>/vis_data/config.py``. ``tools/test.py`` uses it.

    Example:
        >>> runner_type = 'mmkd_graph.TestingRunner'
    """

    def dump_config(self) -> None:
        """Write the config down, unless there is one of this name."""
        if not Path(self.work_dir, Path(self.cfg.filename or '').name).is_file():
            super().dump_config()


@contextmanager
def _weights_alone(what: str) -> Iterator[None]:
    try:
        with weights_only():
            yield
    except Exception as error:
        if TRUST in str(error):  # said already, with the file's name
            raise WrongInput(str(error)) from error
        if 'more than weights' not in refusal(error):
            raise
        reason = f'{refusal(error)}; reading it can run code that is in it. {HOW_TO_TRUST}'
        raise WrongInput(f'{what}: {reason}') from error
