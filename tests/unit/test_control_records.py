"""Control records of any origin: what cannot be read changes nothing and stops nobody."""

from __future__ import annotations

import pytest

from taskyard.shared.control import cancel_record, decode_records
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
