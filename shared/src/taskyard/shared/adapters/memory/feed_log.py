"""The lifecycle feed of a memory broker: items in order, handed to readers by credit."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from taskyard.shared.feed import FeedItem, FeedRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskyard.shared.adapters.memory.flow import MemoryFeedConsumer
    from taskyard.shared.envelope import Envelope

#: Items that the feed keeps before it drops (and counts) the oldest.
LIMIT: Final = 200_000


class FeedLog:
    """What the feed holds and who reads it. Methods expect the state's lock to be held."""

    def __init__(self) -> None:
        """Start empty."""
        self.dropped = 0
        self._items: list[tuple[int, FeedItem]] = []
        self._flows: list[MemoryFeedConsumer] = []
        self._seq = 0

    def __iter__(self) -> Iterator[FeedItem]:
        """Yield what nobody holds, in order."""
        return (item for _, item in sorted(self._items, key=lambda entry: entry[0]))

    @property
    def held(self) -> int:
        """How many items are in readers' hands."""
        return sum(len(flow.held) for flow in self._flows)

    def write(
        self, *, envelope: Envelope | None = None, records: Sequence[FeedRecord] = ()
    ) -> None:
        """Add one item."""
        self._seq += 1
        item = FeedItem(envelope=envelope, records=tuple(records), token=self._seq)
        heappush(self._items, (self._seq, item))
        self.pump()
        if len(self._items) > LIMIT:
            heappop(self._items)
            self.dropped += 1

    def attach(self, flow: MemoryFeedConsumer) -> None:
        """Serve a reader."""
        self._flows.append(flow)
        self.pump()

    def detach(self, flow: MemoryFeedConsumer) -> None:
        """Serve it no more and put what it holds back to its place."""
        if flow not in self._flows:
            return
        self._flows.remove(flow)
        for entry in flow.held.items():
            heappush(self._items, entry)
        self.pump()

    def pump(self) -> None:
        """Hand items to the readers that have credit, in turns."""
        while self._items:
            flow = next((flow for flow in self._flows if flow.has_credit), None)
            if flow is None:
                return
            self._flows.remove(flow)
            self._flows.append(flow)
            flow.hand_over(*heappop(self._items))
