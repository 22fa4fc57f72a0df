"""Does what was decided about jobs that are to be changed or cancelled: publishes, parks, writes.

Each step is durable at the broker before the ledger says so, and the ledger says what the feed is
going to say. A parking lot has no feed: there the ledger is told here, and only here.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from taskyard.ledger.changing import (
    COLUMNS,
    Done,
    End,
    Publish,
    Refuse,
    Replace,
    SetAside,
    Step,
    TakeUp,
    cancelled,
    end_of,
    step_of,
    suspended,
)
from taskyard.ledger.history import fold, peek
from taskyard.ledger.rows import Batch
from taskyard.ledger.schema import jobs
from taskyard.ledger.texts import clean
from taskyard.ledger.writing import merge
from taskyard.shared.broker import PublishStatus, Selection, Settlement
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import UnknownQueue
from taskyard.shared.feed import FINISHED, FeedItem, FeedRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import RowMapping

    from taskyard.ledger.database import Database
    from taskyard.ledger.requests import Request
    from taskyard.ledger.rows import Job
    from taskyard.shared.broker import Broker, Delivery, Receipt
    from taskyard.shared.changes import Start
    from taskyard.shared.envelope import Envelope

_DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a request.

    Attributes:
        request: that it is about.
        refused: nothing was done.
        text: what happened, in words.
        old_due_ms: when the job's message from before comes at the latest.

    """

    request: Request
    refused: bool
    text: str
    old_due_ms: int = 0


