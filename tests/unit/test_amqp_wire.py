"""Envelopes on the wire: they survive the way, and nothing foreign makes reading fail."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from taskyard.shared import wire as headers
from taskyard.shared.adapters.amqp import wire
from taskyard.shared.adapters.amqp.fields import Properties, read_properties
from taskyard.shared.broker import Delivery
from taskyard.shared.envelope import JSON, Envelope, Parking
from taskyard.shared.outcomes import ErrorInfo

NOW_MS = 1_763_856_000_123

text = st.text(max_size=30)
name = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
instant = st.integers(0, 2**53 - 1)
count = st.integers(1, 2**31 - 1)
parkings = st.builds(
    Parking,
    reason=name,
    at_ms=instant,
    detail=text,
    error=st.none()
    | st.builds(ErrorInfo, type=text, message=text, traceback=text, fingerprint=text),
    worker=text,
)
envelopes = st.fixed_dictionaries(
    {
        "id": name,
        "queue": st.just("checkout"),
        "task": name,
        "body": st.binary(max_size=50),
        "content_type": st.sampled_from([JSON, headers.ENCRYPTED]),
        "priority": st.integers(0, 9),
        "attempt": count,
        "deliveries": count,
        "enqueued_ms": instant,
        "not_before_ms": st.none() | instant,
        "expires_ms": st.none() | instant,
        "ttr_ms": st.none() | instant,
        "app": st.none() | text,
        "context": st.none() | text,
        "parent": st.none() | text,
        "name": st.none() | text,
        "submitted_from": st.none() | text,
        "generation": count,
        "base": st.integers(0, 2**31 - 1),
        "retry": st.none() | text,
        "reply": st.lists(text, max_size=3).map(tuple),
        "traceparent": st.none() | text,
        "enc_key": st.none() | text,
        "enc_nonce": st.none() | text,
        "parking": st.none() | parkings,
        "extra": st.none()
        | st.dictionaries(
            st.sampled_from(["ty-next", "x-mine"]),
            text | st.integers(-100, 2**40) | st.booleans() | st.lists(text, max_size=2),
            min_size=1,
            max_size=3,
        ),
    }
).map(lambda values: Envelope(**cast("Any", values)))


def through(envelope: Envelope, **options: Any) -> Delivery:
    encoded = wire.encode(envelope, "m-1", NOW_MS, with_queue=True)
    return wire.decode(read_properties(encoded, 0), envelope.body, **options)


def foreign(body: bytes = b"{}", **values: Any) -> Delivery:
    properties = Properties()
    properties.__dict__.update(values)
    return wire.decode(properties, body, queue="checkout")


@given(envelopes)
def test_an_envelope_survives_the_way(envelope: Envelope) -> None:
    """All that a job carries arrives: `ty-*` headers of the future and for encryption too
    (LQ-03, ZS-03, LQ-13).
    """
    delivery = through(envelope)
    expected = msgspec.structs.replace(
        envelope, message_id="m-1", extra=dict(envelope.extra) if envelope.extra else None
    )
    assert delivery.envelope == expected
    assert delivery.defect is None
    assert not delivery.anonymous


def test_defaults_are_left_out() -> None:
    """A plain job has one header; everything else is a default or a property."""
    job = Envelope(id="1", queue="checkout", task="checkout.ok", enqueued_ms=NOW_MS)
    found = read_properties(wire.encode(job, "m-1", NOW_MS), 0)
    assert found.headers == {"ty-enqueued": NOW_MS}
    assert found.delivery_mode == 2
    assert found.priority == 4
    assert found.correlation_id == "1"
    assert found.message_id == "m-1"
    assert found.type == "checkout.ok"
    assert found.content_type == JSON
    assert found.timestamp == NOW_MS // 1000


def test_a_name_and_an_origin_are_headers() -> None:
    """ZS-07, ZP-27: in plain text, for programs in any language; and read from these."""
    job = Envelope(id="1", queue="checkout", task="checkout.ok", name="Zoë", submitted_from="web:7")
    found = read_properties(wire.encode(job, "m-1", NOW_MS), 0)
    assert found.headers == {"ty-from": "web:7", "ty-name": "Zoë"}
    again = foreign(headers={"ty-task": "ok", "ty-name": "their's", "ty-from": "php-3:12"})
    assert (again.envelope.name, again.envelope.submitted_from) == ("their's", "php-3:12")
    assert again.envelope.extra is None
    assert (
        foreign(headers={"ty-task": "ok", "ty-name": 7}).defect == "header ty-name is 7, not text"
    )


def test_only_a_task_and_a_body_make_a_job() -> None:
    """A foreign message with the header `ty-task` and JSON is sound; its id is minted (LQ-04)."""
    delivery = foreign(b'{"message": "hi"}', headers={"ty-task": "test"})
    assert delivery.defect is None
    assert delivery.anonymous
    envelope = delivery.envelope
    assert (envelope.task, envelope.queue, envelope.priority) == ("test", "checkout", 4)
    assert (envelope.attempt, envelope.deliveries, envelope.generation) == (1, 1, 1)
    assert envelope.content_type == JSON
    assert len(envelope.id) == 36


def test_the_property_type_names_the_task() -> None:
    """The property wins over the header; an id that is given is kept."""
    delivery = foreign(type="ok", correlation_id="job-1", headers={"ty-task": "other"})
    assert delivery.envelope.task == "ok"
    assert delivery.envelope.id == "job-1"
    assert not delivery.anonymous


def test_numbers_may_come_as_text() -> None:
    """Clients that can only send text headers can still delay and expire a job."""
    delivery = foreign(type="ok", headers={"ty-not-before": "123", "ty-attempt": "2"})
    assert delivery.envelope.not_before_ms == 123
    assert delivery.envelope.attempt == 2
    assert delivery.defect is None


def test_the_timestamp_stands_in_for_the_enqueued_time() -> None:
    """A foreign message's own timestamp (seconds) tells how long it waited."""
    assert foreign(type="ok", timestamp=1_763_856_000).envelope.enqueued_ms == 1_763_856_000_000


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "no task is named"),
        ({"type": "", "headers": {}}, "no task is named"),
        ({"type": "ok", "headers": {"ty-attempt": "x"}}, "header ty-attempt is 'x', not a number"),
        ({"type": "ok", "headers": {"ty-attempt": 0}}, "not a number from 1"),
        ({"type": "ok", "headers": {"ty-not-before": -1}}, "not milliseconds"),
        ({"type": "ok", "headers": {"ty-expires": 1.5}}, "not milliseconds"),
        ({"type": "ok", "headers": {"ty-context": b"\xff"}}, "not text"),
        ({"type": "ok", "headers": {"ty-reply": {"a": 1}}}, "not a list of addresses"),
        ({"type": "ok", "headers": {"ty-v": 2}}, "version 1, the one that this program reads"),
        ({"type": "ok", "headers": {"ty-attempt": True}}, "not a number from 1"),
        ({"type": "ok", "content_encoding": "gzip"}, "content encoding 'gzip'"),
    ],
)
def test_a_defect_is_said_in_words(values: dict[str, Any], words: str) -> None:
    """What cannot be run is delivered with its defect, to be parked with that text (B-27)."""
    assert words in (foreign(**values).defect or "")


