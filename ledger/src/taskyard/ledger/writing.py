"""Merges rows into the database: one statement a table for a whole batch, safe to repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import and_, case, or_
from sqlalchemy.dialects import postgresql, sqlite

from taskyard.ledger.rows import Request, Run, Standing
from taskyard.ledger.schema import jobs, runs

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.rows import Batch, Job

_REQUEST: Final = Request.__struct_fields__
_STANDING: Final = Standing.__struct_fields__
_NO_REQUEST: Final[dict[str, Any]] = {
    **dict.fromkeys(name for name in _REQUEST if name not in {"queue", "task"}),
    "request_rank": -1,
}
_RUN_KEY: Final = ("job", "attempt", "deliveries", "message")
_PROGRESS: Final = ("progressed_ms", "progress_done", "progress_of", "progress_note")
_RUN_END: Final = tuple(
    name for name in Run.__struct_fields__ if name not in {*_RUN_KEY, "started_ms", *_PROGRESS}
)


async def merge(connection: AsyncConnection, batch: Batch) -> None:
    """Merge a batch into the tables, in the transaction of `connection`."""
    dialect = connection.dialect.name
    if batch.jobs:
        await connection.execute(_STATEMENTS[dialect][0], [_job_row(job) for job in batch.jobs])
    if batch.runs:
        await connection.execute(
            _STATEMENTS[dialect][1], [msgspec.structs.asdict(run) for run in batch.runs]
        )


def _job_row(job: Job) -> dict[str, Any]:
    request, standing = job.request, job.standing
    row = dict(_NO_REQUEST) if request is None else msgspec.structs.asdict(request)
    row.update(msgspec.structs.asdict(standing))
    row["id"] = job.id
    row["queue"], row["task"] = job.queue, job.task
    row["created_ms"], row["changed_ms"] = job.created_ms, job.changed_ms
    return row


def _merge_jobs(dialect: Any) -> Any:
    insert = dialect.insert(jobs)
    new, old = insert.excluded, jobs.c
    asked = new.request_rank > old.request_rank
    stands = or_(new.rank > old.rank, and_(new.rank == old.rank, new.moment > old.moment))
    sooner = and_(
        new.created_ms.is_not(None),
        or_(old.created_ms.is_(None), new.created_ms < old.created_ms),
    )
    later = new.changed_ms > old.changed_ms
    return insert.on_conflict_do_update(
        index_elements=["id"],
        set_={
            **_where(asked, _REQUEST, new, old),
            **_where(stands, _STANDING, new, old),
            **_where(sooner, ("created_ms",), new, old),
            **_where(later, ("changed_ms",), new, old),
        },
        # A fact that says nothing new writes nothing: most of what comes twice.
        where=or_(asked, stands, sooner, later),
    )


def _merge_runs(dialect: Any) -> Any:
    insert = dialect.insert(runs)
    new, old = insert.excluded, runs.c
    ends = and_(
        new.ended_ms.is_not(None),
        or_(
            old.ended_ms.is_(None),
            new.ended_ms > old.ended_ms,
            and_(new.ended_ms == old.ended_ms, new.outcome > old.outcome),
        ),
    )
    begins = and_(
        new.started_ms.is_not(None),
        or_(old.started_ms.is_(None), new.started_ms < old.started_ms),
    )
    further = and_(
        new.progressed_ms.is_not(None),
        or_(
            old.progressed_ms.is_(None),
            new.progressed_ms > old.progressed_ms,
            and_(new.progressed_ms == old.progressed_ms, new.progress_done > old.progress_done),
        ),
    )
    return insert.on_conflict_do_update(
        index_elements=list(_RUN_KEY),
        set_={
            **_where(ends, _RUN_END, new, old),
            **_where(begins, ("started_ms",), new, old),
            **_where(further, _PROGRESS, new, old),
        },
        where=or_(ends, begins, further),
    )


def _where(
    wins: ColumnElement[bool], names: tuple[str, ...], new: Any, old: Any
) -> dict[str, ColumnElement[Any]]:
    return {name: case((wins, new[name]), else_=old[name]) for name in names}


_STATEMENTS: Final = {
    name: (_merge_jobs(dialect), _merge_runs(dialect))
    for name, dialect in (("postgresql", postgresql), ("sqlite", sqlite))
}
