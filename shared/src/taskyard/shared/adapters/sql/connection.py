"""Opening the database file: pragmas, tables, and the proof that it is still the same file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import schema
from taskyard.shared.adapters.sql.faults import is_busy, replaced
from taskyard.shared.adapters.sql.session import Session
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.adapters.sql.location import Location
    from taskyard.shared.clock import Clock

#: Upserts, window functions and partial indexes, and JSON built in.
_OLDEST: Final = (3, 33, 0)

_PRAGMAS: Final = (
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16000",
    # 32 MiB between checkpoints (each one flushes twice), and the log shrinks back to 64 MiB.
    "PRAGMA wal_autocheckpoint = 8000",
    "PRAGMA journal_size_limit = 67108864",
)


class Connector:
    """Opens connections to one database."""

    def __init__(self, location: Location, namespace: str, clock: Clock) -> None:
        """Belong to a location; nothing is touched yet."""
        self._location = location
        self._namespace = namespace
        self._clock = clock
        self._identity: tuple[int, int] | None = None
        #: Run inside a write transaction after each opening: what must exist in a fresh file.
        self.prepare: Callable[[Session], None] | None = None

    def connect(self, until_s: float, nap: Callable[[float], float]) -> Session:
        """Open the file, creating folder, file and tables where they are missing.

        Args:
            until_s: when to stop waiting for other processes' locks, on the monotonic clock.
            nap: waits a moment, given the seconds waited so far, and returns how long.

        Raises:
            ConfigurationError: a newer Taskyard made the tables, or SQLite is too old.
            sqlite3.Error: the file cannot be used.
            OSError: the folder cannot be made.

        """
        if sqlite3.sqlite_version_info < _OLDEST:
            msg = (
                f"SQLite {sqlite3.sqlite_version} is too old: "
                f"{'.'.join(map(str, _OLDEST))} or newer is needed"
            )
            raise ConfigurationError(msg)
        self._location.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._location.path, timeout=0, isolation_level=None, cached_statements=256
        )
        try:
            session = self._set_up(connection, until_s, nap)
            status = self._location.path.stat()
        except BaseException:
            connection.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        return session

    def check_identity(self) -> None:
        """Raise if the path no longer leads to the file that was opened.

        Whatever is written into a deleted file is lost without a word.
        """
        try:
            status = self._location.path.stat()
        except OSError as error:
            raise replaced(self._location.path) from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise replaced(self._location.path)

    def _set_up(
        self, connection: sqlite3.Connection, until_s: float, nap: Callable[[float], float]
    ) -> Session:
        ticks = SystemClock()
        waited_s = 0.0
        while True:
            try:
                return self._set_up_once(connection)
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if not is_busy(error) or ticks.monotonic_s() >= until_s:
                    raise
                waited_s += nap(waited_s)

    def _set_up_once(self, connection: sqlite3.Connection) -> Session:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute(f"PRAGMA synchronous = {self._location.synchronous}")
        for pragma in _PRAGMAS:
            connection.execute(pragma).fetchone()
        session = Session(connection, self._namespace, self._clock)
        if self.prepare is None and schema.exists(session, self._namespace):
            return session
        session.begin()
        try:
            schema.ensure(session, self._namespace)
            if self.prepare is not None:
                self.prepare(session)
        except BaseException:
            session.rollback()
            raise
        session.commit()
        return session
