"""Publishes jobs again that the broker has lost, from what the ledger holds of them.

The same job in the same attempt, one generation on, and due when it was. A page of jobs is published
and confirmed while its rows are locked, and the rows then say what the feed is going to say: so of
two that rebuild at once the second finds nothing missing, and if the process dies in between, the
feed tells the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from sqlalchemy import select

from taskyard.ledger.history import SET_ASIDE, fold, phase_of, unpack
from taskyard.ledger.missing import is_aside
from taskyard.ledger.reading import plan_each
from taskyard.ledger.schema import jobs, runs
from taskyard.ledger.writing import merge
from taskyard.shared.broker import PublishStatus
from taskyard.shared.changes import Asked, changed_record
from taskyard.shared.envelope import UNREADABLE, Parking, mint_id
from taskyard.shared.errors import PublishError
from taskyard.shared.feed import FeedItem
from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.states import ParkReason, State
from taskyard.shared.wire import REPUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, RowMapping
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.database import Database
    from taskyard.shared.broker import Broker, Receipt
    from taskyard.shared.envelope import Envelope

#: Jobs of one transaction, and of one confirm.
PAGE: Final = 500
#: The generation of a job that was never changed, and is published again for the first time.
_FIRST_AGAIN: Final = 2
_SUSPENDED: Final = {State.SUSPENDED.value: ParkReason.SUSPENDED.value}
#: Jobs that are named of those that could not be published.
_NAMED: Final = 20

_READ: Final = (
    jobs.c.id,
    jobs.c.state,
    jobs.c.rank,
    jobs.c.attempt,
    jobs.c.deliveries,
    jobs.c.generation,
    jobs.c.due_ms,
    jobs.c.ended_ms,
    jobs.c.detail,
    jobs.c.worker,
    jobs.c.envelope,
)


class Put(Protocol):
    """Where copies go: `Broker.publish`, or `Broker.park`."""

    async def __call__(self, jobs: Sequence[Envelope], /, *, deadline_s: float) -> list[Receipt]:
        """Put them there, and return a receipt for each."""
        ...


def _silent(*_: object) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Tally:
    """What was done so far; it can be read after an interruption.

    Attributes:
        done: jobs that were published again.
        refused: jobs that could not be.
        why: of the first of these, by their ids.
        on_change: is called after each page.

    """

    done: int = 0
    refused: int = 0
    why: dict[str, str] = field(default_factory=dict[str, str])
    on_change: Callable[[], None] = _silent

    def refuse(self, job_id: str, why: str) -> None:
        """Count a job that could not be published."""
        self.refused += 1
        if len(self.why) < _NAMED:
            self.why[job_id] = why


@dataclass(slots=True, kw_only=True)
class Rebuilder:
    """Publishes jobs again.

    Attributes:
        broker: open.
        database: of the ledger.
        by: `user@host`.
        deadline_s: for each page's publish.
        supersede: the broker may have the jobs still: have workers give up what is older.
        tally: takes note of what was done.

    """

    broker: Broker
    database: Database
    by: str
    deadline_s: float
    supersede: bool = False
    tally: Tally = field(default_factory=Tally)

    async def rebuild(self, missing: ColumnElement[bool]) -> None:
        """Publish the jobs again that a condition means, until none is left.

        Raises:
            PublishError: the broker took none of a page; what was published before it stays so.

        """
        after = ""
        while True:
            async with self.database.begin_writing() as connection:
                rows = await _page(connection, missing, jobs.c.id > after)
                if not rows:
                    return
                after = rows[-1]["id"]
                copies = self._copies(rows, self._again)
                sent = await self._publish(copies, self.broker.publish)
                await self._announce(sent)
                await merge(connection, fold(FeedItem(envelope=copy) for copy in sent))
            self.tally.on_change()

    async def park(self, ids: Sequence[str]) -> None:
        """Put jobs back into their parking lots that the ledger knows as parked or suspended.

        Raises:
            PublishError: see `rebuild`.

        """
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            async with self.database.begin_writing() as connection:
                rows = await _page(connection, is_aside, jobs.c.id.in_(some))
                errors = await _errors(connection, rows)
                copies = self._copies(rows, partial(parked_again, errors=errors))
                await self._publish(copies, self.broker.park)
            self.tally.on_change()

    def _again(self, row: RowMapping) -> Envelope:
        return again(row, self.broker.now_ms())

    def _copies(
        self, rows: Iterable[RowMapping], make: Callable[[RowMapping], Envelope]
    ) -> list[Envelope]:
        copies: list[Envelope] = []
        for row in rows:
            if row["envelope"] is None:
                self.tally.refuse(row["id"], "the ledger does not hold what was asked of it")
                continue
            try:
                copies.append(make(row))
            except UNREADABLE as error:
                text = f"it cannot be sent again: {error}"
                self.tally.refuse(row["id"], text)
        return copies

    async def _publish(self, copies: Sequence[Envelope], put: Put) -> list[Envelope]:
        """Publish copies, and return those that are confirmed."""
        if not copies:
            return []
        receipts = await put(copies, deadline_s=self.deadline_s)
        sent: list[Envelope] = []
        problem = ""
        for copy, receipt in zip(copies, receipts, strict=True):
            if receipt.status is PublishStatus.CONFIRMED:
                sent.append(copy)
            else:
                problem = f"{receipt.status.value} {receipt.detail}".strip()
                self.tally.refuse(copy.id, f"the broker did not take it: {problem}")
        self.tally.done += len(sent)
        if not sent:
            raise PublishError(
                f"the broker takes none of these jobs: {problem}; {self.tally.done} were published "
                "before; run the command again",
                job_id=copies[0].id,
                queue=copies[0].queue,
            )
        return sent

    async def _announce(self, sent: Sequence[Envelope]) -> None:
        """Have workers give up older publishes of these jobs, where there may be some.

        Only then: each record is read and remembered by every worker. It comes after the copy, so
        that a death in between leaves two publishes of a job, and never none.
        """
        at_ms = self.broker.now_ms()
        records = [
            changed_record(
                copy.id,
                Asked(generation=copy.generation, token=mint_id()),
                by=self.by,
                at_ms=at_ms,
                until_ms=copy.due_ms,
            )
            for copy in sent
            if self.supersede or copy.generation > _FIRST_AGAIN
        ]
        if records and self.broker.capabilities.control:
            await self.broker.append_control(records)


async def _page(connection: AsyncConnection, *holds: ColumnElement[bool]) -> Sequence[RowMapping]:
    await plan_each(connection)
    statement = select(*_READ).where(*holds).order_by(jobs.c.id).limit(PAGE).with_for_update()
    return (await connection.execute(statement)).mappings().all()


async def _errors(connection: AsyncConnection, rows: Iterable[RowMapping]) -> dict[str, ErrorInfo]:
    """Return the errors that jobs were parked with, by their ids."""
    ids = [row["id"] for row in rows]
    statement = (
        select(
            runs.c.job, runs.c.error_type, runs.c.error_message, runs.c.traceback,
            runs.c.fingerprint,
        )
        .where(runs.c.job.in_(ids), runs.c.outcome == "parked", runs.c.error_type.is_not(None))
        .order_by(runs.c.generation, runs.c.attempt, runs.c.deliveries)
    )  # fmt: skip
    return {
        row["job"]: ErrorInfo(
            type=row["error_type"],
            message=row["error_message"] or "",
            traceback=row["traceback"] or "",
            fingerprint=row["fingerprint"] or "",
        )
        for row in (await connection.execute(statement)).mappings()
    }


def again(row: RowMapping, now_ms: int) -> Envelope:
    """Return a job that is missing as it is published again.

    Args:
        row: of the ledger.
        now_ms: when.

    Raises:
        UNREADABLE: this version cannot read its envelope.

    """
    envelope = unpack(row["envelope"])
    attempt, deliveries, due_ms = row["attempt"], row["deliveries"], envelope.not_before_ms
    if row["state"] == State.RUNNING.value:
        deliveries += 1  # it was handed over, and comes again
    elif phase_of(row["rank"]) == SET_ASIDE:
        # Its worker said that it is to be tried again; the copy itself never came into the feed.
        attempt, deliveries, due_ms = attempt + 1, 1, row["due_ms"]
    return msgspec.structs.replace(
        envelope,
        attempt=attempt,
        deliveries=deliveries,
        generation=max(row["generation"], envelope.generation) + 1,
        not_before_ms=due_ms,
        parking=None,
        extra={**(envelope.extra or {}), REPUBLISHED: now_ms},
    )


def parked_again(row: RowMapping, *, errors: Mapping[str, ErrorInfo]) -> Envelope:
    """Return a parked job as it is put back into its lot: as it was, with the error of its run."""
    return msgspec.structs.replace(
        unpack(row["envelope"]),
        attempt=row["attempt"],
        deliveries=row["deliveries"],
        generation=row["generation"],
        parking=Parking(
            reason=row["detail"] or _SUSPENDED.get(row["state"], ""),
            at_ms=row["ended_ms"] or 0,
            detail="put back from the ledger",
            error=errors.get(row["id"]),
            worker=row["worker"] or "",
        ),
    )
