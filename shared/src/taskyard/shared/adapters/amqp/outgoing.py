"""Messages that are ready to be published, and how jobs become such."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskyard.shared.adapters.amqp import ladder, wire
from taskyard.shared.adapters.amqp.fields import write_properties
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope


_log = get_logger(__name__)

#: What properties may take where the broker has not said how large a frame may be (its default).
_DEFAULT_ROOM: Final = 131_072 - 32
#: Characters left of a parked job's texts, and of a foreign header, where all would not fit.
_SHORT: Final = 500


class Outgoing:
    """A message that is ready to be published; `problem` says why it cannot be."""

    __slots__ = ("body", "exchange", "message_id", "problem", "properties", "queue", "routing_key")

    def __init__(
        self, exchange: str, routing_key: str, properties: bytes, body: bytes, message_id: str
    ) -> None:
        """Keep what goes into its frames; properties are encoded."""
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body
        self.message_id = message_id
        self.problem = ""
        self.queue = routing_key


class Raw:
    """A message of the caller's making; its properties may be pika's or `fields.Properties`."""

    __slots__ = ("body", "exchange", "properties", "routing_key")

    def __init__(self, exchange: str, routing_key: str, properties: Any, body: bytes) -> None:
        """Keep its parts; a missing `message_id` is set when it is published."""
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.body = body


class Maker:
    """Makes messages ready: route, properties and a `message_id` that is unique."""

    def __init__(self, names: Names, clock: Clock) -> None:
        """Make messages for a namespace."""
        self._names = names
        self._clock = clock
        self._nonce = secrets.token_hex(8)
        self._count = 0
        self.room_bytes = _DEFAULT_ROOM
        """Most bytes of properties: AMQP has no way to spread them over frames."""

    def job(self, envelope: Envelope) -> Outgoing:
        """Make a job ready, for its queue or for the ladder."""
        due_ms = envelope.not_before_ms
        if due_ms is not None:
            now_ms = self._clock.now_ms()
            if due_ms > now_ms:
                count = ladder.ticks(due_ms - now_ms)
                key = ladder.routing_key(count, envelope.queue)
                return self._encode(envelope, ladder.entry(self._names, count), key, True)
        return self._encode(envelope, self._names.tasks, envelope.queue, False)

    def parked(self, envelope: Envelope) -> Outgoing:
        """Make a job ready for its queue's parking lot."""
        return self._encode(envelope, self._names.parked, envelope.queue, True)

    def is_delayed(self, envelope: Envelope) -> bool:
        """Tell whether a job is due later."""
        due_ms = envelope.not_before_ms
        return due_ms is not None and due_ms > self._clock.now_ms()

    def raw(self, message: Raw) -> Outgoing:
        """Make any message ready."""
        message_id = self._message_id()
        item = Outgoing(message.exchange, message.routing_key, b"", message.body, message_id)
        own = message.properties
        if own.message_id is None:
            own.message_id = message_id
        item.message_id = own.message_id
        try:
            item.properties = write_properties(own)
        except ValueError as error:
            item.problem = str(error)
        return self._checked(item)

    def _message_id(self) -> str:
        self._count += 1
        return f"{self._nonce}-{self._count:x}"

    def _encode(self, envelope: Envelope, exchange: str, key: str, with_queue: bool) -> Outgoing:
        message_id = self._message_id()
        item = Outgoing(exchange, key, b"", envelope.body, message_id)
        item.queue = envelope.queue
        now_ms = self._clock.now_ms()
        try:
            item.properties = wire.encode(envelope, message_id, now_ms, with_queue=with_queue)
            fits = len(item.properties) <= self.room_bytes
            for smaller in () if fits else _smaller(envelope):
                item.properties = wire.encode(smaller, message_id, now_ms, with_queue=with_queue)
                if len(item.properties) <= self.room_bytes:
                    break
        except (ValueError, AttributeError, TypeError) as error:
            item.problem = f"the job cannot be written as AMQP: {error}"
        return self._checked(item)

    def _checked(self, item: Outgoing) -> Outgoing:
        """Refuse what would cost the connection: the broker closes it over a frame too large."""
        size = len(item.properties)
        if size > self.room_bytes and not item.problem:
            item.problem = (
                f"its headers have {size} bytes; this broker takes {self.room_bytes} (frame_max)"
            )
        return item


def _smaller(envelope: Envelope) -> Iterator[Envelope]:
    """Yield ever smaller forms of a job: its history goes before other programs' headers."""
    parking = envelope.parking
    if parking is not None:
        if parking.error is not None:
            error = msgspec.structs.replace(
                parking.error, traceback="", message=parking.error.message[:_SHORT]
            )
            parking = msgspec.structs.replace(parking, error=error)
        parking = msgspec.structs.replace(parking, detail=parking.detail[:_SHORT])
        envelope = msgspec.structs.replace(envelope, parking=parking)
        yield envelope
    if envelope.extra:
        _log.warning(
            "large foreign headers left out of a job: they do not fit into a frame",
            job_id=envelope.id,
            queue=envelope.queue,
        )
        kept = {name: value for name, value in envelope.extra.items() if len(repr(value)) < _SHORT}
        yield msgspec.structs.replace(envelope, extra=kept)
        yield msgspec.structs.replace(envelope, extra=None)
