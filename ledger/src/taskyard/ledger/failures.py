"""Reads what jobs failed with: one group for each cause."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import func, literal_column, select

from taskyard.ledger.conditions import conditions
from taskyard.ledger.schema import jobs
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.filters import Filter

#: The states of jobs that somebody should look after.
STATES: Final = (State.FAILED, State.PARKED)
_EXAMPLES: Final = 3

#: What jobs are grouped by; those without an exception by their kind of failure, or why they parked.
_cause: Final = func.coalesce(jobs.c.fingerprint, jobs.c.detail, literal_column("''"))


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that failed, or were parked, of one cause.

    Attributes:
        fingerprint: of the exception, None where there was none.
        details: failure kinds and park reasons.
        count: how many jobs.
        first_ms: when the first of them failed.
        last_ms: when the last did.
        queues: where.
        tasks: which.
        examples: ids of the latest.
        error_type: of the latest.
        error_message: the beginning of the latest.

    """

    fingerprint: str | None
    details: tuple[str, ...]
    count: int
    first_ms: int
    last_ms: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    examples: tuple[str, ...]
    error_type: str | None
    error_message: str | None


async def failures(
    connection: AsyncConnection, meant: Filter, *, now_ms: int, limit: int = 100
) -> list[Failures]:
    """Return the causes of most jobs that failed or are parked, of those that a filter means.

    Args:
        connection: to the ledger.
        meant: which jobs; of their states those of `STATES` count, all if it names none.
        now_ms: what is due later than this is scheduled.
        limit: how many causes at most.

    """
    asked = [state for state in STATES if not meant.states or state in meant.states]
    if not asked:
        return []
    where = conditions(
        replace(meant, states=tuple(asked)),
        now_ms=now_ms,
        postgresql=connection.dialect.name == "postgresql",
    )
    number = func.count().label("number")
    first, last = func.min(jobs.c.ended_ms), func.max(jobs.c.ended_ms)
    statement = (
        select(_cause, func.max(jobs.c.fingerprint), number, first, last)
        .where(*where)
        .group_by(_cause)
        .order_by(number.desc(), last.desc(), _cause)
        .limit(limit)
    )
    groups = (await connection.execute(statement)).all()
    where.append(_cause.in_([cause for cause, *_ in groups]))
    places = await _places(connection, where)
    latest = await _latest(connection, where)
    return [
        Failures(
            fingerprint=fingerprint,
            details=_names(places, cause, "detail"),
            count=number,
            first_ms=first_ms,
            last_ms=last_ms,
            queues=_names(places, cause, "queue"),
            tasks=_names(places, cause, "task"),
            examples=tuple(row["id"] for row in latest if row["cause"] == cause),
            **_newest(latest, cause),
        )
        for cause, fingerprint, number, first_ms, last_ms in groups
    ]


async def _places(
    connection: AsyncConnection, where: Sequence[ColumnElement[bool]]
) -> Sequence[Any]:
    """Return where each cause occurred."""
    columns = (_cause.label("cause"), jobs.c.queue, jobs.c.task, jobs.c.detail)
    statement = select(*columns).where(*where).distinct()
    return (await connection.execute(statement)).mappings().all()


async def _latest(
    connection: AsyncConnection, where: Sequence[ColumnElement[bool]]
) -> Sequence[Any]:
    """Return the latest jobs of each cause, the latest first."""
    place = func.row_number().over(
        partition_by=_cause, order_by=(jobs.c.ended_ms.desc(), jobs.c.id.desc())
    )
    ranked = (
        select(
            _cause.label("cause"),
            jobs.c.id,
            jobs.c.error_type,
            jobs.c.error_message,
            place.label("place"),
        )
        .where(*where)
        .subquery()
    )
    statement = select(ranked).where(ranked.c.place <= _EXAMPLES).order_by(ranked.c.place)
    return (await connection.execute(statement)).mappings().all()


def _names(places: Sequence[Any], cause: str, name: str) -> tuple[str, ...]:
    found = {row[name] for row in places if row["cause"] == cause}
    return tuple(sorted(each for each in found if each is not None))


def _newest(latest: Sequence[Any], cause: str) -> dict[str, str | None]:
    first = next(row for row in latest if row["cause"] == cause)
    return {"error_type": first["error_type"], "error_message": first["error_message"]}
