"""Programs that this one starts: their output goes to a log, and they end with it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .interrupts import ended_by_signals

# Let glibc keep and reuse the memory of large tensors: by default every one is mapped anew and returned, page by page.
_MEMORY = {
    'MALLOC_MMAP_THRESHOLD_': str(4 << 30),
    'MALLOC_TRIM_THRESHOLD_': str(8 << 30),
    'MALLOC_TOP_PAD_': str(256 << 20),
}
_LAST_WORDS = 60.0
"""Seconds that a process has to end after SIGTERM."""

_children: set[subprocess.Popen] = set()
_ending = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end this program and the trainings and evaluations that it has started, in all threads."""
    with ended_by_signals(lambda: 'the same command goes on from the last checkpoints', _end_children):
        yield


def _end_children() -> None:
    global _ending
    _ending = True
    for process in list(_children):
        process.terminate()


def run_child(command: Sequence[str], log: Path, environment: Mapping[str, str], show: Callable[[str], None]) -> int:
    """Run a program to its end; if this one is interrupted meanwhile, it is asked to end, and then made to.

    Args:
        command: of the program.
        log: file to which the command and what it prints are added.
        environment: variables beside those of this program.
        show: called with every line.

    Returns:
        Its exit code.
    """
    with log.open('a', buffering=1, encoding='utf-8') as sink:
        sink.write(f'$ {shlex.join(command)}\n')
        process = None
        try:
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace')
            process = subprocess.Popen(command, env={**_MEMORY, **os.environ, **environment}, **pipes)
            _children.add(process)
            if _ending:  # in another thread than the one that was interrupted
                process.terminate()
            for line in process.stdout:
                sink.write(line)
                show(line)
            return process.wait()
        except BaseException:
            if process is not None:
                process.terminate()
                try:
                    last_words, _ = process.communicate(timeout=_LAST_WORDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    last_words, _ = process.communicate()
                sink.write(last_words or '')
            raise
        finally:
            _children.discard(process)
