"""What a handle opens on the shared state: consumers of jobs and of the feed, inboxes, locks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskyard.shared.adapters.memory.lane import Handover, Lane, Stored
from taskyard.shared.adapters.memory.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.memory.feed_log import FeedLog
    from taskyard.shared.adapters.memory.session import Session
    from taskyard.shared.adapters.memory.state import MemoryState
    from taskyard.shared.broker import Delivery, Owner
    from taskyard.shared.feed import FeedItem


class MemoryConsumer:
    """A flow of deliveries from one lane; pushed, as a server pushes to its consumers."""

    def __init__(self, state: MemoryState, session: Session, lane: Lane, credit: int) -> None:
        """Belong to a session; the state attaches it."""
        self._state = state
        self._lane = lane
        self._credit = credit
        self._held = 0
        self._arrived: Mailbox[Delivery] = Mailbox()
        self.session = session

    @property
    def present(self) -> bool:
        """Whether the lane serves it."""
        return self in self._lane.flows

    @property
    def problem(self) -> str:
        """Nothing that it could tell keeps it away."""
        return ""

    @property
    def has_credit(self) -> bool:
        """Whether it may be handed one more."""
        return self._held < self._credit

    def hand_over(self, stored: Stored) -> None:
        """Give it a job; called with the state's lock held."""
        handover = Handover(self.session, self._lane, stored, self)
        self.session.handovers.add(handover)
        self._lane.unsettled += 1
        self._held += 1
        self._arrived.put(handover.delivery())

    def let_go(self) -> None:
        """One of its deliveries is settled or gone: its credit is free again."""
        self._held -= 1

    def restart(self, session: Session) -> None:
        """Go on in a new session; what had arrived in the old one went back."""
        self._arrived.drain()
        self.session = session
        self._held = 0

    def end(self) -> None:
        """Let takes return empty for good."""
        self._arrived.close()

    def look_again(self) -> None:
        """Wake a waiting take, since the next due time may have changed."""
        self._arrived.wake()

    async def take(self) -> Sequence[Delivery]:
        while True:
            batch = self._arrived.drain()
            if batch or self._arrived.closed:
                return batch
            await self._arrived.wait(self._state.next_due_in_s(self._lane))
            self._state.release_due(self._lane)

    async def set_credit(self, credit: int) -> None:
        with self._state.lock:
            self._credit = credit
            self._lane.pump()

    async def stop(self) -> Sequence[Delivery]:
        with self._state.lock:
            self._state.detach(self)
            untaken = self._arrived.drain()
            self._arrived.close()
        return untaken


class MemoryFeedConsumer:
    """A flow of feed items; what is not acknowledged goes back to its place."""

    def __init__(self, state: MemoryState, log: FeedLog, credit: int) -> None:
        """Start with nothing held, not yet attached to the log."""
        self._state = state
        self._log = log
        self._credit = credit
        self._arrived: Mailbox[FeedItem] = Mailbox()
        self.held: dict[int, FeedItem] = {}

    @property
    def present(self) -> bool:
        """Whether it goes on, over reconnects."""
        return not self._arrived.closed

    @property
    def has_credit(self) -> bool:
        """Whether it may be handed one more."""
        return len(self.held) < self._credit

    def hand_over(self, seq: int, item: FeedItem) -> None:
        """Give it an item; called with the state's lock held."""
        self.held[seq] = item
        self._arrived.put(item)

    def attach(self) -> None:
        """Be served from now on."""
        with self._state.lock:
            self._log.attach(self)

    def detach(self) -> None:
        """Give back what it holds and be served no more."""
        with self._state.lock:
            self._log.detach(self)
            self._arrived.drain()
            self.held.clear()

    def end(self) -> None:
        """Let takes return empty for good."""
        self._arrived.close()

    async def take(self) -> Sequence[FeedItem]:
        return await self._arrived.take()

    async def ack(self, items: Sequence[FeedItem]) -> None:
        with self._state.lock:
            for item in items:
                if isinstance(item.token, int):
                    self.held.pop(item.token, None)
            self._log.pump()

    async def stop(self) -> None:
        self.detach()
        self.end()


class MemoryInbox:
    """An address for replies."""

    def __init__(self, state: MemoryState, address: str) -> None:
        """Belong to the running loop; the state registers it."""
        self._state = state
        self._address = address
        self.mail: Mailbox[bytes] = Mailbox()

    @property
    def address(self) -> str:
        """What goes into `Envelope.reply`."""
        return self._address

    @property
    def present(self) -> bool:
        """Whether a reply that is sent now would get here."""
        return self._state.inboxes.get(self._address) is self

    async def take(self) -> Sequence[bytes]:
        return await self.mail.take()

    async def close(self) -> None:
        with self._state.lock:
            self._state.inboxes.pop(self._address, None)
        self.mail.close()


class MemoryLease:
    """A lock that lives as long as its session."""

    def __init__(self, state: MemoryState, name: str, owner: Owner) -> None:
        """Belong to the running loop; the state registers it."""
        self._state = state
        self._name = name
        self._lost: Mailbox[None] = Mailbox()
        self.owner = owner

    def lose(self) -> None:
        """Give it up and tell whoever waits."""
        with self._state.lock:
            if self._state.locks.get(self._name) is self:
                del self._state.locks[self._name]
        self._lost.close()

    async def wait_lost(self) -> None:
        await self._lost.take()

    async def confirm(self) -> bool:
        await asyncio.sleep(0)
        with self._state.lock:
            return self._state.locks.get(self._name) is self

    async def release(self) -> None:
        self.lose()
        await asyncio.sleep(0)
