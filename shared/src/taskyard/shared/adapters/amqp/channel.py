"""A channel whose calls can be awaited, each within a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import pika.exceptions
from pika import spec

from taskyard.shared.adapters.amqp.frames import Inbound, Message
from taskyard.shared.errors import TaskyardError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pika.channel import Channel as PikaChannel

    from taskyard.shared.adapters.amqp.connection import Connection

CALL_S: Final = 10.0
#: So many cancelled consumers are remembered: what a broker still delivers for one follows closely.
_REMEMBERED: Final = 64

NOT_FOUND: Final = 404
ACCESS_REFUSED: Final = 403
PRECONDITION_FAILED: Final = 406


class ChannelClosed(TaskyardError):
    """The broker closed the channel: what was asked is refused, `code` and `text` say why."""

    def __init__(self, code: int, text: str) -> None:
        """Carry AMQP's reply code and text."""
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text


class Channel:
    """One open channel of one generation of a link. An error of the broker's closes it.

    Attributes:
        raw: pika's channel, for what is written without an answer (publish, ack, nack).
        generation: of the connection it lives on.

    """

    def __init__(self, raw: PikaChannel, generation: int) -> None:
        """Wrap an open channel of pika's."""
        self.raw = raw
        self.generation = generation
        self._waiters: set[asyncio.Future[Any]] = set()
        self._reason: TaskyardError | None = None
        self._closed = asyncio.Event()
        self._on_cancel: dict[str, Callable[[], None]] = {}
        self._on_message: dict[str, Callable[[Message], None]] = {}
        self._on_confirm: Callable[[int, bool, bool], None] | None = None
        self._consumers = 0
        self._former: deque[str] = deque()
        self.on_close: list[Callable[[TaskyardError], None]] = []
        raw.add_on_close_callback(self._ended)
        raw.add_on_cancel_callback(self._cancelled)
        connection = cast("Connection", raw.connection)
        self.connection = connection
        self.number = int(raw.channel_number)
        connection.inbound[self.number] = Inbound(self)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._reason is None and bool(self.raw.is_open)

    @property
    def reason(self) -> TaskyardError | None:
        """Why it is closed: `ChannelClosed` by the broker's word, else `Unavailable`."""
        return self._reason

    async def wait_closed(self) -> TaskyardError:
        """Return why it ended, once it has."""
        await self._closed.wait()
        return self._reason or Unavailable("the channel is closed")

    async def call(self, method: str, /, *, timeout_s: float = CALL_S, **arguments: object) -> Any:
        """Call a method of pika's channel that takes a callback, and return the broker's answer.

        Args:
            method: its name, such as `queue_declare`.
            timeout_s: how long to wait; afterwards the channel is given up.
            arguments: of the method.

        Raises:
            ChannelClosed: the broker refused, and closed the channel.
            Unavailable: the connection is gone, or did not answer in time.

        """

        def start(answered: Callable[..., None]) -> None:
            getattr(self.raw, method)(callback=answered, **arguments)

        return await self._await(start, timeout_s)

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Message], None],
        *,
        on_cancel: Callable[[], None] | None = None,
        arguments: Mapping[str, object] | None = None,
        exclusive: bool = False,
        no_ack: bool = False,
        tag: str | None = None,
        timeout_s: float = CALL_S,
    ) -> str:
        """Consume a queue and return the consumer's tag.

        Args:
            queue: to consume.
            on_message: is called for each delivery, from the loop's reader: be brief.
            on_cancel: is called if the broker ends the consumer.
            arguments: of the consumer.
            exclusive: refuse other consumers.
            no_ack: deliveries need no ack.
            tag: as `new_tag` returned it; None takes a new one.
            timeout_s: how long to wait for the broker's answer.

        """
        tag = tag or self.new_tag()
        self._on_message[tag] = on_message  # before the answer: deliveries follow on its heels
        if on_cancel is not None:
            self._on_cancel[tag] = on_cancel
        await self.call(
            "basic_consume",
            timeout_s=timeout_s,
            queue=queue,
            on_message_callback=_never,
            consumer_tag=tag,
            auto_ack=no_ack,
            exclusive=exclusive,
            arguments=dict(arguments) if arguments else None,
        )
        return tag

    def new_tag(self) -> str:
        """Return a consumer tag that this channel has not used."""
        self._consumers += 1
        return f"taskyard-{self._consumers}"

    async def cancel(self, tag: str, *, timeout_s: float = CALL_S) -> None:
        """Cancel a consumer; what still arrives for it reaches its callback, also after the answer.

        Dropped, it would be unacknowledged as long as the channel lives. (pika's own
        `basic_cancel` rejects what arrives, which counts as a failed delivery.)
        """
        self._on_cancel.pop(tag, None)

        def start(answered: Callable[..., None]) -> None:
            def done(frame: Any) -> None:
                self.raw._cleanup_consumer_ref(tag)
                self._former.append(tag)
                if len(self._former) > _REMEMBERED:
                    self._on_message.pop(self._former.popleft(), None)
                answered(frame)

            self.raw._rpc(
                spec.Basic.Cancel(consumer_tag=tag, nowait=False),
                done,
                [(spec.Basic.CancelOk, {"consumer_tag": tag})],
            )

        await self._await(start, timeout_s)

    async def get(self, queue: str, *, timeout_s: float = CALL_S) -> Message | None:
        """Take one message off a queue, to be acknowledged, or None if it is empty."""

        def start(answered: Callable[..., None]) -> None:
            def got(_: object, method: Any, properties: Any, body: bytes) -> None:
                message = Message(
                    method.delivery_tag, method.redelivered, method.exchange, method.routing_key
                )
                message.properties, message.body = properties, body
                answered(message)

            self.raw.add_callback(lambda _: answered(None), [spec.Basic.GetEmpty])
            self.raw.basic_get(queue, got)

        found = await self._await(start, timeout_s)
        return found if isinstance(found, Message) else None

    async def confirm(self, on_confirm: Callable[[int, bool, bool], None]) -> None:
        """Have publishes confirmed: `on_confirm(tag, multiple, accepted)` is called for each."""
        self._on_confirm = on_confirm
        await self.call("confirm_delivery", ack_nack_callback=_never)

    def delivered(self, consumer_tag: str, message: Message) -> None:
        """Pass a delivery on; what nobody wants any more goes back when the channel closes."""
        on_message = self._on_message.get(consumer_tag)
        if on_message is not None:
            on_message(message)

    def confirmed(self, tag: int, multiple: bool, accepted: bool) -> None:
        """Pass a confirm on."""
        if self._on_confirm is not None:
            self._on_confirm(tag, multiple, accepted)

    async def close(self, *, timeout_s: float = 3.0) -> None:
        """Close it, giving unsettled deliveries back; never raises, never waits longer."""
        self.discard()
        try:
            async with asyncio.timeout(timeout_s):
                await self._closed.wait()
        except TimeoutError:
            return

    def discard(self) -> None:
        """Begin to close it without waiting."""
        self._on_message.clear()
        if self.raw.is_open:
            # Else pika cancels each consumer first, and rejects what is on its way.
            self.raw._consumers.clear()
            self.raw.close()

    async def _await(self, start: Callable[[Callable[..., None]], None], timeout_s: float) -> Any:
        if self._reason is not None:
            raise self._reason
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)

        def answered(value: Any) -> None:
            if not waiter.done():
                waiter.set_result(getattr(value, "method", value))

        try:
            start(answered)
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            self.discard()
            raise Unavailable(f"the broker did not answer within {timeout_s:g} s") from None
        except pika.exceptions.AMQPError as error:
            raise self._reason or Unavailable(f"the channel is closed: {error!r}") from error
        finally:
            self._waiters.discard(waiter)

    def _ended(self, _: object, error: Exception) -> None:
        if isinstance(error, pika.exceptions.ChannelClosedByBroker):
            self._reason = ChannelClosed(error.reply_code, error.reply_text)
        elif isinstance(error, pika.exceptions.ChannelClosedByClient):
            self._reason = Unavailable("the channel is closed")
        else:
            self._reason = Unavailable(f"the connection to the broker is lost: {error}")
        self.connection.inbound.pop(self.number, None)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._reason)
        self._closed.set()
        for callback in self.on_close:
            callback(self._reason)

    def _cancelled(self, frame: Any) -> None:
        self._on_message.pop(frame.method.consumer_tag, None)
        if callback := self._on_cancel.pop(frame.method.consumer_tag, None):
            callback()


def _never(*_: object) -> None:
    """Stand in for pika's callback: the frames that it would be called for never reach pika."""


async def open_channel(
    connection: Connection, generation: int, *, timeout_s: float = CALL_S
) -> Channel:
    """Open a channel on an open connection (Unavailable when that fails or takes too long)."""
    waiter: asyncio.Future[PikaChannel] = asyncio.get_running_loop().create_future()

    def opened(raw: PikaChannel) -> None:
        if not waiter.done():
            waiter.set_result(raw)

    def failed(_: object, error: Exception) -> None:
        if not waiter.done():
            waiter.set_exception(Unavailable(f"the connection to the broker is lost: {error}"))

    try:
        raw = connection.channel(on_open_callback=opened)
        raw.add_on_close_callback(failed)
        async with asyncio.timeout(timeout_s):
            return Channel(await waiter, generation)
    except TimeoutError:
        raise Unavailable(f"the broker opened no channel within {timeout_s:g} s") from None
    except pika.exceptions.AMQPError as error:
        raise Unavailable(f"the connection to the broker is lost: {error!r}") from error
