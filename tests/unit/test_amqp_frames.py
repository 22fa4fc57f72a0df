"""Frames as bytes: read in pieces of any size, and written as pika reads them."""

from __future__ import annotations

from typing import Any

import pika
from hypothesis import given, strategies as st
from pika import frame, spec

from taskyard.shared.adapters.amqp import fields, frames
from taskyard.shared.adapters.amqp.connection import Connection
from taskyard.shared.adapters.amqp.frames import Inbound, Message
from taskyard.shared.adapters.amqp.intake import Intake, Token

BODY_MAX = 100


class Receiver:
    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.confirms: list[tuple[int, bool, bool]] = []

    def delivered(self, consumer_tag: str, message: Message) -> None:
        self.messages.append((consumer_tag, message))

    def confirmed(self, tag: int, multiple: bool, accepted: bool) -> None:
        self.confirms.append((tag, multiple, accepted))


class Wire(Connection):
    """A connection without a socket."""

    def __init__(self, receiver: Receiver) -> None:
        self.inbound = {1: Inbound(receiver)}
        self.bytes_received = 0
        self._rest = b""
        self.others: list[Any] = []

    def _process_frame(self, frame_value: Any) -> None:
        self.others.append(frame_value)


def delivery(tag: int, body: bytes) -> bytes:
    method = spec.Basic.Deliver("ctag", tag, tag % 2 == 0, "exchange", "key")
    parts = [
        frame.Method(1, method).marshal(),
        frame.Header(1, len(body), pika.BasicProperties(message_id=f"m{tag}")).marshal(),
    ]
    pieces = [body[start : start + BODY_MAX] for start in range(0, len(body), BODY_MAX)]
    return b"".join([*parts, *(frame.Body(1, piece).marshal() for piece in pieces)])


