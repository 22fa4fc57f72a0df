"""The ledger's database: PostgreSQL, or a file of SQLite."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.ext.asyncio import create_async_engine

from taskyard.shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_DRIVERS: Final = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
_NO_DATABASE: Final = "file is not a database"
#: Classes of SQLSTATE in which no value is at fault: the connection, a standby that only reads, the
#: password, the database, a schema, locks that break a transaction, rights and tables, resources, a
#: state, the operator, the machine, the configuration.
_OUTAGES: Final = frozenset(
    {"08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0"}
)
#: Seconds that a writer of SQLite waits for another.
_PATIENCE_S: Final = 30
#: Seconds that connections get to be closed in after a cancel.
_CLOSE_S: Final = 5.0


class LedgerUnavailable(Unavailable):
    """The ledger's database does not answer now."""


class Database:
    """An engine with its pool, opened by URL; `close` when done."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        """Prepare it; nothing is connected yet.

        Args:
            url: `postgresql://user:password@host/name` or `sqlite:///path`.
            create: make a file of SQLite, and its folder, where there is none.

        Raises:
            ConfigurationError: it is no such URL, or the driver is not installed.

        """
        self._url = _read_url(url, create=create)
        self.is_postgresql = self._url.get_backend_name() == "postgresql"
        try:
            self.engine: AsyncEngine = create_async_engine(
                self._url,
                pool_pre_ping=True,
                json_serializer=_as_it_is,
                **({} if self.is_postgresql else {"connect_args": {"timeout": _PATIENCE_S}}),
            )
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "TASKYARD_LEDGER_URL names PostgreSQL, whose driver is not installed: "
                "pip install 'taskyard-ledger[postgresql]'"
            ) from error
        if not self.is_postgresql:
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)

    def __str__(self) -> str:
        """Name it, without its password."""
        return self._url.set(drivername=self._url.get_backend_name()).render_as_string()

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        """Open a connection with a transaction, committed at the end.

        Raises:
            LedgerUnavailable: the database does not answer, or the connection broke.
            ConfigurationError: SQLite's file is something else.

        """
        try:
            async with self.engine.begin() as connection:
                yield connection
        except (TimeoutError, OSError) as error:
            raise LedgerUnavailable(f"the ledger at {self} does not answer: {error}") from error
        except DBAPIError as error:
            if _NO_DATABASE in str(error.orig):
                raise ConfigurationError(
                    f"TASKYARD_LEDGER_URL: {self} is no database; nothing was changed"
                ) from error
            if _is_outage(error):
                raise LedgerUnavailable(
                    f"the ledger at {self} does not answer: {error.orig}"
                ) from error
            raise

    @asynccontextmanager
    async def begin_writing(self) -> AsyncGenerator[AsyncConnection]:
        """Open a connection with a transaction that reads first and writes then.

        SQLite has one writer at a time: it is we from the start, so that what was read still holds.

        Raises:
            LedgerUnavailable: see `begin`.

        """
        async with self.begin() as connection:
            if not self.is_postgresql:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    async def close(self) -> None:
        """Close its connections, also where it is cancelled meanwhile: else they are torn."""
        closing = asyncio.create_task(self.engine.dispose(), name="close ledger")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing], timeout=_CLOSE_S)
            raise


def _read_url(text: str, *, create: bool) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:  # the latter of a port that is no number
        raise ConfigurationError(
            "TASKYARD_LEDGER_URL is no URL of a database; set it to "
            "postgresql://user:password@host/name or sqlite:///path"
        ) from error
    backend = url.get_backend_name()
    driver = _DRIVERS.get("postgresql" if url.drivername == "postgres" else backend)
    if driver is None:
        raise ConfigurationError(
            f"TASKYARD_LEDGER_URL: the ledger lives in PostgreSQL or SQLite, not in {backend!r}"
        )
    if backend == "sqlite" and url.database and url.database != ":memory:":
        _check_file(Path(url.database), create=create)
    return url.set(drivername=driver)


def _check_file(path: Path, *, create: bool) -> None:
    if not create:
        if not path.exists():
            raise ConfigurationError(
                f"TASKYARD_LEDGER_URL: there is no ledger at {path}: `taskyard coordinator` makes it"
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"TASKYARD_LEDGER_URL: the folder of {path} cannot be made: {error.strerror}"
        ) from error


def _as_it_is(text: str) -> str:
    """Serialise a JSON column's value: it is JSON already."""
    return text


def _prepare_sqlite(connection: Any, record: object) -> None:
    del record
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _is_outage(error: DBAPIError) -> bool:
    """Tell a database that takes nothing now from one that refuses what a statement holds.

    What is taken for a refusal is left out of the ledger for good, so in doubt it is an outage.
    """
    if error.connection_invalidated or isinstance(error, (InterfaceError, OperationalError)):
        return True
    state = str(getattr(error.orig, "sqlstate", None) or "")
    # SQLite's own word for a damaged file is the bare DatabaseError.
    return state[:2] in _OUTAGES or type(error) is DatabaseError
