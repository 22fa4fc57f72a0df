"""To the broker while it takes jobs, to the spool while it does not, and from there on in order.

Once a job is in the spool, those sent after it follow it there until the spool is empty: none
overtakes another. What the spool holds goes to the broker by itself as soon as that is possible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from taskyard.producer.flusher import Flusher
from taskyard.producer.spool import BATCH
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import SpoolFailed, TaskyardError
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from taskyard.producer.direct import Publish
    from taskyard.producer.drain_gate import DrainGate
    from taskyard.producer.replies import Replies
    from taskyard.producer.spool import Spool
    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope

_log = get_logger(__name__)

#: The part of a deadline that the broker gets before a job goes to the spool instead.
BROKER_SHARE: Final = 0.5
#: Seconds that a job waits for the last entries of the spool, to go to the broker after them.
_LAST_S: Final = 1.0
#: Seconds before a file that could not be opened is tried again.
_LOOK_AGAIN_S: Final = 10.0
#: Seconds that a file with jobs in it may be unusable before jobs go to the broker past it, and
#: between two tries.
_FILE_PATIENCE_S: Final = 15.0
_FILE_PAUSE_S: Final = 0.5
#: What the broker did not take, or not for sure: a second publish is the same job, by its id.
_LEFT: Final = frozenset({PublishStatus.UNAVAILABLE, PublishStatus.TIMEOUT})


class Fallback:
    """Publishes on one event loop.

    Attributes:
        spooling: whether jobs go to the spool now.

    """

    def __init__(
        self,
        broker: Broker,
        publish: Publish,
        spool: Spool,
        replies: Replies,
        clock: Clock,
        *,
        gate: DrainGate,
    ) -> None:
        """Stand between a producer and its broker.

        Args:
            broker: says whether it is connected and takes publishes.
            publish: hands envelopes to it, within so many seconds.
            spool: for what it does not take.
            replies: the outcomes that the producer waits for.
            clock: where durations come from.
            gate: refuses what is not to be sent, and so neither to be spooled.

        """
        self.spooling = False
        self._broker = broker
        self._publish = publish
        self._spool = spool
        self._gate = gate
        self._clock = clock
        self._flusher = Flusher(broker, publish, spool, replies)
        self._flushing: asyncio.Task[None] | None = None
        self._looked = False
        self._look_again_s = 0.0
        self._reached = False

    async def look(self, deadline_s: float) -> None:
        """Open the spool, and empty it if an earlier process has left something there.

        Raises:
            SpoolFailed: it cannot be opened.

        """
        await self._spool.open(deadline_s)
        if not self._looked:
            self._looked = True
            if self._spool.pending:
                self._turn_to_spool(f"{self._spool.pending} jobs are left in it")

    async def publish(self, envelopes: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        """Publish, or spool; each receipt says which, within `deadline_s` seconds."""
        ends_s = self._clock.monotonic_s() + deadline_s
        if not self._looked and not await self._can_look(deadline_s * BROKER_SHARE):
            return await self._publish(envelopes, ends_s - self._clock.monotonic_s())
        if not self.spooling and self._reached:
            if not self._broker.connected:
                self._turn_to_spool("the connection to the broker is lost")
            elif self._broker.blocked:
                self._turn_to_spool("the broker takes no publishes")
        if self.spooling and self._flusher.moving and self._spool.pending <= BATCH:
            await self._last_of_it((ends_s - self._clock.monotonic_s()) * BROKER_SHARE)
        if self.spooling:
            return await self._put(envelopes, ends_s)
        receipts = await self._publish(envelopes, deadline_s * BROKER_SHARE)
        self._reached = self._flusher.met = self._reached or self._broker.connected
        left = [index for index, receipt in enumerate(receipts) if receipt.status in _LEFT]
        if left:
            self._turn_to_spool(receipts[left[0]].detail or receipts[left[0]].status.value)
            kept = await self._put([envelopes[index] for index in left], ends_s)
            for index, receipt in zip(left, kept, strict=True):
                receipts[index] = receipt
        return receipts

    async def _can_look(self, deadline_s: float) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._look_again_s:
            return False
        try:
            await self.look(deadline_s)
        except SpoolFailed as error:
            self._look_again_s = now_s + _LOOK_AGAIN_S
            _log.error("jobs go to the broker only", problem=str(error))
            return False
        return True

    async def drained(self) -> None:
        """Wait until the spool is empty."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def close(self, patience_s: float) -> None:
        """Go on emptying the spool for so long while the broker takes jobs, then leave it."""
        flushing = self._flushing
        if flushing is not None:
            if self._broker.connected and not self._broker.blocked:
                await asyncio.wait([flushing], timeout=patience_s)
            flushing.cancel()
            await asyncio.wait([flushing])
        if self._spool.pending:
            _log.warning(
                "jobs stay in the spool: the next producer with it sends them, or taskyard relay",
                spool=self._spool.url,
                jobs=self._spool.pending,
            )
        await self._spool.close()

    async def _last_of_it(self, left_s: float) -> None:
        """Let the spool get empty: a sender who goes on adding to its end would keep it filled."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing], timeout=min(left_s, _LAST_S))

    async def _put(self, envelopes: Sequence[Envelope], ends_s: float) -> list[Receipt]:
        async def put(envelopes: Sequence[Envelope]) -> list[Receipt]:
            left_s = ends_s - self._clock.monotonic_s()
            return await self._spool.put(envelopes, left_s, wait=self._flusher.moving)

        return await self._gate.guard(envelopes, put)

    def _turn_to_spool(self, reason: str) -> None:
        if self.spooling:
            return
        self.spooling = True
        _log.warning("jobs go to the spool", spool=self._spool.url, reason=reason)
        self._flushing = asyncio.get_running_loop().create_task(self._flush(), name="flush spool")

    async def _flush(self) -> None:
        """Empty the spool and turn back to the broker, with no job between the two."""
        problem = await self._emptied()
        if problem:
            # Somebody has removed or damaged the file: a broker that takes jobs must not wait for it.
            self._looked = False
            self._look_again_s = self._clock.monotonic_s() + _LOOK_AGAIN_S
            _log.error(
                "the spool cannot be emptied now: jobs go to the broker only",
                spool=self._spool.url,
                problem=problem,
            )
        else:
            _log.info("the spool is empty: jobs go to the broker again", spool=self._spool.url)
        self.spooling = False
        self._flushing = None

    async def _emptied(self) -> str:
        """Empty the spool, over passing troubles with its file; return what was too much, in words."""
        since_s: float | None = None
        ended = self._flusher.ended
        while True:
            try:
                await self._spool.open(_LOOK_AGAIN_S)
                await self._flusher.run()
                if self._spool.idle:
                    return ""
                await asyncio.sleep(0)
            except TaskyardError as error:
                now_s = self._clock.monotonic_s()
                if since_s is None or self._flusher.ended > ended:
                    since_s, ended = now_s, self._flusher.ended
                    _log.warning(
                        "the spool's file is tried again", spool=self._spool.url, problem=str(error)
                    )
                await self._spool.close()  # what was taken from it is given back
                if now_s - since_s >= _FILE_PATIENCE_S:
                    return str(error)
                await asyncio.sleep(_FILE_PAUSE_S)
