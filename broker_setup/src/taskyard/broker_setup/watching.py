"""What became of released jobs: their replies, and a look at the lot for those that come back.

A released copy carries one address more in its `ty-reply`, and names it in `ty-watch`, so that the
next release takes it out again. A retry sends no reply: only a final outcome does.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import park_reason_of
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.feed import Reply, decode_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskyard.shared.broker import Broker, Inbox
    from taskyard.shared.envelope import Envelope

#: Seconds between looks at the lot for a job whose reply may have been lost; the last one repeats.
_LOOKS_S: Final = (3.0, 6.0, 12.0, 30.0)


class Watch:
    """Knows the outcomes of the jobs that it was told to expect."""

    def __init__(self, broker: Broker, inbox: Inbox) -> None:
        """Read the replies that come to `inbox`."""
        self._broker = broker
        self._inbox = inbox
        self._attempts: dict[str, int] = {}
        self._ended: dict[str, Reply] = {}
        self._news = asyncio.Event()
        self.failure: Reply | None = None
        """The first job since `forget` that did not succeed."""

    @property
    def address(self) -> str:
        """What goes into the reply addresses of a released job."""
        return self._inbox.address

    def forget(self) -> None:
        """Expect nothing that was expected so far: another group begins."""
        self._attempts.clear()
        self._ended.clear()
        self.failure = None

    def expect(self, envelope: Envelope) -> None:
        """Wait for the end of a copy that is about to be sent."""
        self._attempts[envelope.id] = envelope.attempt

    async def outcome(self, job_id: str, queue: str, timeout_s: float) -> Reply | None:
        """Wait for a job's final outcome; None when there is none in time.

        Args:
            job_id: of an expected job.
            queue: in whose lot it would be parked again.
            timeout_s: how long to wait, in seconds.

        """
        attempt = self._attempts.get(job_id, 1)
        looks = iter(_LOOKS_S)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    reply = await self._reply(job_id, next(looks, _LOOKS_S[-1]))
                    reply = reply or await self._parked_again(job_id, attempt, queue)
                    if reply is not None:
                        return reply
        except TimeoutError:
            return None

    async def read(self) -> None:
        """Take in replies until the inbox is closed."""
        while bodies := await self._inbox.take():
            for body in bodies:
                try:
                    self._arrived(decode_reply(body))
                except UNREADABLE:
                    continue  # anybody may write to an address; this is none of our jobs
            self._news.set()

    def _arrived(self, reply: Reply) -> None:
        # An earlier copy of the job may still be under way, and end for its own reasons.
        if reply.attempt < self._attempts.get(reply.job, reply.attempt + 1):
            return
        del self._attempts[reply.job]
        if reply.outcome != "succeeded":
            self.failure = self.failure or reply
        self._ended[reply.job] = reply

    async def _reply(self, job_id: str, within_s: float) -> Reply | None:
        try:
            async with asyncio.timeout(within_s):
                while job_id not in self._ended:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return None
        return self._ended[job_id]

    async def _parked_again(self, job_id: str, attempt: int, queue: str) -> Reply | None:
        async with aclosing(self._broker.parked(queue)) as lot:
            async for parked in lot:
                envelope, about = parked.envelope, parked.envelope.parking
                if envelope.id == job_id and envelope.attempt >= attempt:
                    return Reply(
                        job=job_id,
                        attempt=envelope.attempt,
                        outcome="parked",
                        detail=park_reason_of(envelope),
                        message=about.detail if about else "",
                        error=about.error if about else None,
                    )
        return None


@asynccontextmanager
async def watching(broker: Broker) -> AsyncIterator[Watch]:
    """Watch outcomes for as long as this is entered.

    Raises:
        ConfigurationError: the broker has no replies.

    """
    replies = broker.capabilities.replies
    if not replies:
        msg = f"a canary needs replies, and this broker has none: {replies.note}"
        raise ConfigurationError(msg)
    inbox = await broker.inbox()
    watch = Watch(broker, inbox)
    reader = asyncio.create_task(watch.read(), name="watch")
    try:
        yield watch
    finally:
        reader.cancel()
        await asyncio.wait([reader])
        await inbox.close()


def describe(reply: Reply) -> str:
    """Return an outcome in words."""
    text = reply.outcome + (f" ({reply.detail})" if reply.detail else "")
    message = reply.message or (reply.error.message if reply.error else "")
    return f"{text}: {message.splitlines()[0][:200]}" if message else text
