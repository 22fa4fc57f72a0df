"""Reads one job in full: what was asked, where it stands, and each of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import func, select

from taskyard.ledger.reading import JobRow, envelope_of, job_row
from taskyard.ledger.recording import arguments_of
from taskyard.ledger.rows import Run
from taskyard.ledger.schema import jobs, runs
from taskyard.shared.decide import TimedOut
from taskyard.shared.states import FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.recording import RecordedArguments

_TIMED_OUT: Final = f"{TimedOut.__module__}.{TimedOut.__qualname__}"


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened to a job, how often.

    Attributes:
        reserves: it was started.
        timeouts: it ran beyond its time to run.
        releases: it was put back to be tried again.
        holds: it was parked.
        unholds: it was released from where it was parked.
        handbacks: a worker gave it back unfinished.

    """

    reserves: int
    timeouts: int
    releases: int
    holds: int
    unholds: int
    handbacks: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All that the ledger knows of a job."""

    job: JobRow
    counters: Counters
    runs: list[Run]
    trace: str | None
    arguments_recorded: RecordedArguments = "full"
    envelope: Envelope | None = None

    @property
    def last(self) -> Run | None:
        """The run that ended it, or set it aside; None where it is not over."""
        ended = [run for run in self.runs if run.outcome == self.job.state]
        return ended[-1] if ended else None


async def job(connection: AsyncConnection, job_id: str, *, now_ms: int) -> History | None:
    """Return a job by its id, with its arguments and its runs in their order; None if unknown."""
    columns = [column for column in jobs.c if column.name in _READ]
    found = (await connection.execute(select(*columns).where(jobs.c.id == job_id))).mappings()
    row = found.one_or_none()
    if row is None:
        return None
    begun = func.coalesce(runs.c.started_ms, runs.c.ended_ms)
    statement = (
        select(runs)
        .where(runs.c.job == job_id)
        .order_by(runs.c.generation, runs.c.attempt, runs.c.deliveries, begun, runs.c.message)
    )
    done = [Run(**run) for run in (await connection.execute(statement)).mappings()]
    standing = job_row(row, now_ms)
    envelope = envelope_of(row["envelope"])
    return History(
        job=standing,
        counters=counters(standing.attempt, done),
        runs=done,
        trace=None if envelope is None else _trace(envelope.traceparent),
        arguments_recorded="none" if envelope is None else arguments_of(envelope),
        envelope=envelope,
    )


def counters(attempt: int, done: Sequence[Run]) -> Counters:
    """Return what a job's runs add up to.

    Args:
        attempt: at which the job is now; whoever releases a parked job raises it.
        done: all of its runs.

    """
    outcomes = [run.outcome for run in done]
    return Counters(
        reserves=sum(run.started_ms is not None for run in done),
        timeouts=sum(map(_timed_out, done)),
        releases=outcomes.count("retried"),
        holds=outcomes.count("parked"),
        unholds=sum(run.outcome == "parked" and run.attempt < attempt for run in done),
        handbacks=outcomes.count("handed_back"),
    )


def _timed_out(run: Run) -> bool:
    return run.error_type == _TIMED_OUT or (
        run.outcome == "failed" and run.detail == FailureKind.TIMEOUT.value
    )


def _trace(traceparent: str | None) -> str | None:
    """Return the trace's id, of a W3C trace context."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None


_READ: Final = {*JobRow.__struct_fields__, "envelope"}
