"""Moving jobs out of parking lots, one settlement each, at a pace if there is one.

Taking a job out of its lot and publishing its copy is one settlement, so an interrupted move
loses nothing: at worst a job is both released and still parked, and says so by its attempt.
A slow move gives the lot back every few seconds: while it holds it, RabbitMQ shows it to nobody.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import PARKED_BATCH, Settlement
from taskyard.shared.clock import Clock, SystemClock
from taskyard.shared.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.broker_setup.pace import Pace
    from taskyard.broker_setup.survey import Survey
    from taskyard.shared.broker import Broker, Delivery, Selection

#: How long a slow move keeps a lot to itself: less than others wait for their turn.
HOLD_S: Final = 4.0
#: How long it then leaves the lot to others: longer than they take to notice.
BREATH_S: Final = 0.5


def _silent(*_: object) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Tally:
    """What was done so far; it can be read after an interruption.

    Attributes:
        done: ids, in order.
        left: jobs that could not be moved, and why.
        expected: how many were meant when the lots were looked at.
        on_change: is called after each batch.
        say: is told what is going on.

    """

    done: list[str] = field(default_factory=list[str])
    left: dict[str, str] = field(default_factory=dict[str, str])
    expected: int = 0
    on_change: Callable[[], None] = _silent
    say: Callable[[str], None] = _silent


@dataclass(slots=True, kw_only=True)
class Mover:
    """Applies one act to selected jobs of lots.

    Attributes:
        broker: open.
        act: turns a job into the settlement that moves it, or says in words why it stays.
        verb: what it does, for errors (`released`, `discarded`).
        known: a survey of the lots.
        tally: takes note of what was done.
        halted: tells whether to go no further.
        pace: None is as fast as the broker confirms.
        clock: for the pace.
        deadline_s: for each batch's settlement.

    """

    broker: Broker
    act: Callable[[Delivery], Settlement | str]
    verb: str
    known: Survey
    tally: Tally
    halted: Callable[[], bool] = lambda: False
    pace: Pace | None = None
    clock: Clock = field(default_factory=SystemClock)
    deadline_s: float = 10.0
    _met: set[str] = field(default_factory=set[str])

    async def move(self, queue: str, selection: Selection) -> list[str]:
        """Move what is meant, in the order of the lot, and return the ids.

        A job that comes back into the lot meanwhile is not moved again.

        Raises:
            PublishError: a settlement was not confirmed; that job and the rest are still parked.

        """
        start = len(self.tally.done)
        end = None if selection.limit is None else start + selection.limit
        again = await self._pass(queue, selection, end)
        while again:
            await asyncio.sleep(BREATH_S)
            again = await self._pass(queue, selection, end)
        return self.tally.done[start:]

    async def _pass(self, queue: str, selection: Selection, end: int | None) -> bool:
        """Go through the lot once; tell whether to come again."""
        if self.pace is not None:
            await self.pace.wait()
        if self._over(end):
            return False
        until_s = math.inf
        wanted = dataclasses.replace(selection, limit=None, batch=self._batch(end))
        async with aclosing(self.broker.take_parked(queue, wanted)) as batches:
            async for batch in batches:
                # Not before: a long lot takes a while to come.
                until_s = min(until_s, self.clock.monotonic_s() + HOLD_S)
                count = await self._settle(queue, batch, end)
                if self._over(end):
                    return False
                if self.pace is None or not count:
                    continue
                self.pace.went(count)
                if self.clock.monotonic_s() + self.pace.gap_s() >= until_s:
                    return True
                await self.pace.wait()
                if self.halted():
                    return False
        return False

    def _over(self, end: int | None) -> bool:
        return self.halted() or (end is not None and len(self.tally.done) >= end)

    def _batch(self, end: int | None) -> int:
        grain = PARKED_BATCH if self.pace is None else min(self.pace.grain, PARKED_BATCH)
        return grain if end is None else min(grain, end - len(self.tally.done))

    async def _settle(self, queue: str, batch: Sequence[Delivery], end: int | None) -> int:
        settlements: list[Settlement] = []
        stale: list[Settlement] = []
        room = len(batch) if end is None else end - len(self.tally.done)
        for delivery in batch:
            job_id = delivery.envelope.id
            if self.known.supersedes(delivery.envelope):
                stale.append(Settlement(delivery=delivery))
                continue
            if job_id in self._met or len(settlements) == room:
                continue
            self._met.add(job_id)
            act = self.act(delivery)
            if isinstance(act, str):
                self.tally.left[job_id] = act
            else:
                settlements.append(act)
        if settlements or stale:
            await self._confirm(queue, settlements, stale)
        return len(settlements)

    async def _confirm(
        self, queue: str, settlements: Sequence[Settlement], stale: Sequence[Settlement]
    ) -> None:
        # What is stale goes first: cut short, its newer form must not be gone without it.
        settling = asyncio.create_task(
            self.broker.settle([*stale, *settlements], deadline_s=self.deadline_s), name="settling"
        )
        ids = [settlement.delivery.envelope.id for settlement in settlements]
        try:
            await asyncio.shield(settling)
        finally:
            # Interrupted or not: what is on its way is seen to its end, or nobody could say how
            # far this went.
            fates = list(zip(ids, (await settling)[len(stale) :], strict=True))
            self.tally.done += [job for job, fate in fates if fate.done]
            self.tally.on_change()
        wrong = next((job for job, fate in fates if not fate.done), None)
        if wrong is not None:
            msg = (
                f"{len(self.tally.done)} {self.verb}, but {wrong} was not confirmed by the "
                "broker; it and what follows are still parked; run the command again"
            )
            raise PublishError(msg, job_id=wrong, queue=queue)
