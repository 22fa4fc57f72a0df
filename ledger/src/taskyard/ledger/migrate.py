"""Brings the database's tables to this version (Alembic), and tells whether they are."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import column, inspect, select, table, text

from taskyard.ledger.database import LedgerUnavailable
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.database import Database

#: The newest revision in `migrations/versions`.
HEAD: Final = "0002"
#: PostgreSQL's advisory lock under which one process at a time migrates: any number of our own.
_LOCK: Final = 0x7461736B79617264

#: How often it is tried to have SQLite write ahead, and seconds in between. Without, it is slower.
_TRIES: Final = 100
_AGAIN_S: Final = 0.05

_version: Final = table("alembic_version", column("version_num"))


async def prepare(database: Database) -> None:
    """Make the tables, or bring them to this version; any number of processes may do it at once.

    Raises:
        ConfigurationError: they are of a newer version than this program.
        LedgerUnavailable: the database does not answer.

    """
    if not database.is_postgresql:
        await _let_readers_be(database)
    async with database.begin_writing() as connection:
        if database.is_postgresql:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        found = await _revision(connection)
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise ConfigurationError(_newer(database, found))
        await connection.run_sync(_upgrade)


async def check(connection: AsyncConnection, database: Database) -> None:
    """See to it that the tables are of this version.

    Raises:
        ConfigurationError: they are not there, or of another version.

    """
    found = await _revision(connection)
    if found is None:
        raise ConfigurationError(
            f"there is no ledger at {database} yet: `taskyard coordinator` makes it"
        )
    if found > HEAD:
        raise ConfigurationError(_newer(database, found))
    if found < HEAD:
        raise ConfigurationError(
            f"the ledger at {database} is of version {found}, this program of {HEAD}: start the "
            "coordinator of this version, which brings it there"
        )


async def _let_readers_be(database: Database) -> None:
    """Have SQLite write ahead, so that readers and a writer do not wait for one another.

    The file keeps that. To change over takes it for a moment, and SQLite does not wait for others
    that do: we do.
    """
    for _ in range(_TRIES):
        try:
            async with database.begin() as connection:
                await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except LedgerUnavailable:
            await asyncio.sleep(_AGAIN_S)
        else:
            return


async def _revision(connection: AsyncConnection) -> str | None:
    """Return the version of the tables as the database says; None where there are none."""
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(_version.name)):
        return None
    return (await connection.execute(select(_version.c.version_num))).scalar_one_or_none()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    # It says what it has loaded, at each start.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _newer(database: Database, found: str) -> str:
    return (
        f"the ledger at {database} is of version {found}, newer than this program's {HEAD}: "
        "use the newer program, nothing was changed"
    )
