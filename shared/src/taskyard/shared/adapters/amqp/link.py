"""One supervised connection: kept up over a list of nodes until it is closed."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.adapters.amqp.channel import CALL_S, Channel, open_channel
from taskyard.shared.adapters.amqp.connection import Connection, parameters
from taskyard.shared.adapters.amqp.reasons import in_words, untrusted
from taskyard.shared.broker import Blocked, BrokerEvent, Connected, Lost, Unblocked
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskyard.shared.adapters.amqp.url import Address

_log = get_logger(__name__)

#: Gaps between rounds over the nodes: full jitter below a bound that doubles.
_FIRST_GAP_S: Final = 0.2
_LONGEST_GAP_S: Final = 5.0
_CLOSE_S: Final = 3.0
_ABORT_S: Final = 0.3

# pika logs each lost connection several times as an error; the link says it once, with what
# follows. Whoever sets a level of their own keeps it.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


class Link:
    """A connection that comes back. Each time it does, its generation is one higher.

    Channels belong to a generation and end with it; whoever needs them subscribes, and opens new
    ones at `Connected`.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        name: str,
        heartbeat_s: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare a link; nothing is connected before `open`.

        Args:
            addresses: the nodes; any of them will do.
            name: shown to the broker's operators, with host and process id.
            heartbeat_s: a silent connection is given up after one and a half of it.
            rng: source of the jitter.

        """
        self._addresses = list(addresses)
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._rng = rng or random.Random()
        self._rng.shuffle(self._addresses)
        self._connection: Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._subscribers: list[Callable[[BrokerEvent], None]] = []
        self._changed = asyncio.Event()
        self._blocked_reason: str | None = None
        self._refusal: ConfigurationError | None = None
        self._reason = "not connected yet"
        self._closing = False
        self.generation = 0

    # ------------------------------------------------------------ what it is

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now."""
        return self._connection is not None and bool(self._connection.is_open)

    @property
    def blocked(self) -> bool:
        """Whether the broker refuses publishes on this connection now."""
        return self._blocked_reason is not None

    @property
    def closed(self) -> bool:
        """Whether it was closed, so that it does not come back."""
        return self._closing

    @property
    def reason(self) -> str:
        """Why it is not connected, in words."""
        return self._reason

    @property
    def connection(self) -> Connection | None:
        """The present connection, for what writes frames of its own."""
        return self._connection

    @property
    def server_properties(self) -> Mapping[str, Any]:
        """What the broker says about itself; empty while not connected."""
        return (self._connection.server_properties if self._connection else None) or {}

    @property
    def server_version(self) -> tuple[int, ...]:
        """The broker's version, such as (4, 3, 6); empty while not connected."""
        text = str(self.server_properties.get("version", ""))
        numbers = text.partition("-")[0].partition("+")[0].split(".")
        return tuple(int(n) for n in numbers if n.isdigit())

    @property
    def cluster_name(self) -> str:
        """The broker's name for itself."""
        return str(self.server_properties.get("cluster_name", ""))

    @property
    def target(self) -> str:
        """The node and virtual host, for messages to people."""
        at = self._connection.params if self._connection else None
        if at is not None:
            return f"{at.host}:{at.port} vhost {at.virtual_host!r}"
        return ", ".join(map(str, self._addresses)) + f" vhost {self._addresses[0].vhost!r}"

    # ------------------------------------------------------------ life

    async def open(self, *, deadline_s: float = 10.0) -> None:
        """Connect.

        Raises:
            ConfigurationError: the broker refuses the user, password or virtual host.
            Unavailable: no node could be reached within the deadline.

        """
        self._closing = False
        self._refusal = None
        self._supervisor = asyncio.create_task(self._supervise(), name=f"amqp link {self._name}")
        self._supervisor.add_done_callback(self._supervisor_ended)
        try:
            await self.wait_connected(deadline_s=deadline_s)
        except BaseException:
            await self.close(abort=True)
            raise

    async def wait_connected(self, *, deadline_s: float) -> None:
        """Return once it is connected (Unavailable when that takes longer than the deadline)."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self.connected:
                    if self._refusal is not None and self.generation == 0:
                        raise self._refusal
                    if self._supervisor is None or self._supervisor.done():
                        raise Unavailable("the connection to the broker is closed")
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable(
                f"no connection to {self.target} within {deadline_s:g} s: {self._reason}"
            ) from None

    async def channel(self, *, timeout_s: float = CALL_S) -> Channel:
        """Open a channel on the present connection, waiting for one if need be.

        Raises:
            Unavailable: there was none in time.

        """
        await self.wait_connected(deadline_s=timeout_s)
        if self._connection is None:
            raise Unavailable(self._reason)
        return await open_channel(self._connection, self.generation, timeout_s=timeout_s)

    def subscribe(self, callback: Callable[[BrokerEvent], None]) -> Callable[[], None]:
        """Have each change of state told to `callback`; returns what ends that."""
        self._subscribers.append(callback)

        def end() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return end

    async def close(self, *, abort: bool = False) -> None:
        """End it: politely within three seconds, or at once with `abort` (also when blocked)."""
        self._closing = True
        connection, supervisor = self._connection, self._supervisor
        if connection is not None:
            if abort or self.blocked:
                connection.abort()
            elif connection.is_open:
                for channel in connection._channels.values():
                    channel._consumers.clear()  # see Channel.discard
                connection.close()
        if supervisor is None:
            return
        self._supervisor = None
        if connection is not None:
            await asyncio.wait([supervisor], timeout=0.5 if abort else _CLOSE_S)
        if not supervisor.done():
            if self._connection is not None:
                self._connection.abort()
            supervisor.cancel()
        await asyncio.wait([supervisor], timeout=0.5)
        if self._connection is not None:
            self._connection = None
            self._reason = "closed"
            self._tell(Lost(self._reason))

    # ------------------------------------------------------------ supervision

    async def _supervise(self) -> None:
        gap_s = 0.0
        while not self._closing:
            ended = await self._connect_any()
            if ended is None:
                gap_s = min(max(gap_s * 2, _FIRST_GAP_S), _LONGEST_GAP_S)
                await asyncio.sleep(self._rng.uniform(0, gap_s))
                continue
            gap_s = 0.0
            error = await ended
            connection, self._connection = self._connection, None
            self._blocked_reason = None
            self._reason = in_words(connection, error)
            if not self._closing:
                _log.warning("broker connection lost", link=self._name, reason=self._reason)
            self._tell(Lost(self._reason))
            if not self._closing:  # all clients of a node that died do not come back at once
                await asyncio.sleep(self._rng.uniform(0, _FIRST_GAP_S))
        self._wake()

    def _supervisor_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("broker link given up", link=self._name, exc_info=error)
        self._wake()

    async def _connect_any(self) -> asyncio.Future[Exception] | None:
        """Try each node once; on success return what will hold the reason of its end."""
        for _ in range(len(self._addresses)):
            address = self._addresses[0]
            self._addresses.append(self._addresses.pop(0))
            loop = asyncio.get_running_loop()
            opened: asyncio.Future[None] = loop.create_future()
            ended: asyncio.Future[Exception] = loop.create_future()
            connection = self._begin(address, opened, ended)
            try:
                either: list[asyncio.Future[Any]] = [opened, ended]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                connection.abort()
                # pika closes the socket some turns of the loop later; the loop may end before.
                await asyncio.wait([ended], timeout=_ABORT_S)
                raise
            if opened.done() and not ended.done():
                self._connected(connection)
                return ended
            self._refusal = connection.refusal() or untrusted(address, ended.result())
            self._reason = str(
                self._refusal or f"{address}: {in_words(connection, ended.result())}"
            )
            self._wake()
        _log.debug("broker not reachable", link=self._name, reason=self._reason)
        return None

    def _begin(
        self,
        address: Address,
        opened: asyncio.Future[None],
        ended: asyncio.Future[Exception],
    ) -> Connection:
        def on_open(connection: Connection) -> None:
            connection.add_on_connection_blocked_callback(self._on_blocked)
            connection.add_on_connection_unblocked_callback(self._on_unblocked)
            if not opened.done():
                opened.set_result(None)

        def on_end(_: Connection, error: Exception) -> None:
            if not ended.done():
                ended.set_result(error)

        at = parameters(address, connection_name=self._name, heartbeat_s=self._heartbeat_s)
        return Connection(at, on_open=on_open, on_end=on_end)

    def _connected(self, connection: Connection) -> None:
        self._connection = connection
        self._refusal = None
        self._reason = ""
        self.generation += 1
        if self.generation > 1:
            _log.info("broker connection back", link=self._name, generation=self.generation)
        self._tell(Connected())

    def _on_blocked(self, _: object, frame: Any) -> None:
        self._blocked_reason = str(frame.method.reason)
        _log.warning("broker takes no publishes", link=self._name, reason=self._blocked_reason)
        self._tell(Blocked(self._blocked_reason))

    def _on_unblocked(self, _: object, __: Any) -> None:
        self._blocked_reason = None
        _log.info("broker takes publishes again", link=self._name)
        self._tell(Unblocked())

    def _tell(self, event: BrokerEvent) -> None:
        for callback in tuple(self._subscribers):
            callback(event)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
