"""Run commands on the Slurm of the tests, and wait for jobs."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Each task leaves a mark where it stands still, so that the test can stop it there and nowhere else.
PAUSE = """
import time
from pathlib import Path
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Pause(Hook):
    def __init__(self, after):
        self.after = after

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        mark = Path(runner.work_dir) / f'paused-{get_rank()}'
        if runner.iter == self.after and not mark.exists():
            mark.touch()
            time.sleep(300)
"""


def run(*command: object, **environment: str) -> str:
    """Run a command from the repository's root; what it printed."""
    settings = dict(GPUS='2', GPUS_PER_NODE='0', CPUS_PER_TASK='1', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        settings |= dict(MASTER_PORT=str(server.getsockname()[1]), PYTHON=sys.executable)
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    # tracebacks of all tasks; what is logged, to stdout, is mostly the config
    assert done.returncode == 0, done.stderr[-6000:] or done.stdout[-3000:]
    return done.stdout + done.stderr


def wait_until(condition: Callable[[], bool], log: Path, seconds: float = 120) -> None:
    """Poll; where it takes too long, fail with the end of the job's log."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log.read_text()[-3000:] if log.exists() else f'no {log.name}'
        time.sleep(0.2)


def job_field(job: str, name: str) -> str:
    """A field of ``scontrol show job``."""
    return re.search(rf'\b{name}=(\S+)', run('scontrol', 'show', 'job', job)).group(1)


def wait_for_the_end(job: str, log: Path, seconds: float = 120) -> str:
    """State in which the job ends."""
    going = ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')
    wait_until(lambda: job_field(job, 'JobState') not in going, log, seconds)
    return job_field(job, 'JobState')
