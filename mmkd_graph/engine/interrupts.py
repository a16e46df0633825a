"""End at Ctrl-C and SIGTERM with one line, without children left and with the exit code that a shell expects.

Nothing but the standard library is imported here, so that a program can be quiet while it imports the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mmkd_graph.packaged import TOOLS

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CHILD = getattr(signal, 'SIGCHLD', None)
_NAMES = {signal.SIGINT: 'interrupted', signal.SIGTERM: 'terminated'}
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
_TOGETHER = 3.0
"""Seconds in which signals count as one: a terminal and a parent process may both send theirs."""
_PATIENCE = 10.0
"""Seconds that the main thread has to notice a signal; it never does in a collective whose partner is gone."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM, raised wherever the program is.

    Attributes:
        code: exit code, 128 and the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(_NAMES[signal.Signals(signum)])
        self.code = 128 + signum


_caught: list[Interrupted] = []
_active = False
_watching = False
_forking = threading.local()


def _before_fork() -> None:
    """Hold back what a child is sent until it has let go of the watch, which is the parent's."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if _watching else None


def _after_fork(in_child: bool) -> None:
    if _forking.mask is not None:
        if in_child:
            signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )


def exit_at_signals() -> None:
    """End the program at SIGINT and SIGTERM from here on, with one line: it is still being imported."""
    if threading.current_thread() is not threading.main_thread():
        return
    owner = os.getpid()

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() == owner:
            say(f'{_NAMES[signal.Signals(signum)]} before anything was done')
        os._exit(128 + signum)

    for signum in _heeded():
        signal.signal(signum, leave)


@contextmanager
def ended_by_signals(
    advice: Callable[[], str] = lambda: '', at_once: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the program from inside the body, wherever it is.

    Both raise :class:`Interrupted` in the main thread. At the end of the body child processes of ``multiprocessing``
    (data loaders' workers) are ended, the first process of a job says one line, and the exit code is 130 or 143. What
    a library made of the interrupt (mmengine turns one in the middle of ``pretty_text`` into a ``SyntaxError``) is seen
    through. A second signal, after a moment, ends without waiting. A main thread that is stuck in native code (a
    collective operation whose partner is gone) never sees a signal: after some seconds the program is ended from
    another thread. Inside another such body, and in other threads than the main one, nothing is changed.

    Args:
        advice: what the line ends with; called after the interrupt.
        at_once: called in the signal's handler, before the exception: for children that threads wait for.

    Raises:
        SystemExit: after a signal.
    """
    global _active
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, first = os.getpid(), 0.0

    def handle(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if os.getpid() != owner:  # a forked child that has no handler of its own yet
            os._exit(128 + signum)
        now = time.monotonic()
        if _caught:
            if now - first > _TOGETHER:
                os._exit(_caught[0].code)
            return
        first = now
        _caught.append(Interrupted(signum))
        if _CHILD is not None:
            # torch's handler raises wherever the program is when a worker is killed
            before[_CHILD] = signal.signal(_CHILD, signal.SIG_DFL)
        for child in multiprocessing.active_children():  # before they miss this process, and say so
            child.terminate()
        at_once()
        raise _caught[0]

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, Interrupted):  # in a destructor; `raise_pending` raises it again
            told(what)

    before = {signum: signal.signal(signum, handle) for signum in _heeded()}
    told, sys.unraisablehook = sys.unraisablehook, unraisable
    _active = True
    try:
        try:
            with _watched(advice):
                yield
        except BaseException as error:
            interrupted = True
            with suppress(Interrupted):  # meanwhile
                if not _caught and not is_first_rank() and 'onnection' in str(error):
                    # the process that it talked to has gone: as a rule at a signal that is on its way to this one too
                    time.sleep(_TOGETHER)
                interrupted = bool(_caught) and not isinstance(error, SystemExit)
            if not interrupted:
                raise
            _leave(advice)
    finally:
        _active = False
        _caught.clear()
        sys.unraisablehook = told
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _watched(advice: Callable[[], str]) -> Iterator[None]:
    """End the program from a thread if a signal has come and the main thread does not notice."""
    global _watching
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        while received := receiver.recv(16):
            signums = [signum for signum in received if signum in _SIGNALS]
            if signums and not ended.wait(_PATIENCE) and not _caught:
                interrupt = Interrupted(signums[0])
                _tell(interrupt, advice)
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(interrupt.code)

    ended = threading.Event()
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    _watching = True
    thread = threading.Thread(target=watch, name='signals', daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        _watching = False
        signal.set_wakeup_fd(previous)
        receiver.shutdown(socket.SHUT_RDWR)  # closing is not enough: forked children have the sender too
        sender.close()
        thread.join()
        receiver.close()


def raise_pending(error: BaseException | None = None) -> None:
    """Raise an interrupt again that was swallowed: by an ``except:`` (mmengine's message hub has one), in a destructor.

    Args:
        error: what has ended the body. After the death of a worker this waits a moment: a signal to all processes of a
            job may have reached the worker first.

    Raises:
        Interrupted: if a signal has arrived in the body of :func:`ended_by_signals`.
    """
    if not _caught and error is not None and is_worker_death(hidden_cause(error)):
        time.sleep(_TOGETHER)
    if _caught:
        raise _caught[0]


def hidden_cause(error: BaseException) -> BaseException:
    """What an error was raised in the handling of: an interrupt or the death of a data loader's worker; else itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, KeyboardInterrupt) or is_worker_death(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def is_worker_death(error: BaseException) -> bool:
    """Whether torch says with ``error`` that a worker process of a data loader was killed."""
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid')


def command_to_go_on(argv: Sequence[str] | None = None) -> str:
    """The command of this program, to be given again with ``--resume``; a launcher's is not known here.

    Example:
        >>> command_to_go_on(['tools/train.py', 'a config.py', '--resume', 'epoch_1.pth', '--amp'])
        "python tools/train.py 'a config.py' --amp --resume"
        >>> command_to_go_on(['train.py', 'config.py', '--resume=epoch_1.pth'])
        'python train.py config.py --resume'
        >>> command_to_go_on([str(TOOLS / 'train.py'), 'config.py'])
        'python -m mmkd_graph train config.py --resume'
        >>> command_to_go_on(['train.py', 'config.py', '--launcher', 'pytorch'])
        'the same command with --resume goes on'
    """
    words = list(sys.argv if argv is None else argv)
    if any(word.startswith('--launcher') for word in words):
        return 'the same command with --resume goes on'
    kept = [
        word
        for before, word in pairwise(['', *words])
        if word.partition('=')[0] != '--resume' and (before != '--resume' or word.startswith('-'))
    ]
    if Path(kept[0]).is_relative_to(TOOLS):  # as mmkd_graph/__main__.py starts them
        kept[:1] = ['-m', 'mmkd_graph', str(Path(kept[0]).relative_to(TOOLS).with_suffix(''))]
    return shlex.join(['python', *kept, '--resume'])


def is_first_rank() -> bool:
    """Whether this is the only process of a job or its first one, by what launchers leave in the environment."""
    return all(os.environ.get(name, '0') == '0' for name in _RANKS)


def say(message: str) -> None:
    """Write one line, under the program's name, to where errors go."""
    print(f'{Path(sys.argv[0]).name}: {" ".join(message.split())}', file=sys.stderr, flush=True)


def _heeded() -> list[signal.Signals]:
    """Without those that whoever started the program has it ignore (a script's job in the background: SIGINT)."""
    return [signum for signum in _SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]


def _tell(interrupt: Interrupted, advice: Callable[[], str]) -> None:
    if is_first_rank():
        rest = ''
        with suppress(Exception):  # whatever is wrong there must not hide the interrupt
            rest = advice()
        say(f'{interrupt}; {rest}' if rest else str(interrupt))


def _leave(advice: Callable[[], str]) -> NoReturn:
    interrupt = _caught[0]
    for _ in range(10):  # a signal is lost on a child that is just being forked
        for child in multiprocessing.active_children():
            child.terminate()
            child.join(0.5)
    for child in multiprocessing.active_children():
        child.kill()
        child.join(5)
    _tell(interrupt, advice)
    distributed = sys.modules.get('torch.distributed')
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # the threads of a group whose other processes have gone may abort the interpreter at its end
        sys.stdout.flush()
        os._exit(interrupt.code)
    raise SystemExit(interrupt.code) from None
