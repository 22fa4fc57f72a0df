"""What happens to a delivery before it runs, case by case."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskyard.shared import Queue
from taskyard.shared.broker import Delivery
from taskyard.shared.changes import Standing
from taskyard.shared.control import cancel_record
from taskyard.shared.envelope import Envelope
from taskyard.shared.keyring import KeyRing
from taskyard.shared.metrics import Metrics
from taskyard.shared.states import ParkReason
from taskyard.shared.wire import ENCRYPTED
from taskyard.workers.admit import (
    DEFER,
    DROP,
    MINT,
    RECOUNT,
    REQUEUE,
    RUN,
    Admission,
    Cancel,
    Defer,
    Park,
    Rules,
    Run,
    admit,
)
from taskyard.workers.handler import handlers_of
from taskyard.workers.refuse import refuse
from taskyard.workers.settle import Run as Facts

NOW = 1_000_000


def queue() -> Queue:
    declared = Queue("work", ttr=60)

    @declared.task
    async def known() -> None: ...

    return declared


RULES = Rules(
    queue="work", handlers=handlers_of(queue(), Metrics()), max_deliveries=5, max_ttr_s=1800
)


def envelope(**changes: object) -> Envelope:
    return msgspec.structs.replace(Envelope(id="j", queue="work", task="work.known"), **changes)


def decide(
    losses: int = 0,
    cancelled: bool = False,
    standing: Standing = Standing.CURRENT,
    **fields: Any,
) -> Admission:
    of_envelope = {k: v for k, v in fields.items() if k in Envelope.__struct_fields__}
    of_delivery = {k: v for k, v in fields.items() if k not in of_envelope}
    return admit(
        Delivery(envelope=envelope(**of_envelope), **of_delivery),
        RULES,
        now_ms=NOW,
        losses=losses,
        cancelled=cancel_record("j", by="ann", at_ms=1) if cancelled else None,
        standing=standing,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"task": "known"},
        {"not_before_ms": NOW},
        {"expires_ms": NOW + 1},
        {"attempt": 3, "deliveries": 2},
        {"ttr_ms": 1_800_000},
        {"redelivered": True, "failures": 0},
        {"redelivered": True, "losses": 1},
        {"redelivered": True, "failures": 1, "losses": 1},
    ],
)
def test_a_sound_job_runs(fields):
    """Due, known, in time, not delivered too often: it runs, and nobody is charged."""
    assert decide(**fields) is RUN


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"defect": "the body is not JSON"}, ParkReason.INVALID),
        ({"task": "work.nosuch"}, ParkReason.UNKNOWN_TASK),
        ({"expires_ms": NOW}, ParkReason.EXPIRED),
        ({"expires_ms": NOW - 1, "redelivered": True}, ParkReason.EXPIRED),
        ({"deliveries": 6}, ParkReason.POISON),
        ({"deliveries": 5, "redelivered": True}, ParkReason.POISON),
        ({"deliveries": 1, "redelivered": True, "failures": 5}, ParkReason.POISON),
        ({"ttr_ms": 1_800_001}, ParkReason.INVALID),
    ],
)
def test_what_cannot_run_is_parked_with_its_reason(fields, reason):
    """LQ-10, SQ-04: nothing is dropped; the sixth delivery of one attempt parks it as poison."""
    admission = decide(**fields)
    assert isinstance(admission, Park)
    assert admission.reason is reason
    assert admission.detail


def test_an_unknown_task_is_told_what_is_known():
    """LQ-10: the detail names the queue, the task, and the tasks there are."""
    admission = decide(task="work.nosuch")
    assert isinstance(admission, Park)
    assert "work.nosuch" in admission.detail
    assert "known" in admission.detail


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"redelivered": True}, RECOUNT),
        ({"redelivered": True, "deliveries": 4}, RECOUNT),
        ({"redelivered": True, "failures": 2}, Run(2, isolated=True)),
        ({"redelivered": True, "failures": 2, "losses": 1}, Run(1)),
        ({"anonymous": True}, MINT),
        ({"anonymous": True, "redelivered": True}, MINT),
        ({"not_before_ms": NOW + 1}, REQUEUE),
        ({"cancelled": True}, Cancel("ann")),
        ({"cancelled": True, "deliveries": 9}, Cancel("ann")),
    ],
)
def test_deliveries_are_counted_without_a_database(fields, expected):
    """Where the broker counts, its count is added; elsewhere a copy with one more is published."""
    assert decide(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"standing": Standing.SUPERSEDED}, DROP),
        ({"standing": Standing.SUPERSEDED, "cancelled": True}, DROP),
        ({"standing": Standing.SUPERSEDED, "task": "work.nosuch"}, DROP),
        ({"standing": Standing.UNDECIDED}, DEFER),
        ({"standing": Standing.UNDECIDED, "not_before_ms": NOW + 60_000}, DEFER),
        ({"standing": Standing.UNDECIDED, "cancelled": True}, Cancel("ann")),
    ],
)
def test_what_was_changed_since_is_not_run(fields, expected):
    """ZP-23, B-32: an old form is given up; while it is undecided which counts, the job waits."""
    assert decide(**fields) == expected


def test_an_old_form_leaves_nothing_and_a_deferred_one_comes_again():
    """The one is only acknowledged; of the other a copy is published, due in a second."""
    old = envelope(message_id="m", not_before_ms=NOW)
    facts = Facts(delivery=Delivery(envelope=old), envelope=old, at_ms=NOW, recording=True)
    dropped = refuse(DROP, facts)
    assert (dropped.copies, dropped.park, dropped.record, dropped.replies) == ((), None, None, ())
    (copy,) = refuse(DEFER, facts).copies
    assert copy == msgspec.structs.replace(old, message_id="", not_before_ms=NOW + 1000)


@pytest.mark.parametrize(
    ("asked_ms", "due_ms", "expected_ms"),
    [
        (NOW - 2000, None, NOW + 1000),
        (NOW + 9000, None, NOW + 1000),
        (NOW - 40_000, None, NOW + 10_000),
        (NOW - 86_400_000, None, NOW + 30_000),
        (NOW, NOW + 60_000, NOW + 60_000),
    ],
)
def test_what_waits_long_for_a_coordinator_comes_less_often(asked_ms, due_ms, expected_ms):
    """Where none runs for days, thousands of jobs do not go round each second; none is due too early."""
    old = envelope(not_before_ms=due_ms)
    facts = Facts(delivery=Delivery(envelope=old), envelope=old, at_ms=NOW)
    (copy,) = refuse(Defer(asked_ms), facts).copies
    assert copy.not_before_ms == expected_ms


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"deliveries": 2}, RUN),
        ({"deliveries": 3}, Run(isolated=True)),
        ({"deliveries": 5}, Run(isolated=True)),
        ({"deliveries": 3, "redelivered": True}, RECOUNT),
        ({"redelivered": True, "failures": 1}, Run(1)),
        ({"redelivered": True, "failures": 4}, Run(4, isolated=True)),
        ({"redelivered": True, "failures": 3, "losses": 1}, Run(2, isolated=True)),
        ({"deliveries": 2, "redelivered": True, "failures": 1}, Run(1, isolated=True)),
        ({"deliveries": 3, "redelivered": True, "losses": 1}, Run(isolated=True)),
        ({"deliveries": 6}, Park),
    ],
)
def test_the_third_delivery_is_a_suspect(fields, expected):
    """B-14: two workers died with it, or may have: it runs alone, however the broker counts."""
    admission = decide(**fields)
    assert isinstance(admission, Park) if expected is Park else admission == expected


def refusal(admission: Admission, **changes: object):
    job = envelope(message_id="m1", **changes)
    return refuse(
        admission, Facts(delivery=Delivery(envelope=job), envelope=job, at_ms=NOW, recording=True)
    )


def test_a_recount_publishes_a_copy_with_one_delivery_more_and_no_record():
    """B-13 and the poison guard: the count travels with the job."""
    settlement = refusal(RECOUNT, deliveries=2, attempt=3)
    assert [(c.deliveries, c.attempt, c.message_id) for c in settlement.copies] == [(3, 3, "")]
    assert settlement.record is None


def test_minting_keeps_the_id_and_the_counts():
    """A foreign job is published again with its id before it runs."""
    (copy,) = refusal(MINT, id="minted").copies
    assert (copy.id, copy.deliveries, copy.attempt) == ("minted", 1, 1)


def test_what_could_run_but_may_not_start_is_handed_back_uncharged():
    """LQ-11, B-13: same attempt, same deliveries."""
    settlement = refusal(RUN, deliveries=2, attempt=3)
    assert [(c.deliveries, c.attempt) for c in settlement.copies] == [(2, 3)]
    assert settlement.record is not None
    assert settlement.record.outcome == "handed_back"
    assert settlement.record.run_ms is None


def test_a_park_keeps_everything_and_says_why():
    """The parked copy holds the job as it was, with reason and time."""
    settlement = refusal(Park(ParkReason.EXPIRED, "too late"), priority=7, app="shop")
    parked = settlement.park
    assert parked is not None
    assert parked.parking is not None
    assert (parked.parking.reason, parked.parking.at_ms) == ("expired", NOW)
    assert (parked.priority, parked.app, parked.id) == (7, "shop", "j")


def test_encrypted_arguments_without_their_key_are_parked_as_such() -> None:
    """A worker without the key neither runs the job nor calls its arguments invalid (ZS-21)."""
    for key, words in ((None, "no key ''"), ("k2", "no key 'k2' (it has none)")):
        admission = decide(content_type=ENCRYPTED, enc_key=key, enc_nonce="AAAA")
        assert isinstance(admission, Park)
        assert admission.reason is ParkReason.UNDECRYPTABLE
        assert words in admission.detail
        assert "release the job" in admission.detail


def test_encrypted_arguments_with_their_key_run() -> None:
    """Having the key is enough to admit a job; whether it opens is seen where it runs."""
    delivery = Delivery(envelope=envelope(content_type=ENCRYPTED, enc_key="k1"))
    keys = KeyRing({"k2": b"2" * 32, "k1": b"1" * 32})
    rules = Rules(queue="work", handlers=RULES.handlers, max_deliveries=5, keys=keys)
    assert admit(delivery, rules, now_ms=NOW) is RUN


def test_a_cancel_needs_no_key() -> None:
    """An operator's cancel ends a job that this worker cannot read."""
    assert isinstance(decide(content_type=ENCRYPTED, enc_key="k1", cancelled=True), Cancel)
