"""Releasing and discarding what a selection means: plainly, at a pace, or behind a canary."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskyard.broker_setup.intents import check_queues
from taskyard.broker_setup.moving import Mover, Tally
from taskyard.broker_setup.pace import Pace
from taskyard.broker_setup.parking import discarded, is_sealed, lots, released, released_record
from taskyard.broker_setup.survey import Survey, resolve_fingerprint, survey
from taskyard.broker_setup.watching import describe, watching
from taskyard.shared.broker import Settlement
from taskyard.shared.clock import Clock, SystemClock
from taskyard.shared.errors import NotFound, ResultTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.broker_setup.watching import Watch
    from taskyard.shared.broker import Broker, Delivery, Selection
    from taskyard.shared.feed import Reply

#: How long a canary may take unless told otherwise, in seconds: three attempts and their gaps.
CANARY_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be released, and how.

    Attributes:
        queues: whose lots; none means all that the broker has.
        selection: which jobs.
        by: who asks.
        to: the queue that they go to; None is their own.
        per_s: at most so many a second, evenly; None is as fast as it goes.
        canary_s: release one of each group first, wait so long for its outcome, and go on only
            while the group succeeds; None releases without looking.

    """

    queues: Sequence[str] = ()
    selection: Selection
    by: str
    to: str | None = None
    per_s: float | None = None
    canary_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A group whose release was ended because it failed again.

    Attributes:
        queue: in whose lot the rest of it still is.
        fingerprint: of the group.
        job: whose outcome ended it.
        canary: whether that was the first one.
        outcome: in words.

    """

    queue: str
    fingerprint: str
    job: str
    canary: bool
    outcome: str

    def __str__(self) -> str:
        who = "the canary" if self.canary else "released job"
        return (
            f"group {self.fingerprint!r} of {self.queue}: {who} {self.job} ended as "
            f"{self.outcome}; the rest of the group is still parked"
        )


class CanaryTimeout(ResultTimeout):
    """A canary had no outcome in time; nothing else of its group was released."""

    def __str__(self) -> str:
        return (
            f"no outcome of the canary {self.job_id} within {self.timeout_s:g} s; it goes on, and "
            "nothing else of its group was released; is there a worker, and is the queue paused? "
            "Run the command again later, or with a longer --canary-timeout"
        )


@dataclass(slots=True)
class Releasing:
    """One release under way.

    Attributes:
        broker: open.
        order: what was asked for.
        tally: what was done; read it after an interruption.
        stops: the groups that were stopped.
        clock: for the pace.

    """

    broker: Broker
    order: Order
    tally: Tally = field(default_factory=Tally)
    stops: list[Stop] = field(default_factory=list[Stop])
    clock: Clock = field(default_factory=SystemClock)

    async def run(self) -> None:
        """Release, in the order of the lots; with a canary, group by group.

        Raises:
            NotFound: nothing matched, or a queue does not exist.
            PublishError: a job was not confirmed; it and what follows are still parked.
            CanaryTimeout: a canary had no outcome in time; nothing else of its group was released.

        """
        order = self.order
        if order.to is not None:
            await check_queues(self.broker, [order.to])
        queues, selection, known = await look(self.broker, order.queues, order.selection)
        self.tally.expected = known.count
        if order.canary_s is None:
            await _everywhere(self._mover(known, None), queues, selection)
        else:
            async with watching(self.broker) as watch:
                await self._by_group(known, selection, watch, order.canary_s)
        _check_some(self.tally, "released")

    def _mover(self, known: Survey, watch: Watch | None) -> Mover:
        order, broker = self.order, self.broker
        address = None if watch is None else watch.address

        def act(delivery: Delivery) -> Settlement | str:
            envelope = delivery.envelope
            if order.to not in (None, envelope.queue) and is_sealed(envelope):
                return "its arguments are encrypted for its task: it can go to its own queue only"
            copy = released(envelope, broker.now_ms(), by=order.by, to=order.to, watch=address)
            if watch is not None:
                watch.expect(copy)
            record = released_record(copy, by=order.by) if broker.recording else None
            return Settlement(delivery=delivery, copies=(copy,), record=record)

        return Mover(
            broker=broker,
            act=act,
            verb="released",
            known=known,
            tally=self.tally,
            halted=lambda: watch is not None and watch.failure is not None,
            pace=None if order.per_s is None else Pace(order.per_s, self.clock),
            clock=self.clock,
        )

    async def _by_group(
        self, known: Survey, selection: Selection, watch: Watch, canary_s: float
    ) -> None:
        mover = self._mover(known, watch)
        for queue, groups in known.by_lot.items():
            for fingerprint, group in groups.items():
                watch.forget()
                # A limit was shared out when the lots were counted; without one, what is parked
                # while this goes on belongs to the group, too, as it does without a canary.
                limit = None if selection.limit is None else group.count
                mine = dataclasses.replace(selection, fingerprint=fingerprint, limit=limit)
                await self._group(mover, queue, mine, watch, canary_s)

    async def _group(
        self, mover: Mover, queue: str, mine: Selection, watch: Watch, canary_s: float
    ) -> None:
        moved = await mover.move(queue, dataclasses.replace(mine, limit=1))
        if not moved:
            return
        (canary,) = moved
        self.tally.say(f"canary {canary} is out; waiting for its end")
        reply = await watch.outcome(canary, self.order.to or queue, canary_s)
        if reply is None:
            raise CanaryTimeout(canary, canary_s)
        if reply.outcome != "succeeded":
            self._stop(queue, mine, reply, canary=True)
            return
        self.tally.say(f"canary {canary} succeeded; the rest of its group follows")
        if mine.limit != 1:
            rest = None if mine.limit is None else mine.limit - 1
            await mover.move(queue, dataclasses.replace(mine, limit=rest))
        if watch.failure is not None:
            self._stop(queue, mine, watch.failure, canary=False)

    def _stop(self, queue: str, mine: Selection, reply: Reply, *, canary: bool) -> None:
        self.stops.append(
            Stop(
                queue=queue,
                fingerprint=mine.fingerprint or "",
                job=reply.job,
                canary=canary,
                outcome=describe(reply),
            )
        )


async def look(
    broker: Broker, queues: Sequence[str], selection: Selection
) -> tuple[Sequence[str], Selection, Survey]:
    """Return the lots that are meant, the selection with its fingerprint in full, and a survey."""
    named = await lots(broker, queues)
    if selection.fingerprint is not None:
        full = await resolve_fingerprint(broker, named, selection.fingerprint)
        selection = dataclasses.replace(selection, fingerprint=full)
    return named, selection, await survey(broker, named, selection)


async def discard(
    broker: Broker, queues: Sequence[str], selection: Selection, *, by: str, tally: Tally
) -> None:
    """Give parked jobs up: each ends as failed, with the kind of its cause.

    Raises:
        NotFound: nothing matched.
        PublishError: a job was not confirmed; it and what follows are still parked.

    """
    named, selection, known = await look(broker, queues, selection)
    tally.expected = known.count

    def act(delivery: Delivery) -> Settlement | str:
        return discarded(delivery, by=by, now_ms=broker.now_ms())

    mover = Mover(broker=broker, act=act, verb="discarded", known=known, tally=tally)
    await _everywhere(mover, named, selection)
    _check_some(tally, "discarded")


async def _everywhere(mover: Mover, queues: Sequence[str], selection: Selection) -> None:
    for queue in queues:
        limit = selection.limit
        left = None if limit is None else limit - len(mover.tally.done)
        if left == 0:
            break
        await mover.move(queue, dataclasses.replace(selection, limit=left))


def _check_some(tally: Tally, verb: str) -> None:
    if tally.done:
        return
    msg = f"no parked job matches; nothing was {verb}"
    for job_id, why in tally.left.items():
        msg = f"nothing was {verb}: {len(tally.left)} jobs stay parked, such as {job_id}: {why}"
        break
    raise NotFound(msg)
