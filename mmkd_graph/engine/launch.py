"""From a command line to a runner: the options that the tools share, the config, the processes."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkd_graph.checking.origins import config_error
from mmkd_graph.checkpoints import TRUST, allow_logs, is_address, trust_files
from mmkd_graph.packaged import command, read_config

from .errors import NotStarted
from .interrupts import say

# What each launcher calls rank, number of processes, rank on the node; torchrun's names are torch's own.
RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}

_NEEDLESS = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')
"""Warnings of mmengine about its own hooks."""
_TWO_DATA = (
    ". A base that is a whole detector has data of its own: write the other file's settings below _base_. "
    f'{command("new_config.py")} --data does that for your data; see docs/own_data.md'
)


def fail(message: str) -> NoReturn:
    """Say what is wrong with the input, in one line, and end with exit code 2."""
    say(f'error: {message}')
    raise SystemExit(2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training, testing and checking have in common, as MMDetection's tools name them."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config: a.b=1 a.c=x,y or a.c="[(x,y),z]", without blanks',
    )
    parser.add_argument(
        '--launcher', choices=['none', *RANK_VARIABLES], default='none', help='who starts the processes'
    )
    parser.add_argument(
        '--traceback', action='store_true', help='where the config is wrong, show where that was noticed as well'
    )
    parser.add_argument(
        '--trust',
        action='store_true',
        help=f'read checkpoint files whatever is in them, code too; as the environment variable {TRUST}=1',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config``, put ``--cfg-options``, ``--launcher`` and ``--work-dir`` over it."""
    if args.trust:
        trust_files()
    cfg = read_or_fail(args.config, args.traceback)
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        fail(f'--cfg-options do not fit config {args.config!r}: {type(error).__name__}: {error}')
    if 'model' not in cfg:
        fail(f'config {args.config!r} has no model')
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def read_or_fail(config: str, traceback: bool = False) -> Config:
    """The config at a path or named ``package::folder/name.py``; else end with one line, or raise for a traceback."""
    if '::' not in config and not Path(config).is_file():
        fail(f'no config file {config!r}')
    try:
        return read_config(config)
    except Exception as error:  # a config is a program: it may raise anything
        if traceback:
            raise
        remedy = _TWO_DATA if 'Duplicate key' in str(error) else ''
        fail(f'config {config!r} cannot be read: {type(error).__name__}: {error}{remedy}')


def apply_training_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put ``--amp``, ``--auto-scale-lr`` and ``--resume`` into a config."""
    if args.amp:
        if 'optim_wrapper' not in cfg:
            fail('--amp: the config has no optim_wrapper')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        if not {'enable', 'base_batch_size'} <= set(cfg.get('auto_scale_lr', ())):
            fail('--auto-scale-lr: the config lacks auto_scale_lr = dict(enable=…, base_batch_size=…)')
        cfg.auto_scale_lr.enable = True
    if args.resume == 'auto':
        cfg.resume = 'auto'
    elif args.resume is not None:
        if not is_address(args.resume) and not Path(args.resume).exists():
            fail(f'--resume: no checkpoint file {args.resume!r}')
        cfg.resume, cfg.load_from = True, args.resume


@contextlib.contextmanager
def config_errors(cfg: Config, args: argparse.Namespace) -> Iterator[None]:
    """End with one line that names the config key where something of ``cfg`` cannot be built, or a hook refuses it."""
    try:
        yield
    except NotStarted:  # in words of its own
        raise
    except Exception as error:  # whatever a constructor raises
        line = None if args.traceback else config_error(error, cfg)
        if line is None:
            raise
        fail(f'{line}; --traceback shows where')


def build_runner(cfg: Config, args: argparse.Namespace) -> Runner:
    """Build the config's runner."""
    setup_cache_size_limit_of_dynamo()
    allow_logs()
    if cfg.launcher != 'none':
        join_processes(cfg, args.local_rank)
    with config_errors(cfg, args):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.logger.addFilter(lambda record: not record.getMessage().startswith(_NEEDLESS))
    return runner


def leave_processes() -> None:
    """Close the connections to the other processes, and end the program where threads of gloo's would abort its end."""
    if not dist.is_initialized():
        return
    gloo = dist.get_backend() == 'gloo'
    dist.barrier()
    dist.destroy_process_group()
    if gloo:  # now and then a thread is still alive at the interpreter's end: "terminate called", exit code -6
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def join_processes(cfg: Config, local_rank: int = 0) -> None:
    """Check what ``cfg.launcher`` left in the environment; on a machine without accelerators, join the processes.

    mmengine's own start would select a CUDA device, and give one to its model wrapper. The runner leaves a group
    alone that exists already and takes ``model_wrapper_cfg`` as it is: that makes a gloo group work.
    """
    names = RANK_VARIABLES[cfg.launcher]
    needed = names[:2] if cfg.launcher == 'slurm' else (*names[:2], 'MASTER_ADDR')
    if missing := [name for name in needed if name not in os.environ]:
        tools = 'dist_train, dist_test, slurm_train and slurm_test'
        fail(f'--launcher {cfg.launcher}: no {", ".join(missing)} in the environment; {tools} set them')
    os.environ.setdefault('LOCAL_RANK', os.environ.get(names[2], str(local_rank)))
    if get_device() != 'cpu':
        return

    rank, world_size = (int(os.environ[name]) for name in names[:2])
    settings = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if 'MASTER_ADDR' not in os.environ:
        nodes = subprocess.check_output(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']], text=True)
        os.environ['MASTER_ADDR'] = nodes.split()[0]
    os.environ.setdefault('MASTER_PORT', str(settings.get('port', 29500)))
    timeout = datetime.timedelta(seconds=settings['timeout']) if 'timeout' in settings else None
    dist.init_process_group('gloo', rank=rank, world_size=world_size, timeout=timeout)
    # torch's own names, for whatever asks the environment later
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))

    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
