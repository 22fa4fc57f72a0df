"""What the parts of the AMQP adapter share: links, names, the publisher and the state."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.channel import ACCESS_REFUSED, NOT_FOUND, ChannelClosed
from taskyard.shared.adapters.amqp.fields import properties
from taskyard.shared.adapters.amqp.link import Link
from taskyard.shared.adapters.amqp.management import Management
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.adapters.amqp.outgoing import Raw
from taskyard.shared.adapters.amqp.publisher import CONFIRMED, Publisher
from taskyard.shared.adapters.amqp.url import parse_url
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import get_logger
from taskyard.shared.naming import check_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.broker import BrokerEvent, BrokerOptions
    from taskyard.shared.clock import Clock

_log = get_logger(__name__)

#: How soon a running process notices that the feed was set up or taken down.
_FEED_CHECK_S: Final = 30.0


class Core:
    """Owns the connections of one broker.

    Attributes:
        options: as the broker was made with.
        addresses: of its nodes.
        names: of the namespace.
        clock: for instants.
        management: the broker's HTTP API, where it can be reached.
        random: for jitter.
        publish_link: the connection that publishes; open while the broker is.
        publisher: on that connection.
        recording: whether the feed exists, as far as is known.
        closed: whether `close` was called: what waits is to end, not to begin again.

    """

    def __init__(
        self,
        url: str,
        options: BrokerOptions,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare the connections (ConfigurationError when the URL or namespace is not valid)."""
        self.options = options
        self.addresses = parse_url(url)
        self.names = Names(check_namespace(options.namespace))
        self.clock: Clock = clock or SystemClock()
        self.random = rng or random.Random()
        self.management = Management(self.addresses, options.management_url, clock=self.clock)
        self.publish_link = self._make("publish", options.heartbeat_s)
        self.publisher = Publisher(
            self.publish_link,
            self.names,
            cap_bytes=options.unconfirmed_cap_bytes,
            clock=self.clock,
        )
        self.recording = False
        #: When the control log that was read was begun, in milliseconds since the epoch.
        self.log_begun_ms: int | None = None
        self.closed = False
        self._reader = self._make("consume", options.heartbeat_s)
        self._reader_open = asyncio.Lock()
        self._reader_opened = False
        self._links: list[Link] = []
        self._feed_watch: asyncio.Task[None] | None = None

    async def open(self, *, deadline_s: float) -> None:
        """Open the publishing connection, and learn whether the feed exists."""
        await self.publish_link.open(deadline_s=deadline_s)
        self.publisher.start()
        try:
            self.recording = await self.find_feed()
        except Unavailable:
            await self.close(abort=True)
            raise
        self._feed_watch = asyncio.create_task(self._watch_feed(), name="amqp feed watch")

    async def reader(self) -> Link:
        """Return the consuming connection, opened at its first use."""
        async with self._reader_open:
            if not self._reader_opened:
                await self._reader.open()
                self._reader_opened = True
        return self._reader

    def subscribe(self, callback: Callable[[BrokerEvent], None]) -> None:
        """Have changes of the publishing and the consuming connection told to `callback`."""
        self.publish_link.subscribe(callback)
        self._reader.subscribe(callback)

    @property
    def reader_link(self) -> Link | None:
        """The consuming connection, if it was ever needed."""
        return self._reader if self._reader_opened else None

    async def link(self, role: str, *, heartbeat_s: float | None = None) -> Link:
        """Open a further connection, which is closed with the broker or by `drop`.

        Raises:
            Unavailable: that is not possible now. Also where the broker refuses what it took
                before: it came back without its users or virtual hosts, and may get them again.

        """
        link = self._make(role, heartbeat_s or self.options.heartbeat_s)
        try:
            await link.open()
        except ConfigurationError as error:
            if not self.publish_link.generation:
                raise
            raise Unavailable(str(error)) from error
        self._links.append(link)
        return link

    async def drop(self, link: Link, *, abort: bool = False) -> None:
        """Close a connection that `link` opened."""
        if link in self._links:
            self._links.remove(link)
        await link.close(abort=abort)

    async def close(self, *, abort: bool = False) -> None:
        """Close everything; `abort` waits for nobody."""
        self.closed = True
        if self._feed_watch is not None:
            self._feed_watch.cancel()
            await asyncio.wait([self._feed_watch])
            self._feed_watch = None
        links = [*self._links, *([self._reader] if self._reader_opened else [])]
        self._links.clear()
        self._reader_opened = False
        await asyncio.gather(*(link.close(abort=abort) for link in links))
        await self.publisher.stop()
        await self.publish_link.close(abort=abort)

    async def find_feed(self) -> bool:
        """Tell whether the feed exists (Unavailable when the broker does not answer)."""
        channel = await self.publish_link.channel()
        try:
            await channel.call("queue_declare", queue=self.names.ledger, passive=True)
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return False
            if error.code == ACCESS_REFUSED:  # some versions want more than reading for this
                return await self._ask_feed()
            return True  # it is there, if locked or on a node that is away
        await channel.close()
        return True

    async def _ask_feed(self) -> bool:
        empty = Raw(self.names.lifecycle, "-", properties(content_type="application/json"), b"[]")
        (receipt,) = await self.publisher.publish_raw([empty], deadline_s=5.0)
        return receipt.status is CONFIRMED

    async def _watch_feed(self) -> None:
        generation = self.publish_link.generation
        while True:
            until = self.clock.monotonic_s() + _FEED_CHECK_S
            while self.clock.monotonic_s() < until:
                await asyncio.sleep(1.0)
                if self.publish_link.connected and self.publish_link.generation != generation:
                    break
            try:
                self._feed_found(await self.find_feed())
                generation = self.publish_link.generation
            except Unavailable:
                continue

    def _feed_found(self, there: bool) -> None:
        if self.recording and not there:
            _log.warning(
                "the feed is gone: outcomes are no longer recorded; jobs are not affected. "
                "`taskyard broker apply --ledger` sets it up",
                queue=self.names.ledger,
            )
        self.recording = there

    def _make(self, role: str, heartbeat_s: float) -> Link:
        name = f"{self.options.connection_name} {role}"
        return Link(self.addresses, name=name, heartbeat_s=heartbeat_s, rng=self.random)
