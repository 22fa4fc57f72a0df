"""The spool as a producer uses it: bounded, opened at first need, filled in batches."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from taskyard.shared.broker import (
    Held,
    Owner,
    PublishStatus,
    Receipt,
    Selection,
    Settlement,
    SettleStatus,
)
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import SpoolFailed, Unavailable
from taskyard.shared.spool import QUEUE, connect_spool, prepare, survey, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Consumer, Lease
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.spool import SpoolState

#: Entries handed over at a time: enough to share a confirm.
BATCH: Final = 256
#: Seconds that one settling may take, and that a file gets which does not let entries go.
_SETTLE_S: Final = 10.0
_PATIENCE_S: Final = 10.0
_AGAIN_S: Final = 0.1


class Spool:
    """Belongs to one event loop.

    Attributes:
        url: of its file.
        pending: jobs in it that this process knows of.

    """

    def __init__(self, url: str, *, limit_bytes: int) -> None:
        """Belong to a file; nothing is touched yet.

        Args:
            url: of the file.
            limit_bytes: most that this process keeps there.

        Raises:
            ConfigurationError: the URL is not that of a file.

        """
        self.url = url
        self.pending = 0
        self._limit_bytes = limit_bytes
        self._bytes = 0
        # A count is as old as the moment in which the file was read: `pending` takes it only if
        # nothing was under way then, nor has ended since.
        self._moves = self._moving = 0
        self._store = connect_spool(url)
        self._opening = asyncio.Lock()
        self._opened = False
        self._room = asyncio.Event()
        self._room.set()
        self._clock = SystemClock()

    async def open(self, deadline_s: float) -> None:
        """Open the file and count what is left in it, unless that was done.

        Raises:
            SpoolFailed: that is not possible.

        """
        async with self._opening:
            if self._opened:
                return
            try:
                await self._store.open(deadline_s=deadline_s)
                await prepare(self._store)
                state = await survey(self._store)
            except Unavailable as error:
                msg = f"the spool {self.url} cannot be used: {error}"
                raise SpoolFailed(msg) from error
            self.pending = state.pending
            self._opened = True

    async def put(
        self, envelopes: Sequence[Envelope], deadline_s: float, *, wait: bool
    ) -> list[Receipt]:
        """Store envelopes, in order; each receipt says `SPOOLED`, or why it is not stored.

        Args:
            envelopes: to be stored.
            deadline_s: how long that may take.
            wait: for room, where there is none: somebody is making some.

        """
        entries = [wrap(envelope) for envelope in envelopes]
        size_bytes = sum(len(entry.body) for entry in entries)
        ends_s = self._clock.monotonic_s() + deadline_s
        while self._bytes + size_bytes > self._limit_bytes:
            if not wait or not await self._made_room(ends_s - self._clock.monotonic_s()):
                return [Receipt(PublishStatus.SPOOL_FULL, detail=self._full())] * len(envelopes)
        await self.open(max(ends_s - self._clock.monotonic_s(), 0.0))
        self._bytes += size_bytes
        self.pending += len(envelopes)
        self._moving += 1
        try:
            left_s = max(ends_s - self._clock.monotonic_s(), 0.0)
            stored = await self._store.publish(entries, deadline_s=left_s)
            receipts = [_as_spooled(receipt) for receipt in stored]
            for entry, receipt in zip(entries, receipts, strict=True):
                if receipt.status is not PublishStatus.SPOOLED:
                    self._forget(len(entry.body))
        except Unavailable as error:
            self._forget(size_bytes, len(entries))
            msg = f"the spool {self.url} cannot be used: {error}"
            raise SpoolFailed(msg) from error
        finally:
            self._moved()
        return receipts

    async def consume(self) -> Consumer:
        """Take what is stored, in order."""
        return await self._store.consume(QUEUE, credit=BATCH)

    async def settle(self, done: Sequence[Settlement]) -> None:
        """Give entries up, however often that has to be tried.

        Raises:
            Unavailable: the file cannot be used, or has not let go of some for ten seconds; these
                come again, as a second publish of the same job.

        """
        ends_s = self._clock.monotonic_s() + _PATIENCE_S
        left = list(done)
        self._moving += 1
        try:
            while left:
                results = await self._store.settle(left, deadline_s=_SETTLE_S)
                undone: list[Settlement] = []
                for settlement, status in zip(left, results, strict=True):
                    if status is SettleStatus.UNDONE:
                        undone.append(settlement)
                    elif status is not SettleStatus.LOST:  # that is in the file, for somebody
                        self._forget(len(settlement.delivery.envelope.body))
                left = undone
                if left:
                    await self._wait_for_the_file(ends_s, len(left))
        finally:
            self._moved()
            self._room.set()

    async def lock(self) -> Lease | None:
        """Become the one process that empties the file; None while another one is."""
        owner = Owner(host=socket.gethostname(), pid=os.getpid(), since_ms=self._clock.now_ms())
        lease = await self._store.lock("flush", owner)
        return None if isinstance(lease, Held) else lease

    @property
    def idle(self) -> bool:
        """Whether nothing is in the file, nor on its way there."""
        return not self.pending and not self._moving

    async def count(self) -> int:
        """Ask the file how many jobs wait in it, whoever put them there."""
        moves = None if self._moving else self._moves
        found = (await survey(self._store)).pending
        if moves == self._moves and not self._moving:
            self.pending = found
            if not found:
                self._bytes = 0
                self._room.set()
        return found

    async def state(self) -> SpoolState:
        """Count what is in the file."""
        return await survey(self._store)

    async def retry_refused(self) -> None:
        """Put what was kept aside back into the line, at its end."""
        async for batch in self._store.take_parked(QUEUE, Selection()):
            back = [
                Settlement(delivery=each, copies=(replace(each.envelope, parking=None),))
                for each in batch
            ]
            await self._store.settle(back, deadline_s=10.0)

    async def close(self) -> None:
        """Leave the file; what had been taken from it is there again, in its place.

        It is opened again when it is next needed.
        """
        if self._opened:
            self._opened = False
            store, self._store = self._store, connect_spool(self.url)
            await store.close(abort=True)

    async def _wait_for_the_file(self, ends_s: float, number: int) -> None:
        if self._clock.monotonic_s() >= ends_s:
            msg = f"the spool {self.url} does not let go of {number} entries"
            raise Unavailable(msg)
        await asyncio.sleep(_AGAIN_S)

    async def _made_room(self, left_s: float) -> bool:
        self._room.clear()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                await self._room.wait()
        except TimeoutError:
            return False
        return True

    def _moved(self) -> None:
        self._moving -= 1
        self._moves += 1

    def _forget(self, size_bytes: int, entries: int = 1) -> None:
        self.pending = max(self.pending - entries, 0)
        self._bytes = max(self._bytes - size_bytes, 0)

    def _full(self) -> str:
        return f"the spool {self.url} holds {self._bytes} of at most {self._limit_bytes} bytes"


def _as_spooled(receipt: Receipt) -> Receipt:
    match receipt.status:
        case PublishStatus.CONFIRMED:
            return Receipt(PublishStatus.SPOOLED, message_id=receipt.message_id)
        case PublishStatus.REJECTED:
            return Receipt(PublishStatus.SPOOL_FULL, detail=receipt.detail)
        case _:
            return receipt
