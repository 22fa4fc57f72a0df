"""Has jobs that are over run again: the same job, one attempt on, with a new retry budget.

The copy is published and confirmed while the job's row is locked, and the row then says what the
feed is going to say of it. So of two that restart one job at once the second finds it queued; and if
the process dies in between, the feed tells the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import select

from taskyard.ledger.history import fold, unpack
from taskyard.ledger.recording import NotRecorded
from taskyard.ledger.schema import jobs
from taskyard.ledger.writing import merge
from taskyard.shared.broker import PublishStatus
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.feed import FeedItem
from taskyard.shared.states import FINAL, State
from taskyard.shared.wire import RESTARTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import RowMapping
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.intents import Intents

_WHY_NOT: Final = {
    State.PARKED: "it is parked: `taskyard parked release` lets it go on",
    State.SUSPENDED: "it is suspended: resume it",
}


async def restart(
    broker: Broker,
    connection: AsyncConnection,
    ids: Sequence[str],
    *,
    intents: Intents,
    deadline_s: float,
) -> dict[str, str]:
    """Publish jobs again that are over; return for each id an empty text, or why it was not.

    Args:
        broker: open.
        connection: in a transaction of `begin_writing`.
        ids: few enough for one confirm and one transaction.
        intents: operators', as they are now: earlier cancels of these jobs become void.
        deadline_s: for the publish.

    """
    columns = (jobs.c.id, jobs.c.state, jobs.c.attempt, jobs.c.generation, jobs.c.envelope)
    statement = select(*columns).where(jobs.c.id.in_(ids)).order_by(jobs.c.id).with_for_update()
    rows = {row["id"]: row for row in (await connection.execute(statement)).mappings()}
    found = {job_id: _problem(rows.get(job_id)) for job_id in ids}
    now_ms = broker.now_ms()
    copies: list[Envelope] = []
    for job_id in [job_id for job_id, problem in found.items() if not problem]:
        try:
            copies.append(_again(rows[job_id], now_ms, intents.cancel_of(job_id)))
        except NotRecorded as error:
            found[job_id] = str(error)
        except UNREADABLE as error:
            found[job_id] = f"this version cannot read what was asked of it: {error}"
    receipts = await broker.publish(copies, deadline_s=deadline_s) if copies else []
    sent: list[FeedItem] = []
    for copy, receipt in zip(copies, receipts, strict=True):
        if receipt.status is PublishStatus.CONFIRMED:
            sent.append(FeedItem(envelope=copy))
        elif receipt.status is PublishStatus.TIMEOUT:
            found[copy.id] = "the broker did not answer in time: it may run again; look at it later"
        else:
            found[copy.id] = f"the broker did not take it: {receipt.status.value} {receipt.detail}"
    await merge(connection, fold(sent))
    return found


def _problem(row: RowMapping | None) -> str:
    """Return why a job cannot be restarted, in words; empty if it can."""
    if row is None:
        return "the ledger knows no such job"
    state = State(row["state"])
    if state not in FINAL:
        return _WHY_NOT.get(state, f"it is {state}, not over")
    if row["envelope"] is None:
        return "the ledger does not hold what was asked of it"
    return ""


def _again(row: RowMapping, now_ms: int, cancelled: ControlRecord | None) -> Envelope:
    """Return a job that is over as it is sent again: due now, to nobody who waits for a reply."""
    envelope = unpack(row["envelope"])
    # Whoever cancelled it may have had a clock that is ahead of ours.
    restarted_ms = now_ms if cancelled is None else max(now_ms, cancelled.at)
    expired = envelope.expires_ms is not None and envelope.expires_ms <= now_ms
    return msgspec.structs.replace(
        envelope,
        attempt=row["attempt"] + 1,
        base=row["attempt"],
        generation=max(row["generation"], envelope.generation),
        deliveries=1,
        not_before_ms=now_ms,
        expires_ms=None if expired else envelope.expires_ms,
        reply=(),
        parking=None,
        extra={**(envelope.extra or {}), RESTARTED: restarted_ms},
    )
