"""A toy adapter, to show how little one needs: lists in memory, and five rooms refused in words.

It is a broker for one event loop only: `ToyServer` plays the server, a `ToyBroker` one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from taskyard.shared.adapters.partial import Partial, refuse
from taskyard.shared.broker import (
    SUPPLIED,
    Capabilities,
    Delivery,
    ParkedJob,
    PublishStatus,
    QueueStats,
    Receipt,
    Selection,
    Settlement,
    SettleStatus,
    refused,
)
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.errors import UnknownQueue


@dataclass(eq=False)
class ToyServer:
    """What outlives every process: jobs and parking lots per queue, and whom to wake."""

    jobs: dict[str, list[Kept]] = field(default_factory=dict)
    lots: dict[str, list[Kept]] = field(default_factory=dict)
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        self.bell.set()
        self.bell = asyncio.Event()


@dataclass(eq=False)
class Kept:
    """One publish: where it is kept, who holds it, and how many holders died with it."""

    envelope: Envelope
    lane: list[Kept]
    holder: Holder | None = None
    failures: int = 0


@dataclass(eq=False)
class Holder:
    """A consumer, or an iteration over a parking lot."""

    server: ToyServer
    lane: list[Kept]
    credit: int = 0
    present: bool = True
    problem: str = ""

    async def take(self) -> list[Delivery]:
        while self.present:
            bell = self.server.bell
            free = max(self.credit - sum(kept.holder is self for kept in self.lane), 0)
            waiting = [kept for kept in self.lane if kept.holder is None]
            waiting.sort(key=lambda kept: -kept.envelope.priority)
            if waiting and free:
                return [self.claim(kept) for kept in waiting[:free]]
            await bell.wait()
        return []

    def claim(self, kept: Kept) -> Delivery:
        kept.holder, count = self, kept.failures
        return Delivery(envelope=kept.envelope, redelivered=count > 0, failures=count, token=kept)

    async def set_credit(self, credit: int) -> None:
        self.credit = credit
        self.server.ring()

    async def stop(self) -> list[Delivery]:
        self.present = False
        self.server.ring()
        return []

    def give_back(self) -> None:
        self.present = False
        for place, kept in enumerate(self.lane):
            if kept.holder is self:  # a new object in its place: the old one settles nothing
                self.lane[place] = Kept(kept.envelope, self.lane, failures=kept.failures + 1)


class ToyBroker(Partial):
    """One process's handle. What `Partial` inherits is refused with these reasons."""

    capabilities = Capabilities(
        priorities=SUPPLIED,
        delay=refused("a toy has no clock to wake it"),
        feed=refused("a toy keeps no history"),
        control=refused("a toy takes no orders"),
        lock=refused("a toy is alone in its box"),
        replies=refused("a toy does not answer"),
        lease=SUPPLIED,
    )

    def __init__(self, server: ToyServer) -> None:
        self.server, self.is_open = server, False
        self.holders: list[Holder] = []

    @property
    def connected(self) -> bool:
        return self.is_open

    async def open(self, *, deadline_s: float = 10.0) -> None:
        self.is_open = True

    async def close(self, *, abort: bool = False) -> None:
        self.is_open = False
        for holder in self.holders:
            holder.give_back()
        self.server.ring()

    crash = close

    async def queues(self) -> list[str]:
        return sorted(self.server.jobs)

    async def create_queue(self, name: str) -> None:
        self.server.jobs.setdefault(name, [])
        self.server.lots.setdefault(name, [])

    def _hold(self, lanes: Mapping[str, list[Kept]], queue: str, credit: int = 0) -> Holder:
        if queue not in lanes:
            raise UnknownQueue(f"no queue {queue!r} in the toy", queue=queue)
        self.holders.append(Holder(self.server, lanes[queue], credit))
        return self.holders[-1]

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        if any((job.not_before_ms or 0) > self.now_ms() for job in jobs):
            refuse("delayed jobs", self.capabilities.delay)
        receipts = [self._keep(job, self.server.jobs) for job in jobs]
        self.server.ring()
        return receipts

    def _keep(self, job: Envelope, lanes: Mapping[str, list[Kept]]) -> Receipt:
        if not self.is_open:
            return Receipt(PublishStatus.UNAVAILABLE)
        if job.queue not in lanes:
            return Receipt(PublishStatus.UNROUTABLE, detail=f"no queue {job.queue!r}")
        job = msgspec.structs.replace(job, message_id=mint_id())
        lanes[job.queue].append(Kept(job, lanes[job.queue]))
        return Receipt(PublishStatus.CONFIRMED, job.message_id)

    async def park(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        return [self._keep(job, self.server.lots) for job in jobs]

    async def consume(self, queue: str, *, credit: int, ttr_s: float = 0.0) -> Holder:
        return self._hold(self.server.jobs, queue, credit)

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        statuses = [self._settle(settlement) for settlement in batch]
        self.server.ring()
        return statuses

    def _settle(self, settlement: Settlement) -> SettleStatus:
        kept = settlement.delivery.token
        if not isinstance(kept, Kept) or kept not in kept.lane:
            return SettleStatus.LOST
        if any(copy.queue not in self.server.jobs for copy in settlement.copies):
            return SettleStatus.UNDONE
        for copy in settlement.copies:
            self._keep(copy, self.server.jobs)
        if settlement.park is not None:
            self._keep(settlement.park, self.server.lots)
        kept.lane.remove(kept)
        return SettleStatus.SETTLED

    async def parked(self, queue: str) -> AsyncGenerator[ParkedJob, None]:
        for position, kept in enumerate(list(self._hold(self.server.lots, queue).lane)):
            yield ParkedJob(envelope=kept.envelope, position=position)

    async def take_parked(
        self, queue: str, select: Selection
    ) -> AsyncGenerator[list[Delivery], None]:
        holder = self._hold(self.server.lots, queue)
        free = [kept for kept in holder.lane if kept.holder is None]
        meant = [kept for kept in free if select.matches(kept.envelope)]
        meant = meant[: select.limit]
        try:
            for start in range(0, len(meant), select.batch):
                batch = meant[start : start + select.batch]
                yield [holder.claim(kept) for kept in batch if kept.holder is None]
        finally:
            holder.give_back()

    async def stats(self, queues: Collection[str]) -> Mapping[str, QueueStats]:
        return {name: self._stats(name) for name in queues}

    def _stats(self, name: str) -> QueueStats:
        if name not in self.server.jobs:
            return QueueStats(exists=False)
        due = [kept.envelope.due_ms for kept in self.server.jobs[name] if kept.holder is None]
        parked = len(self.server.lots[name])
        return QueueStats(ready=len(due), parked=parked, oldest_ms=min(due, default=None))
