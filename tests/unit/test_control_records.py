"""Control records of any origin: what cannot be read changes nothing and stops nobody."""

from __future__ import annotations

import pytest

from taskyard.shared.control import Intents, decode_records


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
