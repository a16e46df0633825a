"""Signals at awkward places, in forked processes that import nothing heavy."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmkd_graph.engine import interrupts
from mmkd_graph.engine.interrupts import (
    Interrupted,
    ended_by_signals,
    exit_at_signals,
    hidden_cause,
    is_worker_death,
    raise_pending,
)

_FORK = multiprocessing.get_context('fork')


def run(body: Callable[[], None], tmp_path: Path, *signals: int, **environment: str) -> tuple[int, str]:
    """Exit code and output of a process that gets signals when it has made the file ``ready``."""
    (tmp_path / 'ready').unlink(missing_ok=True)

    def work() -> None:
        sys.stderr = (tmp_path / 'output').open('w')
        os.environ.update(environment)
        os.chdir(tmp_path)
        sys.argv = ['tools/train.py', 'config.py']
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.default_int_handler)
        body()

    process = _FORK.Process(target=work)
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / 'ready').exists():
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.005)
    for signum in signals:
        os.kill(process.pid, signum)
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode, (tmp_path / 'output').read_text()


def ready_and_wait() -> None:
    Path('ready').touch()
    time.sleep(20)


@pytest.mark.parametrize(
    ('signum', 'code', 'word'), [(signal.SIGINT, 130, 'interrupted'), (signal.SIGTERM, 143, 'terminated')]
)
def test_a_signal_ends_the_program_in_one_line_and_its_children_too(
    signum: int, code: int, word: str, tmp_path: Path
) -> None:
    def body() -> None:
        with ended_by_signals(lambda: 'go on with …'):
            child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(20,))
            child.start()
            Path('child').write_text(str(child.pid))
            ready_and_wait()

    assert run(body, tmp_path, signum) == (code, f'train.py: {word}; go on with …\n')
    assert not Path('/proc', (tmp_path / 'child').read_text()).exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='waits in the C library')
def test_a_main_thread_that_is_stuck_in_native_code_is_not_waited_for(tmp_path: Path) -> None:
    def body() -> None:
        interrupts._PATIENCE = 0.3
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
        with ended_by_signals(lambda: 'go on with …'):
            for _ in range(20):  # what a child is sent, however early, ends that child alone
                child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(20,))
                child.start()
                os.kill(child.pid, signal.SIGTERM)
                child.join()
            time.sleep(0.5)
            Path('ready').touch()
            library.pthread_mutex_lock(mutex)
            library.pthread_mutex_lock(mutex)  # for ever, and no signal wakes it

    assert run(body, tmp_path, signal.SIGTERM) == (143, 'train.py: terminated; go on with …\n')


def test_what_a_library_makes_of_an_interrupt_is_seen_through(tmp_path: Path) -> None:
    """mmengine's ``pretty_text``, and its message hub."""

    def body() -> None:
        with ended_by_signals():
            try:
                ready_and_wait()
            except:  # noqa: E722
                raise SyntaxError('Failed to format the config file')  # noqa: B904

    assert run(body, tmp_path, signal.SIGINT) == (130, 'train.py: interrupted\n')

    def swallowing() -> None:
        with ended_by_signals():
            with contextlib.suppress(BaseException):
                ready_and_wait()
            raise_pending()

    assert run(swallowing, tmp_path, signal.SIGTERM)[0] == 143


def test_an_interrupt_in_a_destructor_is_not_lost(tmp_path: Path) -> None:
    class Waits:
        def __del__(self) -> None:
            ready_and_wait()

    def body() -> None:
        with ended_by_signals():
            Waits()
            raise_pending()

    assert run(body, tmp_path, signal.SIGTERM) == (143, 'train.py: terminated\n')


def test_signals_of_a_terminal_and_of_a_parent_count_as_one(tmp_path: Path) -> None:
    def body() -> None:
        with ended_by_signals(lambda: time.sleep(0.3) or 'done'):
            ready_and_wait()

    assert run(body, tmp_path, signal.SIGINT, signal.SIGTERM)[1].endswith('; done\n')


def test_the_first_process_of_a_job_alone_speaks(tmp_path: Path) -> None:
    def body() -> None:
        with ended_by_signals():
            Path('ready').touch()
            raise RuntimeError('Connection closed by peer')  # the first process is gone; the signal comes after that

    assert run(body, tmp_path, signal.SIGTERM, RANK='1') == (143, '')


def test_children_that_live_on_are_not_waited_for() -> None:
    """A worker that was forked inside has the ends of every pipe."""
    with ended_by_signals():
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(20,))
        child.start()
    assert child.is_alive()
    child.kill()
    child.join()


def test_errors_stay_what_they_are_and_handlers_are_put_back() -> None:
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match='other'), ended_by_signals(), ended_by_signals():
        raise ValueError('other')
    with pytest.raises(SystemExit) as end, ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert end.value.code == 143
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
    raise_pending()
    thread = threading.Thread(target=lambda: ended_by_signals().__enter__())
    thread.start()
    thread.join()
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_program_that_is_still_imported_ends_in_one_line(tmp_path: Path) -> None:
    def body() -> None:
        exit_at_signals()
        ready_and_wait()

    assert run(body, tmp_path, signal.SIGINT) == (130, 'train.py: interrupted before anything was done\n')


def test_a_signal_that_is_to_be_ignored_is_ignored(tmp_path: Path) -> None:
    """As a script has it with SIGINT for its jobs in the background."""

    def body() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        exit_at_signals()
        with ended_by_signals():
            Path('ready').touch()
            time.sleep(0.3)
        sys.exit(5)

    assert run(body, tmp_path, signal.SIGINT) == (5, '')


def test_the_cause_behind_an_error() -> None:
    killed = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    for cause in (killed, KeyboardInterrupt(), Interrupted(signal.SIGTERM)):
        try:
            try:
                raise cause
            except BaseException:
                raise SyntaxError('Failed to format the config file') from None
        except SyntaxError as error:
            assert hidden_cause(error) is cause
    other = ValueError('other')
    assert hidden_cause(other) is other
    assert is_worker_death(killed) and not is_worker_death(other)
