"""What ``train.py`` and ``test.py`` share: their common options, the config, the processes, the runner."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

if find_spec('mmkd_graph') is None:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quiet import without_optional_parts

from mmkd_graph.engine.interrupts import exit_at_signals

if Path(__file__).resolve().parent in Path(sys.argv[0]).resolve().parents:  # imported by a program of this folder
    exit_at_signals()


def import_yapf(attempts: int = 20, pause: float = 0.25) -> None:
    """Import what mmengine formats configs with, before mmengine does, and again if its cache is just being written.

    At its first import for a user yapf writes its grammar into a cache, under the final name before all of it is there:
    of several processes that start together one may read a part.

    Raises:
        EOFError, UnpicklingError: if the cache is not whole after so many ``attempts``, ``pause`` seconds apart.
    """
    for attempt in range(1, attempts + 1):
        try:
            import yapf  # noqa: F401
        except (EOFError, UnpicklingError):
            if attempt == attempts:
                raise
            time.sleep(pause)
        else:
            return


import_yapf()
with without_optional_parts():
    import mmdet.datasets  # noqa: F401
    import torch.distributed as dist
    from mmdet.utils import setup_cache_size_limit_of_dynamo
    from mmengine.config import Config, DictAction
    from mmengine.device import get_device
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmkd_graph.checking.origins import config_error
    from mmkd_graph.checkpoints import TRUST, allow_logs, trust_files
    from mmkd_graph.engine.errors import NotStarted
    from mmkd_graph.engine.resuming import is_address
    from mmkd_graph.registry import type_name

# What each launcher calls rank, number of processes, rank on the node; torchrun's names are torch's own.
RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


_NEEDLESS = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')
"""What mmengine warns its own hooks of."""


def fail(message: str) -> NoReturn:
    """Say what is wrong with the input, in one line, and end with exit code 2."""
    say(f'error: {message}')
    raise SystemExit(2)


def say(message: str) -> None:
    """Write one line, under the program's name, to where errors go."""
    print(f'{Path(sys.argv[0]).name}: {" ".join(message.split())}', file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing have in common, as MMDetection's tools name them."""
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
    if not Path(args.config).is_file():
        fail(f'no config file {args.config!r}')
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:  # a config is a program: it may raise anything
        if args.traceback:
            raise
        fail(f'config {args.config!r} cannot be read: {type(error).__name__}: {error}{_remedy(error)}')
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        fail(f'--cfg-options do not fit config {args.config!r}: {type(error).__name__}: {error}')
    if 'model' not in cfg:
        fail(f'config {args.config!r} has no model')
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def _remedy(error: Exception) -> str:
    """What to do where mmengine alone says what it does not allow."""
    if 'Duplicate key' not in str(error):
        return ''
    return (
        ". A base that is a whole detector has data of its own: write the other file's settings below _base_, or give "
        "that file the detector as its _base_ and make it the only one here; see README.md, 'Your own data'"
    )


def check_checkpoint(path: str, option: str) -> None:
    """End the program if ``path`` names a local file that is not there; addresses are left to mmengine."""
    if not is_address(path) and not Path(path).exists():
        fail(f'{option}: no checkpoint file {path!r}')


def is_first_process(cfg: Config) -> bool:
    """Whether this is the only process, or the one of rank 0, by what the launcher left in the environment."""
    return cfg.launcher == 'none' or os.environ.get(RANK_VARIABLES[cfg.launcher][0], '0') == '0'


def class_name(cfg: Mapping[str, Any]) -> str:
    """Name, without scope or module, of the class that a config asks for, be it given as text or as the class."""
    return type_name(cfg.get('type'))


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
        fail(f'--launcher {cfg.launcher}: no {", ".join(missing)} in the environment; see tools/dist_*.sh, slurm_*.sh')
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
