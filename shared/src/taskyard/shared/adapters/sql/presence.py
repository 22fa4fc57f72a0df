"""A handle as an owner: of jobs, locks, inboxes. Registered once it owns something.

Its row carries a lease, and its file a lock; `reaper` judges both.
"""

from __future__ import annotations

import os
import secrets
import socket
from itertools import count
from typing import TYPE_CHECKING

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.filelock import FileLock
from taskyard.shared.adapters.sql.reaper import bury
from taskyard.shared.adapters.sql.session import json_list

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.adapters.sql.timing import Timing


class Presence:
    """The identity of one handle.

    Attributes:
        id: random and never used again, so that a fence made of it stays unique.
        file_lock: held while the handle lives; None before it owns anything.

    """

    def __init__(self, folder: Path, timing: Timing) -> None:
        """Choose an identity; nothing is written yet."""
        self.id = secrets.randbits(62)
        self.file_lock: FileLock | None = None
        self._path = folder / f"{self.id:016x}"
        self._timing = timing
        self._fences = count(1)

    def next_fence(self) -> int:
        """Return a number for one hand-over; with `id` it is unique for ever."""
        return next(self._fences)

    def appear(self) -> None:
        """Create and lock the file (OSError when that is not possible); before the row exists."""
        if self.file_lock is None:
            self.file_lock = FileLock.create(self._path)

    def renew(self, session: Session) -> None:
        """Write the row, or its lease anew; whatever is owned rests on this one row."""
        session.run(
            queries.OWNER_PUT,
            {
                "id": self.id,
                "file": self._path.name,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "expires": session.lease_ms(self._timing.lease_s),
            },
        )

    def leave(self, session: Session, untaken: Iterable[int]) -> None:
        """Give everything up, in one transaction; what nobody took goes back uncharged."""
        session.run(queries.UNTAKE, {"owner": self.id, "seqs": json_list(untaken)})
        bury(session, self.id)

    def vanish(self) -> None:
        """Remove the file; the row is gone."""
        if self.file_lock is not None:
            self.file_lock.remove()
            self.file_lock = None

    def die(self) -> None:
        """Let go of the file's lock, as the kernel does at a process's death."""
        if self.file_lock is not None:
            self.file_lock.close()