class Actor:
    """Acts on requests, some hundreds at a time."""

    def __init__(self, broker: Broker, database: Database) -> None:
        """Act on a broker and a ledger that belong together."""
        self._broker = broker
        self._database = database
        # Jobs that may be in a parking lot though the ledger does not say so: they are looked for.
        self._doubtful: set[str] = set()

    async def act(
        self, requests: Sequence[Request], started: Mapping[str, Start | None]
    ) -> list[Verdict]:
        """Do what can be done, and return a verdict for each request that has an end.

        What the broker did not confirm in time has none: it is to be tried again.

        Args:
            requests: what is asked for, each job once or twice.
            started: what workers said of them, by token.

        Raises:
            Unavailable: broker or database are away; some may be done.

        """
        ids = sorted({clean(request.job) for request in requests})
        async with self._database.begin_writing() as connection:
            columns = [jobs.c[name] for name in COLUMNS]
            statement = select(*columns).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
            found = (await connection.execute(statement.with_for_update())).mappings()
            rows = {row["id"]: row for row in found}
            verdicts: list[Verdict] = []
            told: list[Job] = []
            for some in (
                await self._cancel([r for r in requests if r.asked is None], rows),
                await self._change([r for r in requests if r.asked is not None], rows, started),
            ):
                verdicts += some[0]
                told += some[1]
            # Two jobs of one batch in a fixed order, so that two writers cannot wait for each other.
            await merge(connection, Batch(sorted(told, key=lambda job: job.id), []))
        self._doubtful -= {verdict.request.job for verdict in verdicts}
        return verdicts

    # ------------------------------------------------------------ cancels

    async def _cancel(
        self, requests: Sequence[Request], rows: Mapping[str, RowMapping]
    ) -> tuple[list[Verdict], list[Job]]:
        ends = {r.job: end_of(_row(rows, r), asked_ms=r.at_ms) for r in requests}
        aside = {job: end for job, end in ends.items() if isinstance(end, End) and end.aside}
        by = {request.job: request.by for request in requests}
        found = await self._end_aside([end.envelope for end in aside.values()], by)
        verdicts: list[Verdict] = []
        told: list[Job] = []
        for request in requests:
            job, end = request.job, ends[request.job]
            text = end.text
            if job in aside and not found.get(job, False):
                if job in found:
                    continue  # nobody knows yet
                text = "it is suspended, and was not found; resumed, it would not start"
            elif isinstance(end, End):
                told.append(cancelled(rows[clean(job)], now_ms=self._broker.now_ms()))
            verdicts.append(
                Verdict(
                    request=request,
                    refused=isinstance(end, Refuse),
                    text=text,
                    old_due_ms=_due_ms(_row(rows, request)) if isinstance(end, End) else 0,
                )
            )
        return verdicts, told

    async def _end_aside(
        self, envelopes: Sequence[Envelope], by: Mapping[str, str]
    ) -> dict[str, bool]:
        def end(delivery: Delivery) -> Settlement:
            job = delivery.envelope
            at_ms = self._broker.now_ms()
            record = FeedRecord.of(
                job, FINISHED, at_ms=at_ms, worker=by[job.id], outcome="cancelled"
            )
            return Settlement(delivery=delivery, record=record)

        return await self._from_lot(envelopes, end)

    # ------------------------------------------------------------ changes

    async def _change(
        self,
        requests: Sequence[Request],
        rows: Mapping[str, RowMapping],
        started: Mapping[str, Start | None],
    ) -> tuple[list[Verdict], list[Job]]:
        steps: dict[str, Step] = {}
        by_job = {request.job: request for request in requests}
        now_ms = self._broker.now_ms()
        for job, request in by_job.items():
            start = started.get(request.token)
            if start is not None:
                steps[job] = Refuse(f"it was running: attempt {start.attempt} on {start.worker}")
            elif request.asked is not None:
                steps[job] = step_of(
                    _row(rows, request), request.asked, by=request.by, now_ms=now_ms
                )
        ends = await self._carry_out(steps, {job for job, r in by_job.items() if r.inherited})
        verdicts: list[Verdict] = []
        told: list[Job] = []
        for job, request in by_job.items():
            step = steps[job]
            problem = step.text if isinstance(step, Refuse) else ends.get(job)
            if problem is None:
                continue  # nobody knows yet
            if not problem and not isinstance(step, Refuse):
                told.append(_row_of(step, now_ms))
            verdicts.append(
                Verdict(
                    request=request,
                    refused=bool(problem),
                    text=problem or _done_text(step),
                    old_due_ms=_due_ms(_row(rows, request)),
                )
            )
        return verdicts, told

    async def _carry_out(self, steps: Mapping[str, Step], inherited: set[str]) -> dict[str, str]:
        """Return for each job that is not refused an empty text, or why not; none: not known yet."""
        ends = {job: "" for job, step in steps.items() if isinstance(step, Done)}
        sent = [step.envelope for step in steps.values() if isinstance(step, Publish)]
        aside = [step.envelope for step in steps.values() if isinstance(step, SetAside)]
        there = await self._already_aside(aside, inherited)
        ends |= dict.fromkeys(there, "")
        aside = [envelope for envelope in aside if envelope.id not in there]
        if sent:
            receipts = await self._broker.publish(sent, deadline_s=_DEADLINE_S)
            ends |= _ends(sent, receipts)
        if aside:
            # Until the ledger says so: it may be lost before it is told, and no feed tells it later.
            self._doubtful |= {envelope.id for envelope in aside}
            ends |= _ends(aside, await self._broker.park(aside, deadline_s=_DEADLINE_S))
        moved = [s for s in steps.values() if isinstance(s, (TakeUp, Replace))]
        if moved:
            ends |= await self._move(moved)
        return ends

    async def _already_aside(
        self, aside: Sequence[Envelope], inherited: set[str]
    ) -> frozenset[str]:
        """Return which of these jobs are in their lots already, where that is in doubt."""
        doubtful = {e.id: e for e in aside if e.id in inherited or e.id in self._doubtful}
        found: set[str] = set()
        for queue in {envelope.queue for envelope in doubtful.values()}:
            with suppress(UnknownQueue):  # then nothing is in its lot; to be put there is refused
                async with aclosing(self._broker.parked(queue)) as lot:
                    async for parked in lot:
                        meant = doubtful.get(parked.envelope.id)
                        if meant is not None and parked.envelope.generation == meant.generation:
                            found.add(meant.id)
        return frozenset(found)

    async def _move(self, steps: Sequence[TakeUp | Replace]) -> dict[str, str]:
        new = {step.envelope.id: step for step in steps}
        there: set[str] = set()

        def settlement(delivery: Delivery) -> Settlement | None:
            step = new[delivery.envelope.id]
            if delivery.envelope.generation >= step.envelope.generation:
                # Whoever put it there died before the ledger was told.
                there.add(delivery.envelope.id)
                return None
            if isinstance(step, TakeUp):
                return Settlement(delivery=delivery, copies=(step.envelope,))
            return Settlement(delivery=delivery, park=step.envelope)

        found = await self._from_lot([step.envelope for step in steps], settlement)
        found |= dict.fromkeys(there, True)
        missing = "it is not in its queue's parking lot: `taskyard reconcile` looks after it"
        # Of one that was found and is not done nobody knows yet.
        known = [job for job in new if found.get(job, True)]
        return {job: "" if job in found else missing for job in known}

    async def _from_lot(
        self, envelopes: Sequence[Envelope], act: Callable[[Delivery], Settlement | None]
    ) -> dict[str, bool]:
        """Settle what is in the lots of these jobs; return of those that were found if it is done."""
        done: dict[str, bool] = {}
        for queue in sorted({envelope.queue for envelope in envelopes}):
            ids = frozenset(e.id for e in envelopes if e.queue == queue)
            with suppress(UnknownQueue):  # then nothing is in its lot
                taking = self._broker.take_parked(queue, Selection(ids=ids))
                async with aclosing(taking) as batches:
                    async for batch in batches:
                        acts = [each for delivery in batch if (each := act(delivery)) is not None]
                        fates = await self._broker.settle(acts, deadline_s=_DEADLINE_S)
                        for each, fate in zip(acts, fates, strict=True):
                            done[each.delivery.envelope.id] = fate.done
        return done


def _row(rows: Mapping[str, RowMapping], request: Request) -> RowMapping | None:
    return rows.get(clean(request.job))


def _ends(jobs: Sequence[Envelope], receipts: Sequence[Receipt]) -> dict[str, str]:
    ends: dict[str, str] = {}
    for envelope, receipt in zip(jobs, receipts, strict=True):
        if receipt.status is PublishStatus.CONFIRMED:
            ends[envelope.id] = ""
        elif receipt.status not in (PublishStatus.TIMEOUT, PublishStatus.UNAVAILABLE):
            ends[envelope.id] = (
                f"the broker did not take it: {receipt.status.value} {receipt.detail}"
            )
    return ends


def _row_of(step: Publish | SetAside | TakeUp | Replace | Done, now_ms: int) -> Job:
    envelope = step.envelope
    if isinstance(step, (SetAside, Replace)):
        return suspended(envelope, now_ms)
    return fold([FeedItem(envelope=envelope)]).jobs[0]


def _done_text(step: Step) -> str:
    match step:
        case SetAside():
            return "suspended"
        case Replace():
            return "changed; it stays suspended"
        case TakeUp():
            return "resumed"
        case _:
            return "changed"


def _due_ms(row: RowMapping | None) -> int:
    if row is None or row["envelope"] is None:
        return 0
    try:
        return peek(row["envelope"]).due_ms
    except UNREADABLE:
        return 0
