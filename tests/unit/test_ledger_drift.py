"""What the broker's numbers prove, and how a job is published again (issue 6, 9)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskyard.ledger.drift import Drift, Evidence, Look, behind, judge
from taskyard.ledger.history import PUBLISHED, SET_ASIDE, UNDER_WAY, job_of_envelope, rank_of
from taskyard.ledger.rebuilding import again, parked_again
from taskyard.ledger.recording import REDACTED
from taskyard.shared.broker import DELAYED, FEED, QueueStats
from taskyard.shared.envelope import UNREADABLE, Envelope
from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.wire import CHANGED, RELEASED, REPUBLISHED, RESTARTED

EMPTY = QueueStats(unsettled=0)
GONE = QueueStats(exists=False)


def look(at_ms: int = 0, queue: QueueStats = EMPTY, later: int | None = 0, **feed: Any) -> Look:
    return Look(
        at_ms=at_ms,
        stats={
            "q": queue,
            DELAYED: QueueStats(exists=later is not None, scheduled=later),
            FEED: QueueStats(**{"unsettled": 0, **feed}),
        },
    )


@pytest.mark.parametrize(
    ("first", "second", "empty", "held"),
    [
        (EMPTY, EMPTY, True, 0),
        (GONE, GONE, True, 0),
        (EMPTY, GONE, True, 0),
        (EMPTY, QueueStats(ready=1, unsettled=0), False, 1),
        (QueueStats(ready=1, unsettled=2), EMPTY, False, 3),
        (EMPTY, QueueStats(unsettled=1), False, 1),
        (QueueStats(unsettled=None), EMPTY, False, None),
        (EMPTY, QueueStats(unsettled=None), False, None),
    ],
)
def test_only_two_empty_looks_prove_it(first, second, empty, held):
    """B-33: a queue that held something in either, or of which that is not known, proves nothing."""
    found = judge("q", look(5, first), look(9, second))
    assert (found.empty, found.held, found.at_ms) == (empty, held, 5)
    assert found.exists is second.exists


def test_what_is_due_later_is_told_of_all_or_of_each():
    """B-33: a queue's own number counts where there is one, else that of all queues."""
    assert judge("q", look(later=0), look(later=0)).undelayed
    assert judge("q", look(later=2), look(later=0)).later == 2
    assert not judge("q", look(later=2), look(later=0)).undelayed
    own = QueueStats(unsettled=0, scheduled=0)
    assert judge("q", look(queue=own, later=None), look(queue=own, later=None)).undelayed
    own = QueueStats(unsettled=0, scheduled=3)
    assert judge("q", look(queue=own, later=None), look(queue=own, later=None)).later == 3


def test_when_the_ledger_is_behind():
    """B-33: while the feed holds something, or readers hold something and write nothing."""
    assert behind(look(), moved=False) == ""
    assert behind(look(unsettled=None), moved=False) == ""
    assert "3 feed items" in behind(look(ready=3), moved=True)
    assert "2 feed items in hand" in behind(look(unsettled=2), moved=False)
    assert behind(look(unsettled=2), moved=True) == ""
    assert "has no feed" in behind(look(exists=False), moved=True)


@pytest.mark.parametrize(
    ("drift", "words", "found"),
    [
        (Drift(evidence=Evidence(queue="q", at_ms=0)), "q: nothing is missing", 0),
        (
            Drift(evidence=Evidence(queue="q", at_ms=0, empty=True), missing=2),
            "q: 2 jobs are missing: the queue was empty",
            2,
        ),
        (
            Drift(evidence=Evidence(queue="q", at_ms=0, exists=False, empty=True), missing=2),
            "q: 2 jobs are missing: the queue does not exist",
            2,
        ),
        (
            Drift(evidence=Evidence(queue="q", at_ms=0, held=3), least=4, doubtful=7),
            "q: at least 4 of 7 jobs are missing: the broker holds 3; which ones cannot be told",
            4,
        ),
        (
            Drift(evidence=Evidence(queue="q", at_ms=0, empty=True, held=0, later=9), doubtful=1),
            "q: 1 jobs wait for long: they may be late on the delay queues, which hold 9",
            0,
        ),
        (
            Drift(evidence=Evidence(queue="q", at_ms=0, held=None), doubtful=1),
            "q: 1 jobs wait for long: how many are handed over is known to the management API only",
            0,
        ),
        (
            Drift(evidence=Evidence(queue="q", at_ms=0), parked=5),
            "q: 5 parked jobs are not in the parking lot",
            5,
        ),
    ],
)
def test_it_is_said_in_words(drift, words, found):
    """B-33: what is missing, at least, or in doubt, and why."""
    assert (str(drift), drift.found) == (words, found)


