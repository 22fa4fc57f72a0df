"""The `Broker` port on a memory broker, room by room."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.memory.flow import (
    MemoryConsumer,
    MemoryFeedConsumer,
    MemoryInbox,
    MemoryLease,
)
from taskyard.shared.adapters.memory.handle import Handle
from taskyard.shared.adapters.memory.lane import Handover
from taskyard.shared.adapters.memory.mailbox import Signal
from taskyard.shared.adapters.memory.settling import Settler, handover_of
from taskyard.shared.adapters.memory.state import CONTROL, FEED, MemoryState
from taskyard.shared.broker import (
    FEED as FEED_NUMBERS,
    SUPPLIED,
    Capabilities,
    ControlBatch,
    Held,
    ParkedJob,
    PublishStatus,
    QueueStats,
    Receipt,
)
from taskyard.shared.control import DRAIN_KEY, ControlUnavailable
from taskyard.shared.envelope import mint_id
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.intents import in_force
from taskyard.shared.recording import LeftOut
from taskyard.shared.topology import Create, Differs, Remove, Topology, WorkQueue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence

    from taskyard.shared.broker import (
        Delivery,
        Owner,
        Selection,
        Settlement,
        SettleStatus,
        SetupSpec,
    )
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.topology import Action, Entity

_CAPABILITIES: Final = Capabilities(
    priorities=SUPPLIED,
    delay=SUPPLIED,
    feed=SUPPLIED,
    control=SUPPLIED,
    lock=SUPPLIED,
    lease=SUPPLIED,
)

#: Records per batch of the control log.
_CONTROL_BATCH: Final = 1000

#: Jobs that a publish stores before it lets the loop turn.
_PUBLISH_STRIDE: Final = 256


class MemoryBroker(Handle):
    """The `Broker` port over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        """Belong to a state, not yet open."""
        super().__init__(state)
        self._settler = Settler(state, lambda: self._session, self._step)

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    # ------------------------------------------------------------ set-up

    def desired(self, spec: SetupSpec, observed: Topology) -> Topology:
        wanted: set[Entity] = {CONTROL, *(WorkQueue(queue.name) for queue in spec.queues)}
        if spec.ledger or FEED in observed.entities:
            wanted.add(FEED)
        names = {entity.name for entity in (*wanted, *observed) if isinstance(entity, WorkQueue)}
        wanted |= {LeftOut(name) for name in spec.left_out & names}
        told = {queue.name for queue in spec.queues} - spec.left_out
        return Topology.of(wanted, unwanted=map(LeftOut, told))

    async def observe(self, spec: SetupSpec) -> Topology:
        return Topology.of(self.state.entities())

    async def apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Create(entity=entity):
                    self.state.create(entity)
                case Remove(entity=entity):
                    self.state.remove(entity)
                case Differs(entity=entity):
                    msg = f"{' '.join(entity.key)} cannot differ in a memory broker"
                    raise ConfigurationError(msg)

    # ------------------------------------------------------------ jobs

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        if not self._open:
            return [Receipt(PublishStatus.UNAVAILABLE, detail="the broker is closed")] * len(jobs)
        if not await self.state.wait_unblocked(deadline_s):
            detail = f"blocked for {deadline_s:g} s: {self.state.blocked_reason}"
            return [Receipt(PublishStatus.TIMEOUT, detail=detail)] * len(jobs)
        receipts: list[Receipt] = []
        self._step("publish:begin")
        for number, job in enumerate(jobs, 1):
            with self.state.lock:
                receipts.append(self.state.store(job))
            self._step("publish:stored")
            if not number % _PUBLISH_STRIDE:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return receipts

    async def park(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        if not self._open:
            return [Receipt(PublishStatus.UNAVAILABLE, detail="the broker is closed")] * len(jobs)
        if not await self.state.wait_unblocked(deadline_s):
            detail = f"blocked for {deadline_s:g} s: {self.state.blocked_reason}"
            return [Receipt(PublishStatus.TIMEOUT, detail=detail)] * len(jobs)
        with self.state.lock:
            return [self.state.set_aside(job) for job in jobs]

    async def consume(self, queue: str, *, credit: int, ttr_s: float = 0.0) -> MemoryConsumer:
        self._check_open()
        with self.state.lock:
            lane = self._lane(queue)
            flow = MemoryConsumer(self.state, self._session, lane, credit)
            self.state.attach(flow, lane)
        return flow

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        return await self._settler.settle(batch, deadline_s=deadline_s)

    async def record(self, records: Sequence[FeedRecord], *, deadline_s: float) -> bool:
        if self.state.feed is None or not self._open:
            return False
        if not await self.state.wait_unblocked(deadline_s):
            return False
        with self.state.lock:
            self.state.feed.write(records=records)
        self._step("record:written")
        return True

    async def extend(self, delivery: Delivery, until_ms: int) -> bool:
        return handover_of(delivery).live

    # ------------------------------------------------------------ parking lots

    async def parked(self, queue: str) -> AsyncGenerator[ParkedJob, None]:
        with self.state.lock:
            found = list(self._lane(queue).parked.values())
        for stored in found:
            yield ParkedJob(envelope=stored.envelope, position=stored.seq)

    async def take_parked(
        self, queue: str, select: Selection
    ) -> AsyncGenerator[Sequence[Delivery], None]:
        with self.state.lock:
            lane = self._lane(queue)
            meant = [stored for stored in lane.parked.values() if select.matches(stored.envelope)]
        taken: list[Handover] = []
        batch: list[Delivery] = []
        try:
            for stored in meant:
                if select.limit is not None and len(taken) >= select.limit:
                    break
                with self.state.lock:
                    if stored.taken or stored.seq not in lane.parked:
                        continue  # another operator was quicker
                    stored.taken = True
                    handover = Handover(self._session, lane, stored)
                    self._session.handovers.add(handover)
                taken.append(handover)
                batch.append(handover.delivery())
                if len(batch) == select.batch:
                    yield batch
                    batch = []
            if batch:
                yield batch
        finally:
            with self.state.lock:
                for handover in taken:
                    self.state.give_back(handover)

    # ------------------------------------------------------------ control log

    async def append_control(
        self, records: Sequence[ControlRecord], *, deadline_s: float = 10.0
    ) -> None:
        if not await self.state.wait_unblocked(deadline_s):
            msg = f"control log: blocked for {deadline_s:g} s ({self.state.blocked_reason})"
            raise ControlUnavailable(msg)
        with self.state.lock:
            self._control_log().extend(records)
            for follower in self.state.followers:
                follower.set()

    async def draining(self, *, deadline_s: float = 5.0) -> ControlRecord | None:
        self._check_open()
        with self.state.lock:
            log = self.state.control or ()
            last = next((record for record in reversed(log) if record.key == DRAIN_KEY), None)
        return in_force(last, self.now_ms())

    async def follow_control(self, after: int | None = None) -> AsyncIterator[ControlBatch]:
        position = after or 0
        goal = len(self._control_log())
        signal = Signal()
        self.state.followers.add(signal)
        self._followers.add(signal)
        try:
            first = True
            while self._open:
                with self.state.lock:
                    records = self._control_log()[position : position + _CONTROL_BATCH]
                position += len(records)
                if records or first:
                    yield ControlBatch(
                        records=tuple(records), position=position, caught_up=position >= goal
                    )
                    first = False
                else:
                    await signal.wait()
        finally:
            self.state.followers.discard(signal)
            self._followers.discard(signal)

    def _control_log(self) -> list[ControlRecord]:
        self._check_open()
        if self.state.control is None:
            msg = "this memory broker has no control log yet: run `taskyard broker apply`"
            raise ControlUnavailable(msg)
        return self.state.control

    # ------------------------------------------------------------ feed, locks, replies, numbers

    async def feed(self, *, credit: int) -> MemoryFeedConsumer:
        self._check_open()
        log = self.state.feed
        if log is None:
            msg = "this memory broker has no feed: run `taskyard broker apply --ledger`"
            raise ConfigurationError(msg)
        flow = MemoryFeedConsumer(self.state, log, credit)
        with self.state.lock:
            self._session.feeds.append(flow)
            flow.attach()
        return flow

    async def lock(self, name: str, owner: Owner) -> MemoryLease | Held:
        self._check_open()
        with self.state.lock:
            holder = self.state.locks.get(name)
            if holder is not None:
                return Held(owner=holder.owner)
            lease = MemoryLease(self.state, name, owner)
            self.state.locks[name] = lease
            self._session.leases.append(lease)
        return lease

    async def locks(self) -> Mapping[str, Held]:
        self._check_open()
        with self.state.lock:
            held = sorted(self.state.locks.items())
        return {name: Held(owner=lease.owner) for name, lease in held}

    async def inbox(self) -> MemoryInbox:
        self._check_open()
        inbox = MemoryInbox(self.state, f"memory-{mint_id()}")
        with self.state.lock:
            self._register(inbox)
        return inbox

    async def queues(self) -> Sequence[str]:
        with self.state.lock:
            return sorted(self.state.lanes)

    async def stats(self, queues: Collection[str]) -> Mapping[str, QueueStats]:
        return {name: self._stats(name) for name in queues}

    def _stats(self, name: str) -> QueueStats:
        with self.state.lock:
            feed = self.state.feed
            if name == FEED_NUMBERS and feed is not None:
                return QueueStats(ready=sum(1 for _ in feed), unsettled=feed.held, type="memory")
            lane = self.state.lanes.get(name)
            if lane is None:
                return QueueStats(exists=False)
            self.state.release_due(lane)
            return QueueStats(
                ready=len(lane.ready),
                unsettled=lane.unsettled,
                scheduled=len(lane.later),
                parked=len(lane.parked),
                consumers=len(lane.flows),
                oldest_ms=lane.oldest_ms(),
                type="memory",
            )
