"""Run the command-line tools in processes that can be killed, without paying for their imports each time.

The processes are forked from one that has imported the stack and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1] / 'tools'
_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(
    [
        'mmdet.apis',
        'mmdet.evaluation',
        'mmkd_graph.distillers',
        'mmkd_graph.hooks',
        'mmkd_graph.datasets.annotations',
        'torch._dynamo',
        'torch.distributed.optim',
    ]
)


class Job:
    """A process that runs ``tools/<script>`` as if it was called so.

    Args:
        script: name of the tool.
        *arguments: its arguments.
        log: file for what it prints.
        before: Python program that is run first in the process, to break something in it.
        **environment: environment variables.
    """

    def __init__(self, script: str, *arguments: object, log: Path, before: str = '', **environment: str) -> None:
        self.log = log
        argv = [str(TOOLS / script), *map(str, arguments)]
        settings = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', **environment)
        self.process = _CONTEXT.Process(target=_work, args=(argv, str(log), before, settings))
        self.process.start()

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text() if self.log.exists() else ''

    def kill_after(self, words: str) -> None:
        """``kill -9`` as soon as the process has printed something."""
        self.wait_for(words)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 120
        while words not in self.output:
            assert self.process.is_alive(), f'ended before it said {words!r}\n{self.output[-3000:]}'
            assert time.monotonic() < deadline, f'did not say {words!r}\n{self.output[-3000:]}'
            time.sleep(0.002)

    def end(self, code: int = 0) -> str:
        """Wait for the process to end with an exit code; returns what it printed."""
        self.process.join(240)
        found = self.process.exitcode
        if found is None:
            self.process.kill()
        # without the configs and initial values that mmengine's log begins with
        end = self.output[self.output.find('Traceback') :][-5000:]
        assert found == code, f'exit code {found}\n{end}'
        return self.output


def run(script: str, *arguments: object, log: Path, code: int = 0, before: str = '', **environment: str) -> str:
    """Run a tool to its end; returns what it printed."""
    return Job(script, *arguments, log=log, before=before, **environment).end(code)


def together(count: int, script: str, *arguments: object, log: Path, **environment: str) -> list[Job]:
    """Start ``count`` processes of one job, which meet over gloo; the log of each has its rank at the end."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        port = str(server.getsockname()[1])
    meeting = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=str(count))
    return [
        Job(
            script,
            *arguments,
            '--launcher',
            'pytorch',
            log=Path(f'{log}-{rank}'),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **meeting,
            **environment,
        )
        for rank in range(count)
    ]


def _work(argv: list[str], log: str, before: str, environment: Mapping[str, str]) -> None:
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.update(environment)
    import mmengine.config.config
    import torch

    torch.set_num_threads(1)
    # Formatting a config for the log and for every checkpoint takes longer than an iteration.
    mmengine.config.config.FormatCode = lambda text, **_: (text, False)
    sys.argv = argv
    exec(before, {})
    runpy.run_path(argv[0], run_name='__main__')
