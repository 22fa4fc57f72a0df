"""One broker as a producer uses it: opened at first need, published to, and listened to.

It lives on one event loop. `envelope` alone may be called from any thread, so that what follows
a job (tenant, parent) is taken from where it is sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from taskyard.producer.call import envelope_of
from taskyard.producer.direct import Direct
from taskyard.producer.drain_gate import DrainGate
from taskyard.producer.fallback import Fallback
from taskyard.producer.origin import origin
from taskyard.producer.publisher import Publisher
from taskyard.producer.replies import Replies
from taskyard.producer.spool import Spool
from taskyard.producer.tally import Tally
from taskyard.producer.verdict import Place, error_of, host_of
from taskyard.shared.brokers import connect
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, Receipt
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.errors import PublishError
    from taskyard.shared.job import Job
    from taskyard.shared.metrics import Metrics
    from taskyard.shared.settings import Settings


#: Seconds that closing goes on emptying the spool, where the broker takes jobs.
_FLUSH_S: Final = 5.0


class Session:
    """A broker, and what a producer keeps beside it."""

    def __init__(
        self,
        settings: Settings,
        *,
        broker: Broker | None = None,
        shared: bool = False,
        app: str | None = None,
        parent: str | None = None,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        """Make a session that is not connected yet.

        Args:
            settings: names the broker unless one is given.
            broker: to use instead of the settings' one.
            shared: it is open already, and its owner's to close.
            app: name of the publishing application.
            parent: id of the job that all jobs sent here come from; None takes the current job.
            metrics: to count into.
            clock: where durations come from.

        Raises:
            ConfigurationError: no broker is set, or its URL or a key is not valid.

        """
        url = None if settings.broker_url is None else settings.broker_url.reveal()
        if broker is None:
            broker = connect(settings.require_broker_url(), settings.broker_options("producer"))
        self.broker = broker
        self.settings = settings
        self.place = Place(
            host=host_of(url) if url else type(broker).__name__, namespace=settings.namespace
        )
        self.replies = Replies(broker)
        self._clock = clock or SystemClock()
        self._gate = DrainGate(broker, self._clock)
        direct = Direct(broker, self.ensure_open, self._clock, gate=self._gate)
        self.spool: Spool | None = None
        self.fallback: Fallback | None = None
        if settings.spool_url is not None:
            self.spool = Spool(settings.spool_url, limit_bytes=settings.spool_limit)
            self.fallback = Fallback(
                broker, direct.publish, self.spool, self.replies, self._clock, gate=self._gate
            )
        self.publisher = Publisher(
            (self.fallback or direct).publish, tally=Tally(metrics), clock=self._clock
        )
        self._app = app or settings.app or None
        self._keys = settings.key_ring()
        self._origin = origin()
        self._parent = parent
        self._owned = not shared
        self._opened = shared
        self._opening = asyncio.Lock()
        self._metrics = metrics
        if self._owned:
            metrics.on_scrape(self._observe)

    async def ensure_open(self, deadline_s: float) -> None:
        """Connect if that has not succeeded yet.

        Raises:
            Unavailable: that was not possible within `deadline_s` seconds.

        """
        if self._opened:
            return
        ends_s = self._clock.monotonic_s() + deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                await self._opening.acquire()
        except TimeoutError as error:
            msg = f"no connection to the broker within {deadline_s:g} s"
            raise Unavailable(msg) from error
        try:
            if not self._opened:
                left_s = max(ends_s - self._clock.monotonic_s(), 0.0)
                await self.broker.open(deadline_s=left_s)
                self._opened = True
        finally:
            self._opening.release()

    async def reply_address(self, deadline_s: float) -> str:
        """Return the address for replies, connecting and opening it first if need be.

        Raises:
            Unavailable: that was not possible within `deadline_s` seconds.

        """
        if self.replies.address is not None:
            return self.replies.address
        since_s = self._clock.monotonic_s()
        await self.ensure_open(deadline_s)
        return await self.replies.open(deadline_s - (self._clock.monotonic_s() - since_s))

    async def close(self) -> None:
        """Wait for what is under way, and disconnect unless the broker is another's."""
        await self.publisher.close()
        if self.fallback is not None:
            await self.fallback.close(min(self.settings.publish_deadline, _FLUSH_S))
        await self._gate.close()
        await self.replies.close()
        self.replies.abandon("the producer was closed before its outcome arrived")
        if self._owned and self._opened:
            await self.broker.close()
            self._opened = False

    def envelope(self, job: Job[Any], *, address: str | None = None) -> Envelope:
        """Return a job as it travels when it is sent here and now.

        Raises:
            PayloadTooLarge: its arguments exceed the limit.
            ConfigurationError: they are to be encrypted, and there is no key.

        """
        return envelope_of(
            job,
            self.broker.now_ms(),
            settings=self.settings,
            app=self._app,
            parent=self._parent,
            address=address,
            keys=self._keys,
            origin=self._origin,
        )

    def error_of(
        self, receipt: Receipt, envelope: Envelope, deadline_s: float
    ) -> PublishError | None:
        """Return the error that stands for a receipt; None for a confirmed job."""
        return error_of(receipt, envelope, self.place, deadline_s)

    def _observe(self) -> None:
        self._metrics.count("broker_connected").set(float(self._opened and self.broker.connected))
        self._metrics.count("broker_blocked").set(float(self._opened and self.broker.blocked))
        if self.spool is not None:
            self._metrics.count("outbox_pending").set(float(self.spool.pending))
