"""Work of a program that is starting, done in a forked child: what it loads is never in this process.

Only for what happens once, and whose result is small: settings that are read, names of queues.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


class Aside:
    """Work that goes on from construction on, beside whatever this process does meanwhile."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        """Begin. A process that has threads already is not forked, nor one that may not be."""
        self._child: tuple[int, int] | None = None
        if _threads() == 1 and hasattr(os, "fork"):
            self._child = _fork(work)

    def wait(self) -> bytes:
        """Return the result; empty if there is none, whyever: then do the work here, and see."""
        child, self._child = self._child, None
        return b"" if child is None else _hear(*child)


def _threads() -> int:
    """Return how many threads there are: those of C libraries, too, if the system tells."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return threading.active_count()


def _fork(work: Callable[[], bytes]) -> tuple[int, int] | None:
    ours, theirs = os.pipe()
    try:
        pid = os.fork()
    except OSError:  # no more processes are allowed here, or there is no memory for one
        os.close(ours)
        os.close(theirs)
        return None
    if pid == 0:
        _work_and_tell(theirs, work)
    os.close(theirs)
    return pid, ours


def _work_and_tell(descriptor: int, work: Callable[[], bytes]) -> NoReturn:
    """Be the child: nothing of what it inherited is cleaned up, flushed or reported by it."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()  # it does not live long enough
        _close_in_forks(descriptor)
        raw = work()
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.write(raw)
    finally:
        os._exit(0)


def _close_in_forks(descriptor: int) -> None:
    """Have what the work forks, and may leave behind, not keep the pipe open: its reader waits."""
    held = [descriptor]  # of a fork's own forks the number may be something else

    def let_go() -> None:
        if held:
            os.close(held.pop())

    os.register_at_fork(after_in_child=let_go)


def _hear(pid: int, descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb") as pipe:
            return pipe.read()
    except BaseException:  # told to stop: nobody waits for the result any more
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    finally:
        with suppress(ChildProcessError):  # who ignores SIGCHLD has no children to wait for
            os.waitpid(pid, 0)
