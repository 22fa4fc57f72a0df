"""Which of four levels a job's options come from."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.ledger.effective import effective
from taskyard.shared import NotFound, Queue, RetryPolicy
from taskyard.shared.envelope import Envelope
from taskyard.shared.retry import encode_policy

plain = Queue("effective-plain")
full = Queue("effective-full", ttr=30, retry=RetryPolicy(attempts=7), max_deliveries=2)
QUEUES = {queue.name: queue for queue in (plain, full)}


def work() -> None:
    """Do nothing."""


for queue in (plain, full):
    queue.add(work)
    queue.add(work, name="own", ttr=20, retry=RetryPolicy(attempts=5))

OWN = {"priority": 7, "ttr_ms": 10_000, "retry": encode_policy(RetryPolicy(attempts=2))}


@pytest.mark.parametrize(
    ("name", "task", "own", "expected"),
    [
        (plain, "work", {}, ("default", 60, "default", 3, 4, 5)),
        (full, "work", {}, ("queue", 30, "queue", 7, 4, 2)),
        (full, "own", {}, ("task", 20, "task", 5, 4, 2)),
        (full, "own", OWN, ("job", 10, "job", 2, 7, 2)),
        (full, "work", {"ttr_ms": 0, "retry": "no policy"}, ("queue", 30, "queue", 7, 4, 2)),
    ],
)
def test_each_level_has_its_word(name, task, own: dict[str, Any], expected):
    """ZS-34: what is not set at one level comes from the next; what is no policy counts for nothing."""
    job = Envelope(id="a", queue=name.name, task=f"{name.name}.{task}", **own)
    found = effective(job, QUEUES)
    retry: Any = found["retry"].value
    assert (
        found["ttr"].by,
        found["ttr"].value,
        found["retry"].by,
        retry["attempts"],
        found["priority"].value,
        found["max_deliveries"].value,
    ) == expected


def test_what_is_not_declared_is_named():
    """It is said what there is instead."""
    with pytest.raises(NotFound, match="effective-full, effective-plain"):
        effective(Envelope(id="a", queue="nowhere", task="t"), QUEUES)
    with pytest.raises(NotFound, match="known: own, work"):
        effective(Envelope(id="a", queue="effective-full", task="t"), QUEUES)