def test_properties_that_cannot_be_read_are_a_defect() -> None:
    """The body is kept even then."""
    delivery = wire.decode(None, b"body", queue="checkout", token=5)
    assert delivery.defect == "the message's properties cannot be read"
    assert delivery.envelope.body == b"body"
    assert delivery.token == 5


@pytest.mark.parametrize(("given_priority", "read"), [(None, 4), (0, 0), (9, 9), (10, 9), (255, 9)])
def test_priorities_are_clamped(given_priority: int | None, read: int) -> None:
    """No priority means normal, never lowest; above nine is nine."""
    assert foreign(type="ok", priority=given_priority).envelope.priority == read


@pytest.mark.parametrize(
    "header",
    [
        "x-death",
        "x-first-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
        "CC",
        "BCC",
    ],
)
def test_what_belongs_to_the_broker_is_not_published_again(header: str) -> None:
    """Older brokers drop a job that comes with its own `x-death`; `CC` would multiply it."""
    delivery = foreign(type="ok", correlation_id="1", headers={header: ["a"], "x-own": 1})
    assert delivery.envelope.extra == {"x-own": 1}


def test_failures_are_only_told_where_they_are_counted() -> None:
    """`x-delivery-count` is exact on some queues only; elsewhere it is not believed."""
    properties = Properties()
    properties.type = "ok"
    properties.headers = {"x-delivery-count": 3}
    assert wire.decode(properties, b"", queue="q").failures is None
    assert wire.decode(properties, b"", queue="q", counted=True).failures == 3
    properties.headers = None
    assert wire.decode(properties, b"", queue="q", counted=True).failures == 0
    handed_back = {"x-acquired-count": 1}
    for counts, failures in ((None, 1), (handed_back, 0), ({"x-delivery-count": 0}, 0)):
        properties.headers = counts
        again = wire.decode(properties, b"", queue="q", counted=True, redelivered=True)
        assert again.failures == failures


