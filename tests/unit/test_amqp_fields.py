"""Our codec of AMQP tables and properties, held against pika's, and against junk."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pika
import pytest
from hypothesis import given, settings, strategies as st
from pika import data as pika_data

from taskyard.shared.adapters.amqp import fields
from taskyard.shared.adapters.amqp.frames import Inbound, Message

short = st.text(max_size=60)
numbers = st.integers(-(2**63), 2**63 - 1)
scalars = (
    st.booleans()
    | numbers
    | st.text(max_size=200)
    | st.binary(max_size=50)
    | st.none()
    | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    )
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short, inner, max_size=4)
)
tables = st.dictionaries(short, values, max_size=6)


def read_table(data: bytes) -> dict[str, object]:
    found = fields.read_properties(b"\x20\x00" + data, 0)
    assert found.headers is not None
    return dict(found.headers)


@given(tables)
def test_a_table_survives(table: dict[str, object]) -> None:
    """What is written is what is read."""
    assert read_table(fields.write_table(table)) == table


@given(tables)
def test_pika_reads_what_we_write(table: dict[str, object]) -> None:
    """Any AMQP client reads our headers: pika does, to the letter."""
    assert pika_data.decode_table(fields.write_table(table), 0)[0] == table


@given(tables)
def test_we_read_what_pika_writes(table: dict[str, object]) -> None:
    """We read other clients' headers: pika's do, to the letter."""
    pieces: list[bytes] = []
    pika_data.encode_table(pieces, table)
    assert read_table(b"".join(pieces)) == table


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        (b"b", b"\xff", -1),
        (b"B", b"\xff", 255),
        (b"s", b"\xff\xfe", -2),
        (b"u", b"\xff\xff", 65535),
        (b"I", b"\xff\xff\xff\xff", -1),
        (b"i", b"\xff\xff\xff\xff", 2**32 - 1),
        (b"f", b"\x3f\xc0\x00\x00", 1.5),
        (b"d", b"\x3f\xf8\x00\x00\x00\x00\x00\x00", 1.5),
        (b"D", b"\x02\x00\x00\x00\x7b", Decimal("1.23")),
        (b"T", b"\xff" * 8, 2**64 - 1),
        (b"S", b"\x00\x00\x00\x01\xff", b"\xff"),
    ],
)
def test_every_field_type_is_read(kind: bytes, payload: bytes, value: object) -> None:
    """Numbers of all widths, decimals, impossible dates and text that is no UTF-8 are read, and
    can be written again (pika ends the connection over some of them).
    """
    data = b"\x01k" + kind + payload
    table = read_table(len(data).to_bytes(4, "big") + data)
    assert table == {"k": value}
    if value != 2**64 - 1:
        assert read_table(fields.write_table(table)) == table


@pytest.mark.parametrize("value", [2**63, object(), {"deep": [2**70]}])
def test_what_amqp_cannot_carry_is_refused_in_words(value: object) -> None:
    """A header beyond AMQP's types is a `ValueError`, before anything is sent."""
    with pytest.raises(ValueError, match=r"64 bits|cannot be carried"):
        fields.write_table({"k": value})


def test_a_short_text_is_at_most_255_bytes() -> None:
    """Names and ids beyond AMQP's short strings are refused, never cut."""
    assert len(fields.write_short("é" * 127)) == 255
    with pytest.raises(ValueError, match="allows 255"):
        fields.write_short("é" * 128)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": short,
            "content_encoding": short,
            "headers": tables,
            "delivery_mode": st.sampled_from([1, 2]),
            "priority": st.integers(0, 255),
            "correlation_id": short,
            "reply_to": short,
            "expiration": short,
            "message_id": short,
            "timestamp": st.integers(0, 2**63),
            "type": short,
            "user_id": short,
            "app_id": short,
        },
    )
)
def test_properties_agree_with_pika(values: dict[str, object]) -> None:
    """Properties that pika wrote are read alike, whichever are present."""
    theirs = pika.BasicProperties(**values)
    ours = fields.read_properties(b"".join(theirs.encode()), 0)
    for name in values.keys() - {"expiration", "user_id"}:
        assert getattr(ours, name) == values[name]
    again = pika.BasicProperties().decode(fields.write_properties(ours))
    for name in values.keys() - {"expiration", "user_id"}:
        assert getattr(again, name) == values[name]


class _Receiver:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    def delivered(self, consumer_tag: str, message: Message) -> None:
        self.messages.append(message)

    def confirmed(self, tag: int, multiple: bool, accepted: bool) -> None:
        raise AssertionError


@settings(max_examples=500)
@given(st.binary(max_size=200), st.integers(0, 2**16 - 1))
def test_properties_of_junk_never_fail_a_delivery(junk: bytes, flags: int) -> None:
    """A message whose properties are nonsense is delivered all the same, to be parked (B-27)."""
    receiver = _Receiver()
    inbound = Inbound(receiver)
    deliver = b"\x00\x3c\x00\x3c\x01c" + (7).to_bytes(8, "big") + b"\x00\x01e\x01k"
    assert inbound.method(deliver, 0)
    head = b"\x00\x3c\x00\x00" + (0).to_bytes(8, "big") + flags.to_bytes(2, "big")
    assert inbound.header(head + junk, 0)
    (message,) = receiver.messages
    assert message.tag == 7
