"""Looks at the broker twice and at the ledger once it has caught up, and says what is missing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, not_, or_, select

from taskyard.ledger.drift import GAP_S, MARGIN_S, Drift, Evidence, Look, behind, judge
from taskyard.ledger.evidence import recall
from taskyard.ledger.missing import (
    any_of,
    count,
    is_certain,
    is_doubtful,
    is_late,
    is_missing,
    is_parked,
    queues_with,
)
from taskyard.ledger.reading import EXACT, queues as known_queues
from taskyard.ledger.schema import jobs
from taskyard.shared.broker import DELAYED, FEED, ORPHANS
from taskyard.shared.errors import ConfigurationError, Unavailable, UnknownQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.database import Database
    from taskyard.shared.broker import Broker

#: Seconds that the ledger gets to catch up with the feed.
PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.5
#: Further looks at queues of which RabbitMQ has gathered no numbers yet.
_MORE_LOOKS: Final = 2


class LedgerBehind(Unavailable):
    """The ledger may not know yet what has happened to jobs, so none can be told to be missing."""


class Surveyor:
    """Compares a ledger with its broker."""

    def __init__(
        self,
        broker: Broker,
        database: Database,
        *,
        margin_s: float = MARGIN_S,
        gap_s: float = GAP_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Prepare it.

        Args:
            broker: open.
            database: of the ledger.
            margin_s: how long nothing was heard of a job before it is looked for.
            gap_s: between two looks at the broker.
            patience_s: for the ledger to catch up with the feed.

        """
        self._broker = broker
        self._database = database
        self.margin_ms = round(margin_s * 1000)
        self._gap_s = gap_s
        self.patience_s = patience_s
        self._before: dict[str, Evidence] = {}
        self._orphans: frozenset[str] = frozenset()
        self._lots: dict[str, frozenset[str] | None] = {}

    async def suspects(self) -> list[str]:
        """Return the queues with a job that is not over, and of which nothing was heard for long."""
        async with self._database.begin() as connection:
            late = is_late(self._broker.now_ms(), self.margin_ms)
            return await queues_with(connection, await known_queues(connection), late)

    async def look(self, queues: Sequence[str]) -> Look:
        """Read the broker's numbers of these queues, of what is due later, and of the feed."""
        at_ms = self._broker.now_ms()
        named = [DELAYED, FEED, *queues, ORPHANS]
        return Look(at_ms=at_ms, stats=await self._broker.stats(named))

    async def again(self, queues: Sequence[str]) -> Look:
        """Read them again, after the time in which they are brought up to date."""
        await asyncio.sleep(self._gap_s)
        return await self.look(queues)

    async def wait_caught_up(self, since_ms: int) -> None:
        """Wait until the ledger knows all that had happened by an instant.

        Raises:
            LedgerBehind: it does not in time.
            Unavailable: an alarm has workers keep what they know to themselves.

        """
        if self._broker.blocked:
            raise Unavailable(
                "the broker takes no publishes now (alarm), and workers keep outcomes to "
                "themselves meanwhile: what is missing cannot be told; nothing was changed"
            )
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.patience_s
        while why := await self._behind(since_ms):
            if loop.time() >= until_s:
                raise LedgerBehind(
                    f"the ledger may not know yet what has run: {why}; nothing was changed; is a "
                    "coordinator running? Run the command again later"
                )
            await asyncio.sleep(_POLL_S)

    async def _behind(self, since_ms: int) -> str:
        async with self._database.begin() as connection:
            moved = await any_of(connection, jobs.c.changed_ms >= since_ms)
        return behind(await self.look(()), moved=moved)

    async def survey(self, queues: Sequence[str]) -> list[Drift]:
        """Return what is missing of each queue; waits for the second look and for the feed.

        Raises:
            LedgerBehind: the ledger does not catch up with the feed.
            Unavailable: broker or database do not answer, or there is an alarm.

        """
        if not queues:
            return []
        first, second = await self._looks(queues)
        await self.read_lots(queues, second)
        await self.wait_caught_up(first.at_ms)
        return await self.drifts(queues, first, second)

    async def _looks(self, queues: Sequence[str]) -> tuple[Look, Look]:
        """Look twice; once or twice more where the numbers of new queues are still to come."""
        first, second = await self.look(queues), await self.again(queues)
        for more in range(_MORE_LOOKS):
            if all(first.holds(queue) is not None for queue in queues):
                break
            if more and second.stats[FEED].unsettled is None:
                break  # nobody tells such numbers here
            first, second = second, await self.again(queues)
        return first, second

    async def drifts(
        self, queues: Sequence[str], first: Look, second: Look, *, quick: bool = False
    ) -> list[Drift]:
        """Return what two looks show of queues; `quick` does not count behind thousands of jobs."""
        async with self._database.begin() as connection:
            self._before = await recall(connection, queues)
            return [
                await self._drift(connection, judge(queue, first, second), quick=quick)
                for queue in queues
            ]

    async def read_lots(self, queues: Sequence[str], look: Look) -> None:
        """Read which jobs are parked, where there are fewer than the ledger knows, or orphans.

        Raises:
            ConfigurationError: there are too many orphans.

        """
        self._lots = {queue: await self._lot(queue, look) for queue in queues}
        self._orphans = await self._orphaned(look)

    async def _lot(self, queue: str, look: Look) -> frozenset[str] | None:
        """Return the jobs in a parking lot; None where there are as many as the ledger knows."""
        async with self._database.begin() as connection:
            known = await count(connection, is_parked(queue, look.at_ms, self.margin_ms))
        return None if look.stats[queue].parked >= known else await self._in_lot(queue)

    async def _orphaned(self, look: Look) -> frozenset[str]:
        """Return the jobs that are not missing, but put aside because their queue was.

        Raises:
            ConfigurationError: there are too many of them.

        """
        number = look.stats[ORPHANS].parked
        if number > EXACT:
            raise ConfigurationError(
                f"{number} jobs whose queue did not exist are parked in {ORPHANS}; release or discard "
                "them first (`taskyard parked list`); nothing was changed"
            )
        return await self._in_lot(ORPHANS) if number else frozenset()

    async def _in_lot(self, queue: str) -> frozenset[str]:
        try:
            async with aclosing(self._broker.parked(queue)) as lot:
                return frozenset([parked.envelope.id async for parked in lot])
        except UnknownQueue:
            return frozenset()

    async def _drift(
        self, connection: AsyncConnection, evidence: Evidence, *, quick: bool
    ) -> Drift:
        gone = self.gone(evidence)
        doubtful = and_(is_doubtful(evidence, self.margin_ms), not_(gone))
        least = many = 0
        if not (quick and (evidence.held is None or evidence.held > EXACT)):
            most = evidence.held + EXACT + 1 if quick and evidence.held is not None else None
            many = await count(connection, doubtful, most=most)
        if many and not evidence.empty and evidence.held is not None:
            sure = await count(connection, doubtful, is_certain(evidence))
            least = max(0, sure - evidence.held)
        return Drift(
            evidence=evidence,
            missing=await count(connection, gone),
            least=least,
            doubtful=many,
            parked=await self._count_unparked(connection, evidence),
        )

    def gone(self, evidence: Evidence) -> ColumnElement[bool]:
        """Return that a job is missing, by what is seen now or was seen before."""
        before = self._before.get(evidence.queue)
        every = [evidence] if before is None else [evidence, before]
        missing = or_(*(is_missing(seen, self.margin_ms) for seen in every))
        return and_(missing, jobs.c.id.not_in(self._orphans)) if self._orphans else missing

    async def lost_from_lot(self, evidence: Evidence) -> list[str]:
        """Return the ids of jobs that the ledger knows as parked, and their lot did not hold."""
        async with self._database.begin() as connection:
            return await self._unparked(connection, evidence)

    async def _count_unparked(self, connection: AsyncConnection, evidence: Evidence) -> int:
        queue = evidence.queue
        if queue in self._lots:
            return len(await self._unparked(connection, evidence))
        there = is_parked(queue, evidence.at_ms, self.margin_ms)
        return max(0, await count(connection, there) - evidence.parked)

    async def _unparked(self, connection: AsyncConnection, evidence: Evidence) -> list[str]:
        lot = self._lots.get(evidence.queue)
        if lot is None:
            return []  # there were enough
        there = is_parked(evidence.queue, evidence.at_ms, self.margin_ms)
        found = await connection.stream_scalars(select(jobs.c.id).where(there))
        return [
            job_id async for job_id in found if job_id not in lot and job_id not in self._orphans
        ]
