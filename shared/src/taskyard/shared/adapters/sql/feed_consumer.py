"""A flow of the lifecycle feed: what is taken belongs to this handle until it is acknowledged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.rows import decode
from taskyard.shared.adapters.sql.session import Named, Packed, json_list
from taskyard.shared.adapters.sql.watch import FEED
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import Unavailable
from taskyard.shared.feed import FeedItem, decode_feed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.session import Session

#: How long to wait for the database before looking again, in seconds; and most items of one take.
_AGAIN_S = 0.25
_PAGE = 500


class SqlFeedConsumer:
    """See `FeedConsumer`."""

    def __init__(
        self,
        engine: Engine,
        owner: int,
        credit: int,
        *,
        gone: Callable[[SqlFeedConsumer], None],
    ) -> None:
        """Belong to a handle.

        Args:
            engine: of the handle.
            owner: the handle's id.
            credit: most items taken and not acknowledged.
            gone: told when the flow has ended.

        """
        self._engine = engine
        self._owner = owner
        self._credit = credit
        self._gone = gone
        self._held: set[int] = set()
        self._buffer: list[FeedItem] = []
        self._is_stopped = False
        self._something = asyncio.Event()
        self._something.set()
        engine.watch.add(FEED, self._something.set)

    async def take(self) -> Sequence[FeedItem]:
        while not self._buffer:
            if self._is_stopped:
                return []
            await self._something.wait()
            self._something.clear()
            room = min(self._credit - len(self._held), _PAGE)
            if room > 0 and not self._is_stopped:
                await self._fetch(room)
        taken, self._buffer = self._buffer, []
        return taken

    async def ack(self, items: Sequence[FeedItem]) -> None:
        seqs = [item.token for item in items if isinstance(item.token, int)]
        await self._engine.write(lambda s: self._delete(s, seqs), weight=len(seqs))
        self._held.difference_update(seqs)
        self._something.set()

    async def stop(self) -> None:
        if self._is_stopped:
            return
        self.end()
        self._gone(self)
        held = json_list(self._held)
        await self._engine.write(lambda s: _put_back(s, {"owner": self._owner, "seqs": held}))

    def end(self) -> None:
        """Let takes return empty for good."""
        self._is_stopped = True
        self._engine.watch.discard(FEED, self._something.set)
        self._something.set()

    async def _fetch(self, room: int) -> None:
        try:
            await self._engine.write(
                lambda s: self._claim(s, room), probe=_probe, done=self._arrive
            )
        except (StoreError, Unavailable):
            self._something.set()
            await asyncio.sleep(_AGAIN_S)

    def _arrive(self, found: Packed | None) -> None:
        """Keep what was claimed, also when the take that asked for it was cancelled."""
        if found:
            self._held.update(found.numbers[0])
            rows = zip(found.numbers[0], *found.blobs, strict=True)
            self._buffer += [_item(seq, blob, body) for seq, blob, body in rows]
            self._something.set()

    def _claim(self, session: Session, room: int) -> Packed | None:
        found = session.packed(
            queries.FEED_FREE_ROWS, {"limit": room}, numbers=("seq",), blobs=("envelope", "body")
        )
        parameters: Named = {"owner": self._owner, "seqs": json_list(found.numbers[0])}
        session.run(queries.FEED_TAKE, parameters)
        return found

    def _delete(self, session: Session, seqs: Sequence[int]) -> None:
        parameters: Named = {"owner": self._owner, "seqs": json_list(seqs)}
        (size,) = session.one(queries.FEED_SIZE, parameters)
        session.run(queries.FEED_DELETE, parameters)
        session.run(queries.FEED_GROW, (-cast("int", size),))


def _probe(session: Session) -> Packed | None:
    if session.one(queries.FEED_ANY_FREE) == (1,):
        return None
    return Packed([[]], [[], []])


def _put_back(session: Session, parameters: Named) -> None:
    if session.run(queries.FEED_PUT_BACK, parameters):
        session.effects.topics.add(FEED)


def _item(seq: int, blob: bytes, body: bytes) -> FeedItem:
    """Return a row as an item; one that cannot be read carries nothing, and can be acknowledged."""
    try:
        if blob:
            return FeedItem(envelope=decode(blob, body), token=seq)
        return FeedItem(records=decode_feed(body), token=seq)
    except UNREADABLE:
        return FeedItem(token=seq)
