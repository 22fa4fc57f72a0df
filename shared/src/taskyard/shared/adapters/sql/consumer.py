"""A flow of jobs from one queue: claims whenever there is room, and something may be there."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.rows import Token, delivery
from taskyard.shared.adapters.sql.transactions import Claim, Claimed
from taskyard.shared.adapters.sql.unit import Unit
from taskyard.shared.adapters.sql.watch import QUEUE
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.presence import Presence
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.broker import Delivery

#: How long a claim waits for the write lock, and how long to wait after one that failed.
_CLAIM_S: Final = 10.0
_AGAIN_S: Final = 0.25


class SqlConsumer:
    """See `Consumer`. Everything happens on the loop, but for the claims themselves."""

    def __init__(
        self,
        engine: Engine,
        presence: Presence,
        queue: str,
        credit: int,
        *,
        gone: Callable[[SqlConsumer], None],
    ) -> None:
        """Belong to a handle; `start` begins.

        Args:
            engine: of the handle.
            presence: who claims.
            queue: its name, known to exist.
            credit: most unsettled deliveries.
            gone: told when the flow has ended.

        """
        self.id = secrets.randbits(62)
        self.queue = queue
        self._engine = engine
        self._presence = presence
        self._credit = credit
        self._gone = gone
        self._buffer: list[Delivery] = []
        self._held = 0
        self._reserved = 0
        self._may_have_more = True
        self._is_stopped = False
        self._arrived = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._ticks = SystemClock()

    # ------------------------------------------------------------ the port

    @property
    def present(self) -> bool:
        return not self._is_stopped and self._engine.is_open

    @property
    def problem(self) -> str:
        return ""  # its absence is its end

    async def take(self) -> Sequence[Delivery]:
        while not self._buffer:
            if self._is_stopped:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        taken, self._buffer = self._buffer, []
        return taken

    async def set_credit(self, credit: int) -> None:
        self._credit = credit
        self._claim()

    async def stop(self) -> Sequence[Delivery]:
        if not self._is_stopped:
            self._is_stopped = True
            self._engine.watch.discard(QUEUE + self.queue, self.poke)
            await self._quiet.wait()
            untaken, self._buffer = self._buffer, []
            self._arrived.set()
            self._gone(self)
            # Without the database the row stays until the handle ends; the deliveries matter more.
            with contextlib.suppress(StoreError, Unavailable):
                await self._engine.write(lambda s: s.run(queries.CONSUMER_REMOVE, (self.id,)))
            return untaken
        return []

    # ------------------------------------------------------------ the handle

    def register(self, session: Session) -> None:
        """Write the row that counts it among the queue's consumers."""
        session.run(queries.CONSUMER_PUT, (self.id, self.queue, self._presence.id))

    def start(self) -> None:
        """Begin to claim."""
        self._engine.watch.add(QUEUE + self.queue, self.poke)
        self._claim()

    def poke(self) -> None:
        """Look again: something may be ready."""
        self._may_have_more = True
        self._claim()

    def end(self) -> None:
        """Stop because the handle has died or was closed."""
        self._is_stopped = True
        self._engine.watch.discard(QUEUE + self.queue, self.poke)
        self._arrived.set()

    def pause(self) -> None:
        """Claim nothing more."""
        self._credit = 0

    async def wait_quiet(self) -> None:
        """Wait until no claim is under way."""
        await self._quiet.wait()

    def untaken(self) -> list[int]:
        """Return the rows of what has arrived and nobody took."""
        return [d.token.seq for d in self._buffer if isinstance(d.token, Token)]

    def refill(self, freed: int) -> Claim | None:
        """Return the claim that may follow once `freed` deliveries are settled, and reserve it.

        `refilled` must be called with its result.
        """
        room = self._credit - self._reserved - self._held + freed
        if self._is_stopped or not self._may_have_more or room <= 0:
            return None
        return self._reserve(room)

    def refilled(self, claim: Claim, claimed: Claimed | None) -> None:
        """Take in what a claim brought; None: it failed."""
        self._reserved -= claim.limit
        if not self._reserved:
            self._quiet.set()
        if claimed is None:
            self._may_have_more = True
            if not self._is_stopped:
                asyncio.get_running_loop().call_later(_AGAIN_S, self._claim)
            return
        self._may_have_more |= not claimed.is_last
        self._take_in(claim, claimed)
        self._claim()

    def released(self, count: int) -> None:
        """Give back the credit of settled deliveries."""
        self._held -= count
        self._claim()

    # ------------------------------------------------------------ helpers

    def _claim(self) -> None:
        room = self._credit - self._reserved - self._held
        if self._is_stopped or not self._may_have_more or room <= 0 or not self._engine.is_open:
            return
        claim = self._reserve(room)
        unit = Unit(
            claim.run,
            writes=True,
            deadline_s=self._ticks.monotonic_s() + _CLAIM_S,
            probe=claim.probe,
            weight=room,
            done=lambda claimed: self.refilled(claim, claimed),
        )
        try:
            self._engine.submit(unit)
        except (StoreError, Unavailable):
            self.refilled(claim, Claimed())

    def _reserve(self, room: int) -> Claim:
        self._reserved += room
        self._quiet.clear()
        self._may_have_more = False
        return Claim(
            queue=self.queue,
            owner=self._presence.id,
            fence=self._presence.next_fence(),
            limit=room,
            note_due=self._engine.watch.note_due,
        )

    def _take_in(self, claim: Claim, claimed: Claimed) -> None:
        if not claimed:
            return
        self._held += len(claimed)
        for seq, failures, blob, body in zip(
            claimed.seqs, claimed.failures, claimed.blobs, claimed.bodies, strict=True
        ):
            token = Token(seq, claim.owner, claim.fence, self)
            self._buffer.append(delivery(blob, body, token, queue=self.queue, failures=failures))
        self._arrived.set()
