"""Why a job is not running: of several causes the one that has to go first."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.ledger.explaining import Facts, explain
from taskyard.ledger.lookup import Counters, History
from taskyard.ledger.reading import JobRow
from taskyard.ledger.rows import Run
from taskyard.shared.broker import QueueStats
from taskyard.shared.control import cancel_record, pause_record

NOW_MS = 1_800_000_000_000
PAUSE = pause_record("q", by="ann", at_ms=NOW_MS - 5000, until_ms=NOW_MS + 60_000, reason="audit")
CANCEL = cancel_record("a", by="bob", at_ms=NOW_MS - 5000)


def facts(*runs: Run, state: str = "queued", due_ms: int | None = None, **known: Any) -> Facts:
    row = JobRow(
        id="a", queue="q", task="q.t", state=state, detail=known.pop("detail", None), ok=None, priority=4,
        app=None, tenant=None, parent=None, name=None, submitted_from=None, kept=False, attempt=1, deliveries=1, generation=1,
        created_ms=NOW_MS - 10_000, changed_ms=NOW_MS, due_ms=due_ms, started_ms=known.pop("started_ms", None),
        ended_ms=known.pop("ended_ms", None), expires_ms=None, ttr_ms=known.pop("ttr_ms", None),
        worker="host:1", error_type=known.pop("error_type", None), error_message="no", fingerprint=None,
    )  # fmt: skip
    counters = Counters(reserves=0, timeouts=0, releases=0, holds=0, unholds=0, handbacks=0)
    history = History(job=row, counters=counters, runs=list(runs), trace=None)
    queue = known.pop("queue", QueueStats(ready=1, unsettled=0, consumers=1))
    return Facts(history=history, now_ms=NOW_MS, queue=queue, **known)


def retried(due_ms: int) -> Run:
    return Run(
        job="a", attempt=1, deliveries=1, message="m", generation=1, queue="q", task="q.t",
        outcome="retried", due_ms=due_ms, error_type="ValueError", error_message="no",
    )  # fmt: skip


LATER = NOW_MS + 60_000


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        (facts(due_ms=LATER, cancel=CANCEL, pause=PAUSE), "cancelled"),
        (facts(due_ms=LATER, pause=PAUSE, queue=QueueStats(exists=False)), "no_queue"),
        (facts(due_ms=LATER, pause=PAUSE), "scheduled"),
        (facts(retried(LATER), due_ms=LATER), "retry"),
        (facts(retried(LATER - 1), due_ms=LATER), "scheduled"),
        (facts(pause=PAUSE, queue=QueueStats(ready=1, consumers=0)), "paused"),
        (facts(queue=QueueStats(ready=1, consumers=0)), "no_worker"),
        (facts(queue=QueueStats(ready=1, consumers=None)), "next"),
        (facts(queue=QueueStats(ready=0, unsettled=0, consumers=1), ahead=3), "missing"),
        (facts(ahead=3, running=1), "behind"),
        (facts(), "next"),
        (facts(state="parked", detail="held", ended_ms=NOW_MS), "parked"),
        (facts(state="running", started_ms=NOW_MS - 1000, cancel=CANCEL), "running"),
        (facts(state="succeeded", ended_ms=NOW_MS), "succeeded"),
        (facts(state="failed", detail="logical", ended_ms=NOW_MS), "failed"),
        (facts(state="cancelled", ended_ms=NOW_MS), "cancelled"),
    ],
)
def test_one_cause(known, cause):
    """Issue 6, 8: one cause, in a sentence that says since when and by whom."""
    found = explain(known)
    assert found.cause == cause
    assert found.text


def test_what_people_read():
    assert explain(facts(pause=PAUSE)).text == (
        "queue q is paused by ann since 2027-01-15T07:59:55Z until 2027-01-15T08:01:00Z: audit"
    )
    assert "10000 or more jobs" in explain(facts(ahead=10_000, more=True)).text
    running = facts(state="running", started_ms=NOW_MS - 90_000, ttr_ms=60_000)
    assert "longer than its time to run" in explain(running).text
    assert "ValueError: no" in explain(facts(retried(LATER), due_ms=LATER)).text
