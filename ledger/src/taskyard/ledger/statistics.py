"""Reads how many jobs are where, what went on since an instant, and how long jobs waited and ran.

Of two kinds of numbers: those of `jobs` say where jobs stand, those of `runs` what was done, retries
included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import and_, case, func, or_, select

from taskyard.ledger.conditions import is_scheduled
from taskyard.ledger.schema import jobs, runs
from taskyard.shared.states import FINAL, FailureKind, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, RowMapping
    from sqlalchemy.ext.asyncio import AsyncConnection

#: Beside the states: failed by the job's own logic, which `failed` does not count here.
LOGICALLY_FAILED: Final = "logically_failed"
LABELS: Final = (*(state.value for state in State), LOGICALLY_FAILED)
_FINAL: Final = tuple(sorted(state.value for state in FINAL))
_OVER: Final = (*_FINAL, LOGICALLY_FAILED)


class Mean(msgspec.Struct, frozen=True):
    """A sum of milliseconds over a number of jobs or runs."""

    sum_ms: int = 0
    number: int = 0

    @property
    def ms(self) -> float | None:
        """The average; None of nothing."""
        return self.sum_ms / self.number if self.number else None

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.sum_ms + other.sum_ms, self.number + other.number)


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one queue, or of all.

    Attributes:
        now: jobs by state, now.
        changed: those of them whose state changed since the instant asked for.
        added: jobs that were sent since then.
        started: runs that began since then.
        completed: jobs that came to their end since then, whichever.
        in_queue: from a job's sending to its latest start, of the jobs that started since then.
        waited: from a run's due time to its start, of the runs that began since then.
        ran: from its start to its end, of the runs that ended since then.

    """

    now: Mapping[str, int] = {}
    changed: Mapping[str, int] = {}
    added: int = 0
    started: int = 0
    completed: int = 0
    in_queue: Mean = Mean()
    waited: Mean = Mean()
    ran: Mean = Mean()

    @property
    def complete(self) -> int:
        """How many jobs are over."""
        return sum(self.now.get(label, 0) for label in _OVER)

    @property
    def incomplete(self) -> int:
        """How many are not."""
        return sum(self.now.values()) - self.complete

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(
            now=_sum(self.now, other.now),
            changed=_sum(self.changed, other.changed),
            added=self.added + other.added,
            started=self.started + other.started,
            completed=self.completed + other.completed,
            in_queue=self.in_queue + other.in_queue,
            waited=self.waited + other.waited,
            ran=self.ran + other.ran,
        )


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of all queues together, and of each."""

    overall: Numbers
    queues: Mapping[str, Numbers]


async def statistics(
    connection: AsyncConnection, *, now_ms: int, since_ms: int = 0, queues: Sequence[str] = ()
) -> Statistics:
    """Return the numbers of these queues, or of all.

    Args:
        connection: to the ledger.
        now_ms: what is due later than this is scheduled.
        since_ms: where the window begins that some of the numbers are about.
        queues: which.

    """
    found: dict[str, Numbers] = {}
    for statement, numbers in (
        (_of_jobs(now_ms, since_ms, queues), _job_numbers),
        (_of_runs(since_ms, queues), _run_numbers),
    ):
        for row in (await connection.execute(statement)).mappings():
            found[row["queue"]] = found.get(row["queue"], Numbers()) + numbers(row)
    return Statistics(
        overall=_total(found.values()), queues={name: found[name] for name in sorted(found)}
    )


def _of_jobs(now_ms: int, since_ms: int, queues: Sequence[str]) -> Any:
    """Return one pass over the jobs: a row for each queue and state."""
    label = case(
        (is_scheduled(now_ms), State.SCHEDULED.value),
        (
            and_(jobs.c.state == State.FAILED.value, jobs.c.detail == FailureKind.LOGICAL.value),
            LOGICALLY_FAILED,
        ),
        else_=jobs.c.state,
    ).label("label")
    over = jobs.c.state.in_(_FINAL)
    went = and_(jobs.c.started_ms >= since_ms, jobs.c.created_ms.is_not(None))
    return (
        select(
            jobs.c.queue,
            label,
            func.count().label("number"),
            _number(jobs.c.changed_ms >= since_ms).label("changed"),
            _number(jobs.c.created_ms >= since_ms).label("added"),
            _number(and_(over, jobs.c.ended_ms >= since_ms)).label("completed"),
            func.sum(case((went, jobs.c.started_ms - jobs.c.created_ms), else_=0)).label("queued"),
            _number(went).label("went"),
        )
        .where(*([jobs.c.queue.in_(queues)] if queues else []))
        .group_by(jobs.c.queue, "label")
    )


def _of_runs(since_ms: int, queues: Sequence[str]) -> Any:
    """Return one pass over the runs of the window: a row for each queue."""
    began, ended = runs.c.started_ms >= since_ms, runs.c.ended_ms >= since_ms
    waited, ran = case((began, runs.c.wait_ms)), case((ended, runs.c.run_ms))
    return (
        select(
            runs.c.queue,
            _number(began).label("started"),
            func.sum(waited).label("waited_ms"),
            func.count(waited).label("waited"),
            func.sum(ran).label("ran_ms"),
            func.count(ran).label("ran"),
        )
        # What started in the window has not ended before it.
        .where(
            or_(ended, runs.c.ended_ms.is_(None)),
            *([runs.c.queue.in_(queues)] if queues else []),
        )
        .group_by(runs.c.queue)
    )


def _number(holds: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((holds, 1), else_=0))


def _job_numbers(row: RowMapping) -> Numbers:
    return Numbers(
        now={row["label"]: row["number"]},
        changed={row["label"]: int(row["changed"])} if row["changed"] else {},
        added=int(row["added"]),
        completed=int(row["completed"]),
        in_queue=Mean(int(row["queued"]), int(row["went"])),
    )


def _run_numbers(row: RowMapping) -> Numbers:
    return Numbers(
        started=int(row["started"]),
        waited=Mean(int(row["waited_ms"] or 0), row["waited"]),
        ran=Mean(int(row["ran_ms"] or 0), row["ran"]),
    )


def _total(each: Iterable[Numbers]) -> Numbers:
    total = Numbers()
    for numbers in each:
        total += numbers
    return total


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    return {
        label: one.get(label, 0) + other.get(label, 0) for label in dict.fromkeys((*one, *other))
    }