def test_a_park_error_that_cannot_be_read_loses_nothing() -> None:
    """The reason stays, and the job is sound."""
    delivery = foreign(type="ok", headers={"ty-park-reason": "held", "ty-park-error": "{"})
    assert delivery.envelope.parking == Parking(reason="held")
    assert delivery.defect is None


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(sorted(headers._READERS)) | text, _junk, max_size=8),
    st.none() | text,
    st.none() | text,
    st.none() | st.integers(0, 255),
    st.none() | st.integers(0, 2**64 - 1),
    st.binary(max_size=20),
    st.booleans(),
)
def test_nothing_foreign_makes_reading_fail(
    table: dict[str, object],
    kind: str | None,
    correlation_id: str | None,
    priority: int | None,
    timestamp: int | None,
    body: bytes,
    counted: bool,
) -> None:
    """Whatever is in a message, it becomes a delivery, sound or with a defect (B-27, LQ-04)."""
    properties = Properties()
    properties.headers = table
    properties.type = kind
    properties.correlation_id = correlation_id
    properties.priority = priority
    properties.timestamp = timestamp
    delivery = wire.decode(properties, body, queue="checkout", counted=counted)
    assert delivery.envelope.queue == "checkout"
    assert delivery.envelope.body == body
    assert 0 <= delivery.envelope.priority <= 9
    assert delivery.envelope.id


DEEP = '{"x":' + "[" * 20_000 + "]" * 20_000 + ',"type":"t"}'


@pytest.mark.parametrize(
    "name", [headers.PARK_ERROR, headers.RETRY, headers.CONTEXT, headers.REPLY, headers.V]
)
def test_json_nested_too_deeply_in_a_header_is_read_without_failing(name: str) -> None:
    """A message that exhausts a reader's stack would end each worker that it is given to."""
    found = Properties()
    found.headers = {headers.TASK: "t", headers.PARK_REASON: "held", name: DEEP}
    delivery = wire.decode(found, b"{}", queue="q")
    assert delivery.envelope.task == "t"


@pytest.mark.parametrize("kind", [b"A", b"F"])
def test_header_fields_nested_too_deeply_cannot_be_read(kind: bytes) -> None:
    """They make the message's properties unreadable, not the program that reads them."""
    value = b""
    for _ in range(5000):
        inner = b"\x01x" + kind + value if kind == b"F" and value else kind + value
        value = len(inner).to_bytes(4, "big") + inner if value else b"\0\0\0\0"
    table = b"\x01d" + kind + value
    data = b"\x20\x00" + len(table).to_bytes(4, "big") + table
    with pytest.raises(ValueError, match="nested"):
        read_properties(data, 0)
