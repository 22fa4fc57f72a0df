"""What handles of one memory broker share, as processes share a server."""

from __future__ import annotations

import asyncio
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.adapters.memory.feed_log import FeedLog
from taskyard.shared.adapters.memory.lane import Handover, Lane, MemoryRoom, Stored
from taskyard.shared.adapters.memory.mailbox import Signal
from taskyard.shared.broker import Blocked, PublishStatus, Receipt, Unblocked
from taskyard.shared.clock import Clock, SystemClock, VirtualClock
from taskyard.shared.control import genesis
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.recording import LeftOut
from taskyard.shared.topology import Entity, WorkQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.adapters.memory.flow import (
        MemoryConsumer,
        MemoryInbox,
        MemoryLease,
    )
    from taskyard.shared.adapters.memory.handle import Handle
    from taskyard.shared.adapters.memory.session import Session
    from taskyard.shared.broker import BrokerEvent
    from taskyard.shared.control import ControlRecord

FEED: Final = MemoryRoom("feed")
CONTROL: Final = MemoryRoom("control")

#: Timers of an event loop are not made for months.
_LONGEST_WAIT_S: Final = 3600.0


class SimulatedCrash(Exception):
    """What a fault hook raises to end a handle's process at that step."""


class MemoryState:
    """The jobs, the feed, the control log and the locks of one memory broker.

    Methods expect `lock` to be held where they say so; handles may live on several loops and
    threads.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        """Start empty: queues come by `apply`.

        Args:
            clock: what due times are compared with; a `VirtualClock` stands still until
                `advance` turns it.

        """
        self.lock = RLock()
        self.clock: Clock = clock or SystemClock()
        self.lanes: dict[str, Lane] = {}
        self.orphaned: list[Envelope] = []
        self.control: list[ControlRecord] | None = None
        self.followers: set[Signal] = set()
        self.locks: dict[str, MemoryLease] = {}
        self.inboxes: dict[str, MemoryInbox] = {}
        self.handles: set[Handle] = set()
        self.blocked_reason: str | None = None
        self.feed: FeedLog | None = None
        self.left_out: set[str] = set()
        #: Called with a step's name between any two steps of publish and settle; raising there
        #: ends the process of the handle that was at it.
        self.fault: Callable[[str], None] | None = None
        self._waiting_unblocked: set[Signal] = set()
        self._seq = count(1)

    # ------------------------------------------------------------ what tests turn

    def advance(self, ms: int) -> None:
        """Turn a virtual clock forward by `ms` and hand over what became due.

        Raises:
            ConfigurationError: the clock is the machine's own.

        """
        if not isinstance(self.clock, VirtualClock):
            msg = "this memory broker runs on the machine's clock: give it a VirtualClock"
            raise ConfigurationError(msg)
        with self.lock:
            self.clock.advance(ms=ms)
            for lane in self.lanes.values():
                if lane.release_due(self.clock.now_ms()):
                    lane.pump()

    def block(self, reason: str = "low on memory") -> None:
        """Take no publishes until `unblock`, as a broker under an alarm."""
        with self.lock:
            self.blocked_reason = reason
            self._tell(Blocked(reason))

    def unblock(self) -> None:
        """Take publishes again."""
        with self.lock:
            self.blocked_reason = None
            self._tell(Unblocked())
            for signal in self._waiting_unblocked:
                signal.set()

    @property
    def blocked(self) -> bool:
        """Whether publishes have to wait."""
        return self.blocked_reason is not None

    def _tell(self, event: BrokerEvent) -> None:
        for handle in self.handles:
            handle.notify(event)

    async def wait_unblocked(self, deadline_s: float) -> bool:
        """Wait until publishes are taken, at most `deadline_s` seconds; returns whether they are."""
        if not self.blocked:
            return True
        signal = Signal()
        with self.lock:
            self._waiting_unblocked.add(signal)
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        try:
            while self.blocked and await signal.wait(max(until - loop.time(), 0)):
                pass  # woken, and perhaps blocked again meanwhile
        finally:
            with self.lock:
                self._waiting_unblocked.discard(signal)
        return not self.blocked

    # ------------------------------------------------------------ set-up

    @property
    def recording(self) -> bool:
        """Whether the feed exists."""
        return self.feed is not None

    def entities(self) -> list[Entity]:
        """Return what exists."""
        with self.lock:
            found: list[Entity] = [WorkQueue(name) for name in self.lanes]
            if self.recording:
                found.append(FEED)
            if self.control is not None:
                found.append(CONTROL)
            found += map(LeftOut, self.left_out)
            return found

    def create(self, entity: Entity) -> None:
        """Make something exist; harmless when it does."""
        with self.lock:
            if isinstance(entity, WorkQueue):
                self.lanes.setdefault(entity.name, Lane(entity.name))
            elif isinstance(entity, LeftOut):
                self.left_out.add(entity.queue)
            elif entity == FEED:
                self.feed = self.feed or FeedLog()
            elif entity == CONTROL:
                self.control = self.control or [genesis(self.clock.now_ms())]
            else:
                msg = f"the memory broker has no {entity.key[0]} ({' '.join(entity.key[1:])})"
                raise ConfigurationError(msg)

    def remove(self, entity: Entity) -> None:
        """Make a queue go (ConfigurationError when it holds jobs, or for anything else)."""
        with self.lock:
            if isinstance(entity, LeftOut):
                self.left_out.discard(entity.queue)
                return
            if not isinstance(entity, WorkQueue):
                msg = f"{' '.join(entity.key)} is not removed from a memory broker"
                raise ConfigurationError(msg)
            lane = self.lanes.get(entity.name)
            if lane is None:
                return
            left = len(lane.ready) + len(lane.later) + len(lane.parked) + lane.unsettled
            if left:
                msg = f"queue {entity.name!r} holds {left} jobs and is not removed"
                raise ConfigurationError(msg)
            del self.lanes[entity.name]

    # ------------------------------------------------------------ jobs (lock held)

    def store(self, job: Envelope) -> Receipt:
        """Keep a job and record it in the feed, or say that no queue takes it."""
        lane = self.lanes.get(job.queue)
        if lane is None:
            return self._unroutable(job)
        job = msgspec.structs.replace(job, message_id=mint_id())
        stored = Stored(job, next(self._seq))
        if job.not_before_ms is not None and job.not_before_ms > self.clock.now_ms():
            lane.put_later(stored, job.not_before_ms)
            for flow in lane.flows:
                flow.look_again()
        else:
            lane.put_ready(stored)
            lane.pump()
        if self.feed is not None and job.queue not in self.left_out:
            self.feed.write(envelope=job)
        return Receipt(PublishStatus.CONFIRMED, job.message_id)

    def set_aside(self, job: Envelope) -> Receipt:
        """Put a job into its queue's parking lot, or say that there is none."""
        if job.queue not in self.lanes:
            return self._unroutable(job)
        return Receipt(PublishStatus.CONFIRMED, self.park(job))

    def _unroutable(self, job: Envelope) -> Receipt:
        return Receipt(
            PublishStatus.UNROUTABLE,
            detail=f"no queue {job.queue!r} in this memory broker "
            f"(it has: {', '.join(sorted(self.lanes)) or 'none'})",
        )

    def park(self, job: Envelope) -> str:
        """Put a job into its queue's parking lot, or among the orphans; return its message id."""
        job = msgspec.structs.replace(job, message_id=mint_id())
        lane = self.lanes.get(job.queue)
        if lane is None:
            self.orphaned.append(job)
        else:
            stored = Stored(job, next(self._seq))
            lane.parked[stored.seq] = stored
        return job.message_id

    def finish(self, handover: Handover) -> None:
        """Forget a delivery that is settled."""
        self._release(handover)
        if handover.flow is None:
            del handover.lane.parked[handover.stored.seq]

    def give_back(self, handover: Handover) -> None:
        """Put a delivery back to its place, because its holder is gone."""
        if not handover.live:
            return
        self._release(handover)
        stored = handover.stored
        if handover.flow is None:
            stored.taken = False
        else:
            stored.failures += 1
            handover.lane.put_ready(stored)

    def _release(self, handover: Handover) -> None:
        handover.live = False
        handover.session.handovers.discard(handover)
        if handover.flow is not None:
            handover.lane.unsettled -= 1
            if handover.flow.session is handover.session:
                handover.flow.let_go()

    def attach(self, flow: MemoryConsumer, lane: Lane) -> None:
        """Let a lane serve a consumer."""
        flow.session.flows.append(flow)
        lane.flows.append(flow)
        lane.release_due(self.clock.now_ms())
        lane.pump()

    def detach(self, flow: MemoryConsumer) -> None:
        """Serve a consumer no more; what it holds stays its own."""
        if flow in flow.session.flows:
            flow.session.flows.remove(flow)
        for lane in self.lanes.values():
            if flow in lane.flows:
                lane.flows.remove(flow)

    def next_due_in_s(self, lane: Lane) -> float | None:
        """Return how long a consumer may sleep; None where nothing, or only a test, ends it."""
        due_ms = lane.next_due_ms()
        if due_ms is None or isinstance(self.clock, VirtualClock):
            return None
        return min(max(due_ms - self.clock.now_ms(), 0) / 1000, _LONGEST_WAIT_S)

    def release_due(self, lane: Lane) -> None:
        """Hand over what became due in a lane."""
        with self.lock:
            if lane.release_due(self.clock.now_ms()):
                lane.pump()

    def end(self, session: Session) -> None:
        """Give back everything that a session held; its consumers stay attached to nothing."""
        with self.lock:
            lanes = {handover.lane.name: handover.lane for handover in session.handovers}
            for flow in list(session.flows):
                self.detach(flow)
            for handover in list(session.handovers):
                self.give_back(handover)
            for reader in session.feeds:
                reader.detach()
            for lease in session.leases:
                lease.lose()
            for inbox in session.inboxes:
                self.inboxes.pop(inbox.address, None)
            for lane in lanes.values():
                lane.pump()