def row(
    state: str, phase: int, envelope: Envelope, packed: bytes | None = None, **fields: Any
) -> Any:
    rank = rank_of(envelope.generation, envelope.attempt, envelope.deliveries, phase)
    asked = job_of_envelope(envelope).request
    assert asked is not None
    return {
        "id": envelope.id,
        "state": state,
        "rank": rank,
        "attempt": envelope.attempt,
        "deliveries": envelope.deliveries,
        "generation": envelope.generation,
        "due_ms": envelope.due_ms,
        "ended_ms": None,
        "detail": None,
        "worker": None,
        "envelope": packed or asked.envelope,
        **fields,
    }


SENT = Envelope(
    id="a", queue="q", task="q.t", enqueued_ms=1000, attempt=2, not_before_ms=5000, extra={"x": 1},
    reply=("r",),
)  # fmt: skip


def test_the_same_job_again():
    """B-33: same id, attempt, due time and reply; one generation on; and it says when."""
    found = again(row("queued", PUBLISHED, SENT), 9000)
    assert found == msgspec.structs.replace(SENT, generation=2, extra={"x": 1, REPUBLISHED: 9000})
    assert job_of_envelope(found).changed_ms == 9000
    assert job_of_envelope(found).created_ms == 1000


def test_a_job_that_ran_counts_one_delivery_more():
    """B-33: so that a job which kills its workers is still found out."""
    found = again(row("running", UNDER_WAY, SENT), 9000)
    assert (found.attempt, found.deliveries, found.generation) == (2, 2, 2)


def test_a_job_that_was_handed_back():
    """B-33: its delivery is not charged."""
    found = again(row("queued", UNDER_WAY, SENT), 9000)
    assert (found.attempt, found.deliveries) == (2, 1)


def test_a_retry_whose_copy_was_never_heard_of():
    """B-33: the next attempt, due when its worker said."""
    found = again(row("queued", SET_ASIDE, SENT, due_ms=77_000), 9000)
    assert (found.attempt, found.deliveries, found.not_before_ms) == (3, 1, 77_000)


def test_a_parked_job_is_as_it_was():
    """B-34: with reason, time, worker and error of its run, in its generation."""
    error = ErrorInfo(type="E", message="m", fingerprint="f")
    parked = row("parked", SET_ASIDE, SENT, detail="exhausted", ended_ms=55, worker="h:1")
    found = parked_again(parked, errors={"a": error})
    assert found.parking is not None
    assert (found.parking.reason, found.parking.at_ms, found.parking.worker) == (
        "exhausted", 55, "h:1",
    )  # fmt: skip
    assert (found.parking.error, found.generation, found.attempt) == (error, 1, 2)
    other = parked_again(parked, errors={}).parking
    assert other is not None
    assert other.error is None


def test_what_cannot_be_read_is_an_error():
    """B-33: nothing is published in its place; nor a job whose arguments are not all there."""
    redacted = msgspec.structs.replace(SENT, content_type=REDACTED)
    for found in (
        row("queued", PUBLISHED, SENT, packed=b"nonsense"),
        row("queued", PUBLISHED, redacted),
    ):
        with pytest.raises(UNREADABLE):
            again(found, 1)


@pytest.mark.parametrize(
    ("extra", "heard_ms"),
    [
        (None, 1000),
        ({"x": 1}, 1000),
        ({RESTARTED: 3000}, 3000),
        ({REPUBLISHED: 4000, RESTARTED: 3000}, 4000),
        ({CHANGED: '{"at":5000,"by":"me"}', REPUBLISHED: 4000}, 5000),
        ({RELEASED: '{"at":6000}'}, 6000),
        ({RELEASED: "nonsense", CHANGED: 7, RESTARTED: "soon"}, 1000),
        ({RELEASED: "[7000]"}, 1000),
        ({REPUBLISHED: 500}, 1000),
    ],
)
def test_when_a_job_was_heard_of_last(extra, heard_ms):
    """B-33: who sends a job again says when, so that it is not missing in the next moment."""
    envelope = msgspec.structs.replace(SENT, extra=extra)
    found = job_of_envelope(envelope)
    assert (found.changed_ms, found.created_ms) == (heard_ms, 1000)
