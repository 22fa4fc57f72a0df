"""Messages that are ready to be published, and how jobs become such."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from taskyard.shared.adapters.amqp import ladder, wire
from taskyard.shared.adapters.amqp.fields import write_properties

if TYPE_CHECKING:
    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope


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
        return item

    def _message_id(self) -> str:
        self._count += 1
        return f"{self._nonce}-{self._count:x}"

    def _encode(self, envelope: Envelope, exchange: str, key: str, with_queue: bool) -> Outgoing:
        message_id = self._message_id()
        item = Outgoing(exchange, key, b"", envelope.body, message_id)
        item.queue = envelope.queue
        try:
            item.properties = wire.encode(
                envelope, message_id, self._clock.now_ms(), with_queue=with_queue
            )
        except (ValueError, AttributeError, TypeError) as error:
            item.problem = f"the job cannot be written as AMQP: {error}"
        return item
