"""One handle's connection to a memory broker: what one process would hold of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.adapters.memory.mailbox import Mailbox, Signal
from taskyard.shared.adapters.memory.session import Session
from taskyard.shared.broker import Blocked, Connected, Lost
from taskyard.shared.errors import Unavailable, UnknownQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskyard.shared.adapters.memory.flow import MemoryConsumer, MemoryInbox
    from taskyard.shared.adapters.memory.lane import Lane
    from taskyard.shared.adapters.memory.state import MemoryState
    from taskyard.shared.broker import BrokerEvent


class Handle:
    """A connection to a `MemoryState`: it opens, closes, dies, and is cut and mended."""

    def __init__(self, state: MemoryState) -> None:
        """Belong to a state, not yet open."""
        self.state = state
        self._session = Session()
        self._open = False
        self._listeners: set[Mailbox[BrokerEvent]] = set()
        self._followers: set[Signal] = set()

    # ------------------------------------------------------------ connection

    @property
    def recording(self) -> bool:
        return self.state.recording

    @property
    def connected(self) -> bool:
        return self._open

    @property
    def blocked(self) -> bool:
        return self.state.blocked

    def now_ms(self) -> int:
        return self.state.clock.now_ms()

    async def open(self, *, deadline_s: float = 10.0) -> None:
        self._open = True
        with self.state.lock:
            self.state.handles.add(self)

    async def close(self, *, abort: bool = False) -> None:
        self._end()

    async def crash(self) -> None:
        """Die as a killed process: all that was held goes back, charged, and nothing is said."""
        self._end()

    def sever(self, reason: str = "connection reset") -> None:
        """Lose the connection and get it back at once: deliveries are lost, consumers go on."""
        with self.state.lock:
            old, self._session = self._session, Session()
            flows = list(old.flows)
            feeds = [feed for feed in old.feeds if feed.present]
            inboxes = [inbox for inbox in old.inboxes if not inbox.mail.closed]
            lanes = [self._lane_of(flow) for flow in flows]
            self.state.end(old)
            for flow, lane in zip(flows, lanes, strict=True):
                flow.restart(self._session)
                self.state.attach(flow, lane)
            for feed in feeds:
                self._session.feeds.append(feed)
                feed.attach()
            for inbox in inboxes:
                self._register(inbox)
        self.notify(Lost(reason))
        self.notify(Connected())

    def _lane_of(self, flow: MemoryConsumer) -> Lane:
        return next(lane for lane in self.state.lanes.values() if flow in lane.flows)

    def _end(self) -> None:
        self._open = False
        with self.state.lock:
            self.state.handles.discard(self)
            session, self._session = self._session, Session()
            flows, feeds, inboxes = list(session.flows), list(session.feeds), session.inboxes
            self.state.end(session)
        for flow in flows:
            flow.end()
        for feed in feeds:
            feed.end()
        for inbox in inboxes:
            inbox.mail.close()
        for listener in self._listeners:
            listener.close()
        for follower in self._followers:
            follower.set()

    def notify(self, event: BrokerEvent) -> None:
        """Tell whoever listens to this handle's events."""
        for listener in self._listeners:
            listener.put(event)

    async def events(self) -> AsyncIterator[BrokerEvent]:
        listener: Mailbox[BrokerEvent] = Mailbox()
        listener.put(Connected() if self._open else Lost("not open"))
        if self.state.blocked_reason is not None:
            listener.put(Blocked(self.state.blocked_reason))
        self._listeners.add(listener)
        try:
            while batch := await listener.take():
                for event in batch:
                    yield event
        finally:
            self._listeners.discard(listener)

    def _register(self, inbox: MemoryInbox) -> None:
        self.state.inboxes[inbox.address] = inbox
        self._session.inboxes.append(inbox)

    def _lane(self, queue: str) -> Lane:
        lane = self.state.lanes.get(queue)
        if lane is None:
            known = ", ".join(sorted(self.state.lanes)) or "none"
            msg = f"no queue {queue!r} in this memory broker (it has: {known})"
            raise UnknownQueue(msg, queue=queue)
        return lane

    def _check_open(self) -> None:
        if not self._open:
            msg = "this memory broker is closed"
            raise Unavailable(msg)

    def _step(self, name: str) -> None:
        fault = self.state.fault
        if fault is None:
            return
        try:
            fault(name)
        except BaseException:
            self._end()
            raise
