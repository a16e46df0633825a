"""One training per work dir; the others are other processes, as a process's own locks do not keep it out."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmkd_graph.engine.errors import NotStarted
from mmkd_graph.engine.lock import WorkDirLock

_FORK = multiprocessing.get_context('fork')


def hold(folder: Path, taken, seconds: float) -> None:
    os.environ['SLURM_JOB_ID'] = '77'
    WorkDirLock(folder).acquire(print)
    taken.set()
    multiprocessing.Event().wait(seconds)


@contextmanager
def held(folder: Path, seconds: float = 30) -> Iterator[multiprocessing.Process]:
    taken = _FORK.Event()
    process = _FORK.Process(target=hold, args=(folder, taken, seconds))
    process.start()
    assert taken.wait(20)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_training_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    said: list[str] = []
    with held(tmp_path) as holder:
        with pytest.raises(NotStarted) as refused:
            WorkDirLock(tmp_path, wait=0.3).acquire(said.append)
        words = f'process {holder.pid} on {socket.gethostname()}, Slurm job 77'
        assert words in str(refused.value) and str(tmp_path) in str(refused.value)
        assert len(said) == 1 and words in said[0] and 'waiting' in said[0]


def test_a_dead_process_does_not_hold_it_and_an_ending_one_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    with held(tmp_path) as holder:
        holder.kill()
        holder.join()
        lock = WorkDirLock(tmp_path, wait=0.0)
        assert lock.acquire(said.append) is False and not said
        lock.release()
    with held(tmp_path, seconds=0.3):
        lock = WorkDirLock(tmp_path, wait=20)
        assert lock.acquire(said.append) is True and len(said) == 1
        assert f'process {os.getpid()} ' in (tmp_path / '.lock').read_text()
        lock.release()


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    lock = WorkDirLock(tmp_path)
    lock.acquire(print)
    child = _FORK.Process(target=multiprocessing.Event().wait, args=(20,))
    child.start()
    lock.release()
    with held(tmp_path):
        pass
    child.kill()
    child.join()


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_in_the_file_system_it_goes_on(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, 'lockf', none)
    said: list[str] = []
    assert WorkDirLock(tmp_path).acquire(said.append) is False
    assert 'has no locks' in said[0]
