"""The ledger's database, open for the length of one command."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.database import Database

R = TypeVar("R")


def run_with_ledger(act: Callable[[AsyncConnection], Awaitable[R]]) -> R:
    """Run one act that reads the ledger, in a transaction of its own; see `with_database`."""

    async def read(database: Database) -> R:
        async with database.begin() as connection:
            return await act(connection)

    return asyncio.run(with_database(read))


async def with_database(act: Callable[[Database], Awaitable[R]]) -> R:
    """Run one act on the database that the environment names.

    Raises:
        ConfigurationError: TASKYARD_LEDGER_URL is missing or wrong, or its tables are not there.
        LedgerUnavailable: the database does not answer.

    """
    # These take SQLAlchemy; `taskyard --help` has to load the command, but not to run it.
    from taskyard.ledger.database import Database
    from taskyard.ledger.migrate import check

    url = Settings().ledger_url
    if url is None:
        raise ConfigurationError(
            "TASKYARD_LEDGER_URL is not set; set it to the database that the coordinator keeps, "
            "for example to postgresql://user:password@host/name or sqlite:///.taskyard/ledger.db"
        )
    database = Database(url.reveal(), create=False)
    try:
        async with database.begin() as connection:
            await check(connection, database)
        return await act(database)
    finally:
        await database.close()
