"""Control records of any origin: what cannot be read changes nothing and stops nobody."""

from __future__ import annotations

import msgspec
import pytest

from taskyard.shared.control import (
    ARRAY,
    ARRAY_BYTES,
    ControlRecord,
    cancel_record,
    concurrency_record,
    decode_records,
    drain_record,
    encode_arrays,
    pause_record,
    reset_concurrency_record,
    resume_record,
    undrain_record,
)
from taskyard.shared.envelope import Envelope
from taskyard.shared.intents import Intents
from taskyard.shared.wire import RESTARTED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[{}]",
        b'[{"key": "\xff\xfe", "op": "pause", "at": 1}]',
        b'{"key": 1}',
        b'[{"key": "", "op": ""}]',
        b'[{"key": "nocolon", "op": "cancel", "body": {"abort": true}}]',
        b'[{"key": "queue:default:pause", "op": "pause", "expires": 1e30}]',
        b'[{"key": "x", "op": "y", "body": {"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}]",
    ],
)
def test_a_record_that_makes_no_sense_is_survived(body: bytes) -> None:
    """A worker reads the log before its first job: one record must not keep it from starting."""
    intents = Intents()
    intents.apply(decode_records(body))
    assert intents.pause_of("default", 0) is None
    assert not intents.cancel_of("nocolon")


@pytest.mark.parametrize(
    ("restarted", "is_cancelled"),
    [(None, True), (999, True), (1000, False), (1001, False), ("soon", True), (b"1001", True)],
)
def test_a_cancel_is_void_for_what_was_restarted_after_it(
    restarted: object, is_cancelled: bool
) -> None:
    """Issue 6, 6: a job that an operator had run again runs, unless it is cancelled anew."""
    intents = Intents()
    intents.apply([cancel_record("a", by="me", at_ms=1000)])
    extra = None if restarted is None else {RESTARTED: restarted}
    envelope = Envelope(id="a", queue="q", task="t", extra=extra)
    assert (intents.cancel_for(envelope) is not None) is is_cancelled
    assert intents.cancel_for(Envelope(id="b", queue="q", task="t")) is None


def test_a_queue_is_paused_by_itself_and_with_all() -> None:
    """ZS-53, ZS-54: each has an end of its own; a queue starts again when neither holds."""
    intents = Intents()
    intents.apply(
        [
            pause_record("mail", by="ann", at_ms=1),
            pause_record("*", by="bob", at_ms=2, until_ms=100),
        ]
    )
    assert [record.by for record in intents.pauses_of("mail", 50)] == ["ann", "bob"]
    assert [record.by for record in intents.pauses_of("shop", 50)] == ["bob"]
    assert [record.by for record in intents.pauses_of("mail", 100)] == ["ann"]
    intents.apply([resume_record("mail", by="ann", at_ms=3)])
    assert [record.by for record in intents.pauses_of("mail", 50)] == ["bob"]
    assert intents.pauses_of("mail", 100) == []


def test_the_last_drain_holds_until_its_end() -> None:
    """BS-15: a later one replaces it, `undrain` ends it, and so does its time."""
    intents = Intents()
    assert intents.drain(0) is None
    intents.apply([drain_record(by="ann", at_ms=1), drain_record(by="bob", at_ms=2, until_ms=9)])
    found = intents.drain(8)
    assert found is not None
    assert found.by == "bob"
    assert intents.drain(9) is None
    intents.apply([undrain_record(by="ann", at_ms=3)])
    assert intents.drain(8) is None


@pytest.mark.parametrize(
    ("slots", "meant"),
    [(1, 1), (65_535, 65_535), (0, None), (-1, None), (65_536, None), (True, None), ("4", None)],
)
def test_slots_are_a_number_or_as_declared(slots: object, meant: int | None) -> None:
    """ZS-51: what makes no sense as a number of slots leaves the queue as it declares itself."""
    intents = Intents()
    record = msgspec.structs.replace(
        concurrency_record("mail", 3, by="ann", at_ms=1), body={"slots": slots}
    )
    intents.apply([record])
    assert intents.concurrency_of("mail") == meant
    assert list(intents.concurrencies()) == (["mail"] if meant else [])
    intents.apply([reset_concurrency_record("mail", by="ann", at_ms=2)])
    assert intents.concurrency_of("mail") is None


def test_records_with_many_arguments_travel_in_smaller_messages() -> None:
    """Also one that is larger than a message should be; all come, in their order."""
    sizes = [10] * 300 + [200_000] * 40 + [2 * ARRAY_BYTES] + [10] * 5
    records = [
        ControlRecord(key=f"job:{n}:change", op="change", body={"text": "x" * size})
        for n, size in enumerate(sizes)
    ]
    bodies = list(encode_arrays(records))
    assert [record for body in bodies for record in decode_records(body)] == records
    for body in bodies:
        inside = len(decode_records(body))
        assert inside == 1 or (len(body) <= ARRAY_BYTES and inside <= ARRAY)
    assert len(bodies) < 30
    assert list(encode_arrays([])) == []
