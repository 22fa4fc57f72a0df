"""A file whose lock shows that its process lives: the kernel lets go of it at the process's death.

Every handle has a file of its own, under a name that is never used again, so that nobody can
lock a name that means something else by now. The lock is on the open file, not on the process:
several handles of one process do not disturb each other, and a look from the same process is as
good as one from another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Sign(Enum):
    """What a file says about its owner."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """The file cannot be opened, perhaps because somebody removed it: only the lease can tell."""


class FileLock:
    """A locked file; locked until `close`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Hold a file that is open and locked."""
        self.path = path
        self._descriptor: int | None = descriptor
        _forget_in_children(self)

    @classmethod
    def create(cls, path: Path) -> FileLock:
        """Create a file and lock it (OSError when that is not possible)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def close(self) -> None:
        """Let go of the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the file, then let go of the lock: nobody can lock it in between."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.close()


def look_at(path: Path) -> tuple[Sign, FileLock | None]:
    """Tell whether the owner of a file lives.

    A dead owner's file comes back locked by us, so that one process at a time clears up after it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return Sign.UNKNOWN, None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return Sign.ALIVE, None
    except OSError:
        os.close(descriptor)
        return Sign.UNKNOWN, None
    return Sign.DEAD, FileLock(path, descriptor)


def _forget_in_children(lock: FileLock) -> None:
    """Close the file in forked children, or the lock would outlive its process in them."""
    known = weakref.ref(lock)

    def forget() -> None:
        inherited = known()
        if inherited is not None:
            inherited.close()

    os.register_at_fork(after_in_child=forget)
