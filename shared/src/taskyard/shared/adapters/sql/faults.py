"""What can go wrong with a database file, in words and in kinds."""

from __future__ import annotations

import sqlite3
from typing import Final

from taskyard.shared.errors import TaskyardError

#: The connection is of no further use; opening the file again may help.
_FATAL: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

_WORDS: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process kept the database locked",
    sqlite3.SQLITE_LOCKED: "another process kept the database locked",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is not a database",
    sqlite3.SQLITE_READONLY: "the database cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_IOERR: "the database file cannot be read or written",
}


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code (0 where the error has none)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another process has the lock."""
    return code_of(error) in _BUSY


def is_fatal(error: sqlite3.Error) -> bool:
    """Tell whether the connection is of no further use."""
    return code_of(error) in _FATAL


def is_shared(error: sqlite3.Error) -> bool:
    """Tell whether every unit of the transaction would meet the same error."""
    return is_busy(error) or is_fatal(error)


class StoreError(TaskyardError):
    """A transaction was not done.

    Attributes:
        refused: the database takes no more of this kind (a full disk); nothing was stored.
        started: it had begun, so that it may be done all the same.

    """

    def __init__(self, text: str, *, refused: bool = False, started: bool = False) -> None:
        """Say what happened."""
        super().__init__(text)
        self.refused = refused
        self.started = started

    @classmethod
    def of(cls, error: Exception) -> StoreError:
        """Put an error of SQLite or of the file system into words."""
        if not isinstance(error, sqlite3.Error):
            return cls(str(error))
        code = code_of(error)
        text = f"{_WORDS.get(code, 'the database refused')} ({error})"
        return cls(text, refused=code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})


def replaced(path: object) -> sqlite3.OperationalError:
    """Return the error for a database file that is no longer the one that was opened."""
    error = sqlite3.OperationalError(f"{path} was deleted or replaced while it was open")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error
