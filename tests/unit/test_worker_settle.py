"""From outcomes to settlements: every class of outcome, and what travels with it."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from hypothesis import given, strategies as st

from taskyard.shared.broker import Delivery
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import decode_reply
from taskyard.shared.outcomes import (
    Cancelled,
    ErrorInfo,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Retried,
    Succeeded,
)
from taskyard.shared.states import FailureKind, ParkReason
from taskyard.workers.settle import Run, settle, started_record

ERROR = ErrorInfo(type="ValueError", message="no", traceback="…", fingerprint="ValueError at x")
OUTCOMES: list[Outcome] = [
    Succeeded(value={"a": 1}),
    Retried(delay_ms=500, error=ERROR),
    Parked(reason=ParkReason.EXHAUSTED, detail="spent", error=ERROR),
    Failed(kind=FailureKind.LOGICAL, message="no"),
    Cancelled(by="ann", aborted=True),
    HandedBack(),
    HandedBack(reason="its process died", charged=True),
]


def run(*, recording: bool = True, started: int | None = 1_000, **changes: object) -> Run:
    envelope = Envelope(
        id="j",
        queue="work",
        task="work.t",
        priority=7,
        attempt=2,
        deliveries=3,
        enqueued_ms=100,
        not_before_ms=900,
        ttr_ms=5_000,
        context='{"tenant":"a"}',
        parent="p",
        base=1,
        message_id="m1",
        extra={"ty-later": 1},
    )
    envelope = msgspec.structs.replace(envelope, **changes)
    return Run(
        delivery=Delivery(envelope=envelope),
        envelope=envelope,
        at_ms=1_500,
        started_ms=started,
        recording=recording,
        worker="host:1",
    )


@pytest.mark.parametrize(
    ("outcome", "recording", "reply"), list(product(OUTCOMES, [True, False], [(), ("x", "y")]))
)
def test_every_outcome_settles_its_delivery(outcome, recording, reply):
    """Records exist exactly when the feed does, replies exactly when the job is over."""
    facts = run(recording=recording, reply=reply)
    settlement = settle(outcome, facts)
    over = not isinstance(outcome, (Retried, HandedBack))
    assert settlement.delivery is facts.delivery
    assert (settlement.record is not None) is recording
    assert [address for address, _ in settlement.replies] == (list(reply) if over else [])
    assert bool(settlement.copies) is isinstance(outcome, (Retried, HandedBack))
    assert (settlement.park is not None) is isinstance(outcome, Parked)


def test_a_plain_success_is_a_bare_acknowledgement():
    """Without feed and reply there is nothing to publish."""
    settlement = settle(Succeeded(value=1), run(recording=False))
    assert not settlement.publishes
    assert settlement.record is None
    assert settlement.replies == ()


def test_a_retry_is_the_same_job_one_attempt_later():
    """BS-05, GM-04, ZS-33: id, priority, ttr, context and unknown headers stay; deliveries restart."""
    facts = run()
    (copy,) = settle(Retried(delay_ms=500), facts).copies
    expected = msgspec.structs.replace(
        facts.envelope, attempt=3, deliveries=1, not_before_ms=2_000, message_id=""
    )
    assert copy == expected


def test_a_retry_may_change_the_priority():
    """`Retry(priority=)` is the one way a retry changes it."""
    (copy,) = settle(Retried(delay_ms=0, priority=9), run()).copies
    assert copy.priority == 9


def test_a_hand_back_repeats_attempt_and_deliveries():
    """B-13: who was interrupted is not charged."""
    facts = run()
    (copy,) = settle(HandedBack(reason="stopping"), facts).copies
    assert copy == msgspec.structs.replace(facts.envelope, message_id="")


def test_a_park_says_why_when_and_who():
    """LQ-16, GM-02, GM-03: reason, detail, error and worker travel with the parked job."""
    parked = settle(Parked(reason=ParkReason.HELD, detail="look at it", error=ERROR), run()).park
    assert parked is not None
    parking = parked.parking
    assert parking is not None
    assert (parking.reason, parking.detail, parking.error) == ("held", "look at it", ERROR)
    assert (parking.at_ms, parking.worker) == (1_500, "host:1")
    assert parked.attempt == 2


def test_a_record_identifies_its_run():
    """Design §12: job, attempt, deliveries and message tell runs apart."""
    record = settle(Succeeded(value=[1]), run()).record
    assert record is not None
    assert (record.job, record.attempt, record.deliveries, record.message) == ("j", 2, 3, "m1")
    assert (record.outcome, record.wait_ms, record.run_ms) == ("succeeded", 100, 500)
    assert record.value is not None
    assert bytes(record.value) == b"[1]"


def test_a_reply_carries_the_value_and_the_failure():
    """The requester learns the value, or kind and error."""
    ((_, body),) = settle(Succeeded(value={"n": 1}), run(reply=("a",))).replies
    reply = decode_reply(body)
    assert (reply.outcome, bytes(reply.value or b"")) == ("succeeded", b'{"n":1}')
    ((_, body),) = settle(Failed(kind=FailureKind.LOGICAL, message="no"), run(reply=("a",))).replies
    reply = decode_reply(body)
    assert (reply.outcome, reply.detail, reply.message) == ("failed", "logical", "no")


def test_a_value_without_json_form_does_not_undo_the_work():
    """The job has succeeded; its value is left out, and the record says so."""
    record = settle(Succeeded(value=object()), run()).record
    assert record is not None
    assert record.outcome == "succeeded"
    assert record.value is None
    assert record.detail


def test_started_records_carry_the_same_identity():
    """A reader joins `started` and `finished` by the four fields."""
    envelope = run().envelope
    record = started_record(envelope, started_ms=1_000, worker="w")
    assert (record.event, record.job, record.attempt) == ("started", "j", 2)
    assert (record.deliveries, record.message, record.wait_ms) == (3, "m1", 100)


@given(delay_ms=st.integers(0, 10**9), attempt=st.integers(1, 99), priority=st.integers(0, 9))
def test_a_retry_never_loses_its_place_in_the_count(delay_ms, attempt, priority):
    """Whatever the attempt and the delay, the copy is one attempt on and due in time."""
    (copy,) = settle(Retried(delay_ms=delay_ms), run(attempt=attempt, priority=priority)).copies
    assert (copy.attempt, copy.deliveries) == (attempt + 1, 1)
    assert (copy.priority, copy.not_before_ms) == (priority, 1_500 + delay_ms)