@given(
    st.lists(st.binary(max_size=350), max_size=6),
    st.lists(st.integers(1, 80), min_size=1, max_size=50),
)
def test_deliveries_arrive_whole_however_the_stream_is_cut(
    bodies: list[bytes], cuts: list[int]
) -> None:
    """TCP cuts the stream anywhere; messages, their order and other frames are not disturbed."""
    stream = frame.Heartbeat().marshal()
    for tag, body in enumerate(bodies, 1):
        stream += delivery(tag, body) + frame.Method(2, spec.Basic.QosOk()).marshal()
    receiver = Receiver()
    connection = Wire(receiver)
    at, turn = 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        connection._on_data_available(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert [(m.tag, m.redelivered, m.body) for _, m in receiver.messages] == [
        (tag, tag % 2 == 0, body) for tag, body in enumerate(bodies, 1)
    ]
    for consumer_tag, message in receiver.messages:
        assert consumer_tag == "ctag"
        assert (message.exchange, message.routing_key) == ("exchange", "key")
        assert message.properties is not None
        assert message.properties.message_id == f"m{message.tag}"
    assert len(connection.others) == 1 + len(bodies)
    assert connection.bytes_received == len(stream)


def test_each_delivery_names_its_own_consumer_and_origin() -> None:
    """However consumers and exchanges take turns on one channel, and wherever the stream is cut."""
    origins = [
        ("a", "tasks", "q"),
        ("b", "tasks", "q"),
        ("a", "", "tasksq"),
        ("a", "t", "asksq"),
        ("", "", ""),
        ("a", "tasks", "ü"),
        ("a", "tasks", "q"),
    ]
    stream = b""
    for tag, (consumer, exchange, key) in enumerate(origins, 1):
        deliver = spec.Basic.Deliver(consumer, tag, False, exchange, key)
        stream += frame.Method(1, deliver).marshal()
        stream += frame.Header(1, 0, pika.BasicProperties()).marshal()
    for cut in range(len(stream) + 1):
        receiver = Receiver()
        connection = Wire(receiver)
        connection._on_data_available(stream[:cut])
        connection._on_data_available(stream[cut:])
        found = [(tag, m.exchange, m.routing_key) for tag, m in receiver.messages]
        assert found == origins


def test_confirms_are_read() -> None:
    """Acks and nacks of publishes, single and multiple."""
    receiver = Receiver()
    Wire(receiver)._on_data_available(
        frame.Method(1, spec.Basic.Ack(5, True)).marshal()
        + frame.Method(1, spec.Basic.Nack(7, False)).marshal()
    )
    assert receiver.confirms == [(5, True, True), (7, False, False)]


def read_all(data: bytes) -> list[Any]:
    found = []
    while data:
        used, value = frame.decode_frame(data)
        assert value is not None
        found.append(value)
        data = data[used:]
    return found


@given(st.binary(max_size=350))
def test_pika_reads_what_we_publish(body: bytes) -> None:
    """A mandatory publish, its properties and its body in pieces."""
    properties = fields.write_properties(fields.properties(message_id="m", priority=3))
    fragments: list[frames.Fragment] = [frames.publish_frame(1, "taskyard.tasks", "checkout")]
    fragments += frames.content_frames(1, properties, body, BODY_MAX)
    method, header, *pieces = read_all(b"".join(map(bytes, frames.writes(fragments))))
    assert (method.method.exchange, method.method.routing_key) == ("taskyard.tasks", "checkout")
    assert method.method.mandatory
    assert header.body_size == len(body)
    assert header.properties.priority == 3
    assert header.properties.delivery_mode == 2
    assert b"".join(piece.fragment for piece in pieces) == body
    assert all(len(piece.fragment) <= BODY_MAX for piece in pieces)


def test_large_bodies_are_not_copied() -> None:
    """A large body is written as it is; small fragments are gathered."""
    body = b"x" * 100_000
    fragments = frames.content_frames(1, b"\0\0", body, 131_000)
    written = frames.writes([b"small", *fragments, b"small"])
    assert any(isinstance(data, memoryview) and data.obj is body for data in written)
    assert len(written) == 3


class _Connection:
    def __init__(self) -> None:
        self.written = b""

    def emit(self, data: bytes) -> None:
        self.written += data


class _Channel:
    number = 1
    is_open = True

    def __init__(self) -> None:
        self.connection = _Connection()


class _Server:
    """What RabbitMQ does with acks: an unknown tag closes the channel."""

    def __init__(self) -> None:
        self.unacked: list[int] = []

    def take(self, data: bytes) -> None:
        for value in read_all(data):
            tag = value.method.delivery_tag
            assert tag in self.unacked, "PRECONDITION_FAILED - unknown delivery tag"
            if value.method.multiple:
                self.unacked = [other for other in self.unacked if other > tag]
            else:
                self.unacked.remove(tag)


@given(st.data())
def test_acks_cover_what_was_settled_and_nothing_else(data: st.DataObject) -> None:
    """Whatever the order of settling, no running job is acknowledged with another (promise 2)."""
    channel, server = _Channel(), _Server()
    intake = Intake(channel)  # type: ignore[arg-type]
    open_tokens: list[Token] = []
    delivered = 0
    for _ in range(data.draw(st.integers(1, 25))):
        for _ in range(data.draw(st.integers(0, 5))):
            delivered += 1
            open_tokens.append(intake.arrived(delivered))
            server.unacked.append(delivered)
        if open_tokens:
            chosen = data.draw(st.lists(st.sampled_from(open_tokens), unique=True, min_size=1))
            open_tokens = [token for token in open_tokens if token not in chosen]
            intake.ack(chosen)
            server.take(channel.connection.written)
            channel.connection.written = b""
            assert all(token.tag == 0 for token in chosen)
        assert server.unacked == [token.tag for token in open_tokens]
        assert intake.unsettled == len(open_tokens)


def test_a_run_from_the_lowest_tag_is_one_frame() -> None:
    """Settling everything in order costs one ack, not one for each."""
    channel = _Channel()
    intake = Intake(channel)  # type: ignore[arg-type]
    tokens = [intake.arrived(tag) for tag in range(1, 101)]
    intake.ack(list(reversed(tokens)))
    (value,) = read_all(channel.connection.written)
    assert value.method.multiple
    assert value.method.delivery_tag == 100
