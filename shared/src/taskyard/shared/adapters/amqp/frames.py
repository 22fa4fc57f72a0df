"""AMQP 0-9-1 frames of the hot path, as bytes: publishes, deliveries, confirms and acks.

pika carries everything else, and keeps the connection.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from taskyard.shared.adapters.amqp.fields import (
    Properties,
    read_properties,
    read_short,
    write_short,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE

DELIVER: Final = 0x003C003C
ACK: Final = 0x003C0050
NACK: Final = 0x003C0078
_PUBLISH: Final = 0x003C0028
_BASIC: Final = 60
_MANDATORY: Final = 1

FRAME_HEAD: Final = Struct(">BHL")
METHOD_ID: Final = Struct(">L")
_SIZE: Final = Struct(">Q")
_TAG: Final = Struct(">QB")
_U8: Final = Struct("B")
_ACK_FRAME: Final = Struct(">BHLLQBB")
_HEADER_HEAD: Final = Struct(">BHLHHQ")
#: What a content header needs of its frame besides the properties, in bytes.
HEADER_OVERHEAD: Final = 12

_STRUCT_ERROR: Final = struct.error

Fragment: TypeAlias = bytes | memoryview

#: A body above this is written on its own instead of being copied into a larger write.
_COPY_MAX: Final = 16 * 1024
#: Bodies up to here are written together, however many a batch has.
_SMALL_MAX: Final = 2 * 1024


class Message:
    """A delivery as it came from the wire; `properties` is None if they cannot be read."""

    __slots__ = ("body", "exchange", "properties", "redelivered", "routing_key", "tag")

    def __init__(self, tag: int, redelivered: bool, exchange: str, routing_key: str) -> None:
        """Begin a message; properties and body follow in frames of their own."""
        self.tag = tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties: Properties | None = None
        self.body: bytes = b""


class Receiver(Protocol):
    """What takes the hot frames of one channel."""

    def delivered(self, consumer_tag: str, message: Message) -> None:
        """Take a delivery."""

    def confirmed(self, tag: int, multiple: bool, accepted: bool) -> None:
        """Take a publisher confirm."""


class Inbound:
    """Reads the hot methods of one channel; says which frames are not its own."""

    __slots__ = (
        "_consumer",
        "_consumer_tag",
        "_exchange",
        "_left",
        "_message",
        "_origin",
        "_parts",
        "_receiver",
        "_routing_key",
    )

    def __init__(self, receiver: Receiver) -> None:
        """Read for `receiver`."""
        self._receiver = receiver
        self._message: Message | None = None
        self._consumer = self._origin = b""
        self._consumer_tag = self._exchange = self._routing_key = ""
        self._left = 0
        self._parts: list[bytes] = []

    def method(self, data: bytes, at: int) -> bool:
        """Take the method whose payload begins at an offset; False if it is not a hot one."""
        number = METHOD_ID.unpack_from(data, at)[0]
        if number == DELIVER:
            at += 4
            end = at + 1 + data[at]
            name = data[at:end]
            if name != self._consumer:  # deliveries of one consumer follow each other
                self._consumer, self._consumer_tag = name, read_short(name, 0)[0]
            tag, redelivered = _TAG.unpack_from(data, end)
            at = end + 9
            # Where messages come from is the same for most; the routing key ends the frame.
            split = at + 1 + data[at]
            end = split + 1 + data[split]
            origin = data[at:end]
            if origin != self._origin:
                self._origin = origin
                self._exchange, at = read_short(origin, 0)
                self._routing_key = read_short(origin, at)[0]
            self._message = Message(tag, redelivered != 0, self._exchange, self._routing_key)
            return True
        if number in {ACK, NACK}:
            tag, bits = _TAG.unpack_from(data, at + 4)
            self._receiver.confirmed(tag, (bits & 1) != 0, number == ACK)
            return True
        return False

    def header(self, data: bytes, at: int) -> bool:
        """Take a content header; False if it belongs to a message that pika is reading."""
        message = self._message
        if message is None:
            return False
        try:
            message.properties = read_properties(data, at + 12)
        except (ValueError, IndexError, ArithmeticError, TypeError, _STRUCT_ERROR):
            message.properties = None
        self._left = _SIZE.unpack_from(data, at + 4)[0]
        if self._left == 0:
            self._complete(message)
        return True

    def body(self, data: bytes, at: int, end: int) -> bool:
        """Take a piece of a body; False as for `header`."""
        message = self._message
        if message is None:
            return False
        size = end - at
        if size == self._left and not self._parts:
            message.body = data[at:end]
        else:
            self._parts.append(data[at:end])
            if size < self._left:
                self._left -= size
                return True
            message.body = b"".join(self._parts)
            self._parts = []
        self._complete(message)
        return True

    def _complete(self, message: Message) -> None:
        self._message = None
        self._receiver.delivered(self._consumer_tag, message)


def publish_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    """Return the method frame of a mandatory publish (ValueError when a name is too long)."""
    payload = b"".join(
        (
            METHOD_ID.pack(_PUBLISH),
            b"\0\0",
            write_short(exchange),
            write_short(routing_key),
            _U8.pack(_MANDATORY),
        )
    )
    return FRAME_HEAD.pack(METHOD, channel, len(payload)) + payload + b"\xce"


def content_frames(
    channel: int, properties: bytes, body: bytes, body_max: int
) -> tuple[Fragment, ...]:
    """Return the frames that follow a publish: properties, then the body in pieces.

    Args:
        channel: its number.
        properties: as `write_properties` returns them.
        body: of the message.
        body_max: most bytes of body in a frame.

    """
    size = len(body)
    head = (
        _HEADER_HEAD.pack(HEADER, channel, 12 + len(properties), _BASIC, 0, size)
        + properties
        + b"\xce"
    )
    if size == 0:
        return (head,)
    if size <= body_max:
        return (head + FRAME_HEAD.pack(BODY, channel, size), body, b"\xce")
    frames: list[Fragment] = [head]
    view = memoryview(body)
    for start in range(0, size, body_max):
        piece = view[start : start + body_max]
        frames += (FRAME_HEAD.pack(BODY, channel, len(piece)), piece, b"\xce")
    return tuple(frames)


def ack_frames(channel: int, upto: int, tags: Sequence[int]) -> bytes:
    """Return acks in one piece: of all tags up to `upto` (0 for none), and of `tags` one by one."""
    frames = [_ACK_FRAME.pack(METHOD, channel, 13, ACK, upto, 1, FRAME_END)] if upto else []
    frames += [_ACK_FRAME.pack(METHOD, channel, 13, ACK, tag, 0, FRAME_END) for tag in tags]
    return b"".join(frames)


def writes(fragments: Sequence[Fragment], largest: int = _COPY_MAX + 1) -> list[Fragment]:
    """Gather fragments into few writes, leaving large bodies uncopied.

    Args:
        fragments: in their order.
        largest: no body is larger, in bytes; where all are small they are one write.

    """
    if largest <= _SMALL_MAX:
        return [b"".join(fragments)] if fragments else []
    gathered: list[Fragment] = []
    run: list[Fragment] = []
    size = 0
    for fragment in fragments:
        if len(fragment) > _COPY_MAX:
            if run:
                gathered.append(b"".join(run))
                run, size = [], 0
            gathered.append(memoryview(fragment))
            continue
        run.append(fragment)
        size += len(fragment)
        if size > 4 * _COPY_MAX:
            gathered.append(b"".join(run))
            run, size = [], 0
    if run:
        gathered.append(b"".join(run))
    return gathered
