"""What becomes of a job that is to be changed or cancelled, given where it stands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskyard.ledger.changing import (
    Done,
    End,
    Leave,
    Publish,
    Refuse,
    Replace,
    SetAside,
    TakeUp,
    end_of,
    step_of,
)
from taskyard.ledger.requests import BATCH, GRACE_S, Requests
from taskyard.shared.changes import (
    ANSWER_KEPT_MS,
    KEPT_MS,
    Answer,
    Asked,
    Change,
    Start,
    answer_record,
    asked_of,
    change_record,
    changed_record,
    start_record,
)
from taskyard.shared.control import ControlRecord, cancel_record
from taskyard.shared.envelope import Envelope
from taskyard.shared.wire import CHANGED, ENCRYPTED, RESTARTED

NOW_MS = 1_800_000_000_000


def row(state: str = "queued", envelope: Envelope | None = None, **fields: Any) -> Any:
    known = envelope or Envelope(id="j", queue="q", task="q.t", body=b'{"n":1}', priority=3)
    return {
        "id": "j", "state": state, "attempt": 2, "generation": 4, "deliveries": 1,
        "worker": "host:1", "started_ms": None, "envelope": msgspec.msgpack.encode(known), **fields,
    }  # fmt: skip


def step(found: Any, generation: int = 5, **change: Any) -> Any:
    wish = Asked(generation=generation, token="t", change=Change(**change))
    return step_of(found, wish, by="me", now_ms=NOW_MS)


def test_what_is_not_named_stays_as_it_is():
    """The new form differs in generation, attempt (the job's), what was asked for, and a note."""
    found = step(row(), priority=9)
    assert isinstance(found, Publish)
    new = found.envelope
    assert (new.priority, new.body, new.not_before_ms) == (9, b'{"n":1}', None)
    assert (new.generation, new.attempt, new.message_id) == (5, 2, "")
    assert new.extra is not None
    assert msgspec.json.decode(str(new.extra[CHANGED])) == {"by": "me", "at": NOW_MS, "token": "t"}
    assert step(row(), due_ms=NOW_MS + 5).envelope.not_before_ms == NOW_MS + 5
    assert step(row(), due_ms=0).envelope.not_before_ms == NOW_MS
    assert step(row(), arguments={"n": 2}).envelope.body == b'{"n":2}'


def test_suspended_and_resumed():
    """ZP-20: aside as suspended, taken up again as it was; what is changed meanwhile stays aside."""
    aside = step(row(), suspend=True)
    assert isinstance(aside, SetAside)
    assert aside.envelope.parking is not None
    assert aside.envelope.parking.reason == "suspended"
    up = step(row("suspended"), suspend=False)
    assert isinstance(up, TakeUp)
    assert up.envelope.parking is None
    assert isinstance(step(row("suspended"), priority=1), Replace)


def test_found_done():
    """Whoever did it died before it could say so: the token on the job tells."""
    published = step(row(), priority=9).envelope
    assert isinstance(step(row(envelope=published, generation=5), priority=9), Done)


@pytest.mark.parametrize(
    ("found", "change", "word"),
    [
        (None, {"priority": 1}, "knows no such job"),
        (row(envelope=None) | {"envelope": None}, {"priority": 1}, "does not hold"),
        (row() | {"envelope": b"\xff"}, {"priority": 1}, "cannot read"),
        (row("succeeded"), {"priority": 1}, "over: succeeded"),
        (row("running"), {"priority": 1}, "attempt 2 on host:1"),
        (row("parked"), {"priority": 1}, "taskyard parked"),
        (row(generation=5), {"priority": 1}, "meanwhile"),
        (row("suspended"), {"suspend": True}, "already"),
        (row(), {"suspend": False}, "queued, not suspended"),
        (
            row(envelope=Envelope(id="j", queue="q", task="q.t", expires_ms=NOW_MS + 5)),
            {"due_ms": NOW_MS + 5},
            "expires",
        ),
        (
            row(envelope=Envelope(id="j", queue="q", task="q.t", content_type=ENCRYPTED)),
            {"arguments": {}},
            "encrypted",
        ),
    ],
)
def test_what_cannot_be_changed(found, change, word):
    """Each is refused with what it is, and nothing is done."""
    refusal = step(found, **change)
    assert isinstance(refusal, Refuse)
    assert word in refusal.text


@pytest.mark.parametrize(
    ("found", "kind", "word"),
    [
        (None, Leave, "knows no such job"),
        (row("succeeded"), Refuse, "over: succeeded"),
        (row("cancelled"), Leave, "before attempt 2 started"),
        (row("cancelled", started_ms=5), Leave, "had started"),
        (row("running"), Leave, "host:1"),
        (row("parked"), Leave, "parked"),
        (row() | {"envelope": None}, Leave, "no worker"),
        (row(), End, "before attempt 2 started"),
        (row("suspended"), End, "before attempt 2 started"),
        (
            row(envelope=Envelope(id="j", queue="q", task="q.t", extra={RESTARTED: NOW_MS})),
            Refuse,
            "restarted",
        ),
    ],
)
def test_what_a_cancel_comes_to(found, kind, word):
    """ZS-35: what had happened by then is said, whatever it was."""
    end = end_of(found, asked_ms=NOW_MS)
    assert type(end) is kind
    assert word in end.text
    if isinstance(end, End):
        assert end.aside is (found["state"] == "suspended")


# ---------------------------------------------------------------- what is open


def change(job: str, token: str) -> ControlRecord:
    wish = Asked(generation=2, token=token, change=Change(priority=1))
    return change_record(job, wish, by="me", at_ms=NOW_MS)


def take(requests: Requests, *records: ControlRecord, now_s: float = 0.0) -> None:
    requests.take(records, now_ms=NOW_MS, now_s=now_s, inherited=False)


def test_a_request_is_open_until_it_is_answered():
    """Also where it is written again, as live intents are; an answer is remembered."""
    requests = Requests()
    wish, cancel = change("a", "t1"), cancel_record("b", by="me", at_ms=NOW_MS, token="t2")
    take(requests, wish, cancel, wish)
    assert list(requests.open) == ["t1", "t2"]
    asked = requests.open["t1"].asked
    assert asked is not None
    take(requests, changed_record("a", asked, by="me", at_ms=NOW_MS, until_ms=NOW_MS))
    take(requests, answer_record("b", Answer(of="t2", done=True), by="me", at_ms=NOW_MS))
    take(requests, wish, cancel)
    assert requests.open == {}
    assert requests.published["a"].asked.token == "t1"


def test_nobody_waits_for_an_old_cancel():
    """Its answer was forgotten long ago: it must not be acted on again."""
    requests = Requests()
    take(requests, cancel_record("a", by="me", at_ms=NOW_MS - ANSWER_KEPT_MS, token="t"))
    take(requests, cancel_record("b", by="me", at_ms=NOW_MS))  # nobody waits for this one
    assert requests.open == {}


def test_they_are_ripe_after_the_grace_each_job_once():
    """Two of one job are carried out one after the other."""
    requests = Requests()
    assert requests.next_s() is None
    take(requests, change("a", "t1"), change("b", "t2"), now_s=10.0)
    take(requests, change("a", "t3"), now_s=10.5)
    assert requests.next_s() == 10.0 + GRACE_S
    assert requests.ripe(10.0 + GRACE_S - 0.1) == []
    assert [r.token for r in requests.ripe(10.0 + GRACE_S)] == ["t1", "t2"]
    assert [r.token for r in requests.ripe(20.0)] == ["t1", "t2"]
    take(requests, start_record("a", Start(of="t1", worker="host:1"), at_ms=1))
    assert requests.starts["t1"].worker == "host:1"
    take(requests, *(change(f"x{n}", f"x{n}") for n in range(BATCH + 5)))
    assert len(requests.ripe(99.0)) == BATCH


def test_what_is_over_is_forgotten():
    """Changes whose old messages cannot come any more, and starts that nobody waits for."""
    requests = Requests()
    late = Start(of="t0", worker="host:1")
    wish = asked_of(change("a", "t0"))
    assert wish is not None
    for n in range(3000):
        ended = changed_record(f"x{n}", wish, by="me", at_ms=NOW_MS - 2 * KEPT_MS, until_ms=0)
        take(requests, ended)
    assert len(requests.published) <= 1001
    take(requests, changed_record("a", wish, by="me", at_ms=NOW_MS, until_ms=NOW_MS + 7))
    assert requests.published["a"].until_ms == NOW_MS + 7
    take(requests, start_record("a", late, at_ms=1))
    assert requests.starts == {}
