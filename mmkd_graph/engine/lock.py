"""One training per work dir."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

from .errors import NotStarted

WAIT = 60.0
"""Seconds that a start waits for another training in its work dir: a requeued job's last processes may still end."""

_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class WorkDirLock:
    """A lock on a work dir, held by one process as long as it lives.

    The operating system gives it back when the process ends, however it ends. It is a record lock (``fcntl.lockf``):
    forked workers do not inherit it, and it reaches over NFS to other machines.

    Args:
        folder: the work dir.
        wait: seconds to wait for another process that holds it.

    Example:
        >>> import tempfile
        >>> lock = WorkDirLock(tempfile.mkdtemp())
        >>> lock.acquire(print)
        False
        >>> lock.release()
    """

    def __init__(self, folder: str | os.PathLike[str], wait: float | None = None) -> None:
        self.path = Path(folder, '.lock')
        self.wait = WAIT if wait is None else wait
        self._file: int | None = None

    def acquire(self, say: Callable[[str], None]) -> bool:
        """Take the lock.

        Args:
            say: told once that this waits, or that the file system has no locks and the training goes on without one.

        Returns:
            Whether it had to wait.

        Raises:
            NotStarted: naming who holds it, if it is still held after ``wait`` seconds.
            OSError: if the lock file cannot be written.
        """
        if fcntl is None:
            return False
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        begin, waited, folder = time.monotonic(), False, self.path.parent
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    advice = 'see to it that no other training writes there'
                    say(f'{folder}: the file system has no locks ({error.strerror}); {advice}')
                    return False
                if error.errno not in _HELD:
                    self.release()
                    raise
            text = os.pread(self._file, 1000, 0).decode(errors='replace')
            running = f'another training is running in {folder} ({" ".join(text.split()) or "unknown"})'
            if time.monotonic() - begin >= self.wait:
                self.release()
                raise NotStarted(f'{running}; end it, or choose another work dir')
            if not waited:
                say(f'{running}; waiting {self.wait:.0f} s for its end')
                waited = True
            time.sleep(min(0.25, self.wait / 4 + 0.01))
        job = os.environ.get('SLURM_JOB_ID')
        text = f'process {os.getpid()} on {socket.gethostname()}{f", Slurm job {job}" if job else ""}'
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text.encode(), 0)
        except OSError as error:
            self.release()
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        return waited

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
