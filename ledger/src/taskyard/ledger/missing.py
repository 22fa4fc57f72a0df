"""Which rows of the ledger are jobs that the broker has lost, as conditions of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, false, func, or_, select, true

from taskyard.ledger.schema import jobs
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.drift import Evidence

_waits = jobs.c.state == State.QUEUED.value
_runs = jobs.c.state == State.RUNNING.value
#: Both are put aside in a parking lot.
is_aside = jobs.c.state.in_((State.PARKED.value, State.SUSPENDED.value))
#: It was never on the delay queues, where a job can be late: it was due when it was first sent.
_was_due_at_once = or_(jobs.c.due_ms.is_(None), jobs.c.due_ms <= jobs.c.created_ms)


def is_missing(seen: Evidence, margin_ms: int) -> ColumnElement[bool]:
    """Return that a job is missing by some evidence.

    Args:
        seen: of its queue.
        margin_ms: how long before then nothing was heard of the job: clocks differ, and what is
            sent takes a moment to arrive.

    """
    before_ms = seen.at_ms - margin_ms
    due = or_(jobs.c.due_ms.is_(None), jobs.c.due_ms < before_ms)
    kinds: list[ColumnElement[bool]] = []
    if seen.empty:
        kinds.append(_runs)
        kinds.append(and_(_waits, due, *([] if seen.undelayed else [_was_due_at_once])))
    if seen.undelayed:
        kinds.append(and_(_waits, jobs.c.due_ms > seen.at_ms + margin_ms))
    if not kinds:
        return false()
    return and_(
        jobs.c.queue == seen.queue,
        jobs.c.changed_ms < before_ms,
        *([jobs.c.generation == 1] if seen.old else []),
        or_(*kinds),
    )


def is_doubtful(seen: Evidence, margin_ms: int) -> ColumnElement[bool]:
    """Return that nothing was heard of a job for long though it was due, so that it may be missing."""
    before_ms = seen.at_ms - margin_ms
    due = or_(jobs.c.due_ms.is_(None), jobs.c.due_ms < before_ms)
    return and_(
        jobs.c.queue == seen.queue,
        jobs.c.changed_ms < before_ms,
        or_(_runs, and_(_waits, due)),
    )


def is_certain(seen: Evidence) -> ColumnElement[bool]:
    """Return that a doubtful job is missing or in its queue: it is not late on the delay queues."""
    return true() if seen.undelayed else or_(_runs, _was_due_at_once)


def is_parked(queue: str, at_ms: int, margin_ms: int) -> ColumnElement[bool]:
    """Return that a job of a queue has been parked, or suspended, for long."""
    return and_(
        jobs.c.queue == queue,
        is_aside,
        jobs.c.changed_ms < at_ms - margin_ms,
    )


def is_late(now_ms: int, margin_ms: int) -> ColumnElement[bool]:
    """Return that a job is not over, and nothing was heard of it for long: worth a look."""
    open_ = or_(_waits, _runs, is_aside)
    return and_(open_, jobs.c.changed_ms < now_ms - margin_ms)


async def count(
    connection: AsyncConnection, *holds: ColumnElement[bool], most: int | None = None
) -> int:
    """Count jobs, `most` at most."""
    found: Any = select(jobs.c.id).where(*holds)
    if most is not None:
        found = found.limit(most)
    number: int = (
        await connection.execute(select(func.count()).select_from(found.subquery()))
    ).scalar_one()
    return number


async def any_of(connection: AsyncConnection, *holds: ColumnElement[bool]) -> bool:
    """Tell whether there is such a job."""
    return await count(connection, *holds, most=1) > 0


async def queues_with(
    connection: AsyncConnection, names: Iterable[str], condition: ColumnElement[bool]
) -> list[str]:
    """Return those of the queues that have such a job."""
    return [name for name in names if await any_of(connection, jobs.c.queue == name, condition)]
