"""Train a detector, distilled or plain. The options are those of MMDetection's ``tools/train.py``.

A killed training goes on with ``--resume`` as if nothing had happened; see docs/robustness.md.
"""

from __future__ import annotations

import argparse
import sys

try:
    from mmkd_graph.engine.start import start
except ModuleNotFoundError as error:
    sys.exit(
        f'train.py: error: {sys.executable} has no {error.name}; in the root of the checkout: '
        'source .venv/bin/activate if there is a .venv, else make install'
    )

if __name__ == '__main__':
    start()

from mmengine.config import Config

from mmkd_graph.checking import CheckFailed
from mmkd_graph.checkpoints import is_address
from mmkd_graph.datasets.reading import UnreadableImage
from mmkd_graph.engine.errors import NotStarted, WrongInput
from mmkd_graph.engine.guards import check_data, check_weights, guard
from mmkd_graph.engine.interrupts import (
    command_to_go_on,
    ended_by_signals,
    hidden_cause,
    is_first_rank,
    is_worker_death,
    raise_pending,
    say,
)
from mmkd_graph.engine.launch import (
    add_options,
    apply_training_options,
    build_runner,
    config_errors,
    leave_processes,
    load_config,
)
from mmkd_graph.engine.resuming import find_resume_point, find_start, named_checkpoint
from mmkd_graph.engine.runner import CANNOT_WRITE
from mmkd_graph.findings import one_line
from mmkd_graph.losses.names import changed_losses
from mmkd_graph.packaged import command

RUNNER = 'mmkd_graph.TrainingRunner'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default work_dirs/<config name>')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size, by auto_scale_lr'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the last whole one in the work dir, if there is one',
    )
    parser.add_argument('--no-check', action='store_true', help='start even if TrainingCheckHook would stop it')
    add_options(parser)
    return parser.parse_args()


def guard_other_runner(cfg: Config) -> None:
    """Do for another runner that the config names what ``TrainingRunner`` does by itself, as far as it can be done.

    Raises:
        NotStarted: if the training cannot be started.
    """
    guard(cfg)
    start = find_start(cfg.work_dir, cfg.get('load_from'), cfg.get('resume', False), sharded=True)
    if is_first_rank():
        for reason in (*(f'passed over {reason}' for reason in start.passed_over), *changed_losses(start.config)):
            say(f'--resume: {reason}')
    if start.error:
        raise WrongInput(start.error)
    cfg.load_from, cfg.resume = start.path, start.resume
    if start.seed is not None and (cfg.get('randomness') or {}).get('seed') is None:
        # mmengine takes over the seed of a checkpoint only after the data loader has been built with another one
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=start.seed)
    if is_first_rank():
        check_weights(start)
        check_data(cfg, say)


def main() -> None:
    args = parse_args()
    with ended_by_signals(command_to_go_on):
        cfg = load_config(args)
        apply_training_options(cfg, args)
        if args.no_check:
            cfg.training_check = False
        try:
            if cfg.setdefault('runner_type', RUNNER) != RUNNER:
                guard_other_runner(cfg)
            runner = build_runner(cfg, args)
            with config_errors(cfg, args):
                runner.train()
        except Exception as error:
            raise_pending(error)
            end(hidden_cause(error), cfg)
        leave_processes()


def end(error: BaseException, cfg: Config) -> None:
    """End with a line for what is known to go wrong; raise what is not."""
    if isinstance(error, NotStarted):
        if is_first_rank():
            say(f'error: {error}')
        sys.exit(error.code)
    if isinstance(error, CheckFailed):
        if is_first_rank():
            for failure in error.failures:
                say(str(failure))
            more = f'{command("check.py")} tells more'
            say(f'error: the training was not started; {more}, --no-check starts it all the same')
        sys.exit(1)
    if isinstance(error, FloatingPointError):
        stop(str(error), cfg)
    if isinstance(error, UnreadableImage):
        stop(one_line(error), cfg)
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        stop(f'no space is left on the disk, or it is not allowed: {error}', cfg)
    if is_worker_death(error):
        died = str(error).strip().rstrip('.')
        stop(f'{died}; often: no memory was left, also in /dev/shm, of which fewer num_workers need less', cfg)
    raise error


def stop(reason: str, cfg: Config) -> None:
    """End with a reason and exit code 1, and say from where ``--resume`` would go on."""
    path = named_checkpoint(cfg.work_dir)
    if not is_address(path):  # a damaged file may be named
        point, _ = find_resume_point(cfg.work_dir)
        path = point.path if point else ''
    rest = f'--resume goes on from {path}' if path else 'there is no checkpoint to go on from yet'
    say(f'error: {reason}; {rest}')
    sys.exit(1)


if __name__ == '__main__':
    main()
