"""Who did what, when, and how it ended: written before it is done, and again when it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import insert, select, update

from taskyard.ledger.schema import audit
from taskyard.ledger.texts import clean

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from sqlalchemy import RowMapping
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.database import Database
    from taskyard.shared.clock import Clock

DONE: Final = "done"

#: Of what is written of a failure's text.
_LONGEST: Final = 500


class Entry:
    """An action that is under way; what is put into `details` is written at its end."""

    def __init__(self, details: Mapping[str, object]) -> None:
        """Begin with some details."""
        self.details: dict[str, object] = dict(details)
        self.result = DONE


@asynccontextmanager
async def audited(
    database: Database, clock: Clock, *, by: str, action: str, subject: str, **details: object
) -> AsyncGenerator[Entry]:
    """Write that an action has begun, and at the end how it ended.

    Args:
        database: of the ledger.
        clock: for its times.
        by: `user@host`.
        action: a word.
        subject: what it is about: an id, or a filter in words.
        details: what more there is to say.

    """
    entry = Entry(details)
    values = {"by": clean(by), "action": action, "subject": clean(subject)}
    async with database.begin() as connection:
        written = await connection.execute(
            insert(audit).values(at_ms=clock.now_ms(), details=details_text(details), **values)
        )
        (number,) = written.inserted_primary_key or (None,)
    try:
        yield entry
    except BaseException as error:
        entry.result = str(error)[:_LONGEST] or type(error).__name__
        raise
    finally:
        ending = {"ended_ms": clock.now_ms(), "result": clean(entry.result)}
        async with database.begin() as connection:
            await connection.execute(
                update(audit)
                .where(audit.c.id == number)
                .values(details=details_text(entry.details), **ending)
            )


async def entries(
    connection: AsyncConnection,
    *,
    limit: int,
    subject: str | None = None,
    action: str | None = None,
    by: str | None = None,
    after_ms: int | None = None,
) -> Sequence[RowMapping]:
    """Return what was done, the latest first; `subject` is how it begins or ends."""
    statement = select(audit).order_by(audit.c.at_ms.desc(), audit.c.id.desc()).limit(limit)
    if subject is not None:
        named = audit.c.subject
        statement = statement.where(
            named.startswith(subject, autoescape=True) | named.endswith(subject, autoescape=True)
        )
    if action is not None:
        statement = statement.where(audit.c.action == action)
    if by is not None:
        statement = statement.where(audit.c.by.startswith(by, autoescape=True))
    if after_ms is not None:
        statement = statement.where(audit.c.at_ms >= after_ms)
    return (await connection.execute(statement)).mappings().all()


def details_text(details: Mapping[str, object]) -> str | None:
    """Return details as they are stored: a JSON object, or nothing."""
    return clean(msgspec.json.encode(details).decode()) if details else None
