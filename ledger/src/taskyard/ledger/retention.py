"""What the ledger forgets: jobs that have ended, by age and by number, each outcome by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, select

from taskyard.ledger.schema import jobs, runs
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.shared.settings import Settings

#: Jobs of one transaction: short enough for the recorder not to wait.
CHUNK: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How long, and how many.

    Attributes:
        states: that it is about.
        age_s: since its end, after which a job goes.
        rows: most jobs that stay, the newest; None: any number.

    """

    states: tuple[State, ...]
    age_s: float
    rows: int | None = None


def rules_of(settings: Settings) -> tuple[Rule, ...]:
    """Return what the settings say. Jobs that have not ended, or need a human, have no rule."""
    return (
        Rule(
            states=(State.SUCCEEDED, State.CANCELLED),
            age_s=settings.ledger_keep_succeeded,
            rows=settings.ledger_rows_succeeded,
        ),
        Rule(
            states=(State.FAILED,),
            age_s=settings.ledger_keep_failed,
            rows=settings.ledger_rows_failed,
        ),
    )


async def prune(connection: AsyncConnection, rule: Rule, *, now_ms: int) -> int:
    """Delete at most `CHUNK` jobs that a rule lets go, with their runs; return how many.

    Jobs that are kept for ever stay, and are not counted.
    """
    old = jobs.c.ended_ms <= now_ms - round(rule.age_s * 1000)
    found = await _delete(connection, rule, old)
    if found or rule.rows is None:
        return found
    # Ids of version 7 are in the order of their making, and have an index.
    last = (
        select(jobs.c.id)
        .where(_ended(rule))
        .order_by(jobs.c.id.desc())
        .offset(rule.rows)
        .limit(1)
        .scalar_subquery()
    )
    return await _delete(connection, rule, jobs.c.id <= last)


def _ended(rule: Rule) -> ColumnElement[bool]:
    return jobs.c.state.in_([state.value for state in rule.states]) & jobs.c.kept.is_(False)


async def _delete(connection: AsyncConnection, rule: Rule, which: ColumnElement[bool]) -> int:
    chosen = (
        select(jobs.c.id)
        .where(_ended(rule), which)
        .limit(CHUNK)
        # PostgreSQL: not what a recorder writes at this moment. SQLite has one writer at a time.
        .with_for_update(skip_locked=True)
    )
    gone: Sequence[str] = (
        (await connection.execute(delete(jobs).where(jobs.c.id.in_(chosen)).returning(jobs.c.id)))
        .scalars()
        .all()
    )
    if gone:
        await connection.execute(delete(runs).where(runs.c.job.in_(gone)))
    return len(gone)
