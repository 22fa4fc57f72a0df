"""Which job a call means: ids that follow from the attempt that calls (ZS-22)."""

from __future__ import annotations

from uuid import UUID

import msgspec
from hypothesis import given, strategies as st

from taskyard.shared import Job, Secret
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.workers.callee import callee_id

AT_MS = 1_764_000_000_000
CALLER = Envelope(id=mint_id(), queue="q", task="q.parent", enqueued_ms=AT_MS)


def job(task: str = "a", queue: str = "q", **args: object) -> Job[object]:
    return Job(queue=queue, task=task, args=args)


def ids(caller: Envelope, *jobs: Job[object]) -> list[str]:
    """Return the ids of calls in this order."""
    found: list[str] = []
    for each in jobs:
        found.append(callee_id(caller, each, taken=found))
    return found


def test_a_second_run_of_an_attempt_means_the_same_jobs() -> None:
    """ZS-22: redelivered, handed back or with other headers: the same calls, the same ids."""
    first = ids(CALLER, job(n=1), job(n=1), job(n=2))
    again = msgspec.structs.replace(CALLER, deliveries=2, message_id="m", priority=9)
    assert ids(again, job(n=1), job(n=1), job(n=2)) == first
    assert len(set(first)) == 3
    assert ids(again, job(n=2), job(n=1), job(n=1)) == [first[2], first[0], first[1]]


def test_whatever_differs_is_another_job() -> None:
    """ZS-22: another caller, attempt, generation, queue, task or argument."""
    change = msgspec.structs.replace
    callers = [
        CALLER,
        change(CALLER, id=mint_id()),
        change(CALLER, attempt=2),
        change(CALLER, generation=2),
        change(CALLER, attempt=21),
        change(CALLER, generation=21),
    ]
    jobs = [job(n=1), job(n=2), job("b", n=1), job(queue="r", n=1)]
    found = {callee_id(caller, each, taken=()) for caller in callers for each in jobs}
    assert len(found) == len(callers) * len(jobs)


def test_it_has_the_form_of_any_other_id() -> None:
    """ZS-22: a UUID of version 7, at the time when its caller was sent; foreign callers as well."""
    found = UUID(callee_id(CALLER, job(), taken=()))
    assert (found.version, found.int >> 80) == (7, AT_MS)
    foreign = Envelope(id="order 7/ü", queue="q", task="q.t")
    assert UUID(callee_id(foreign, job(), taken=())).version == 7


@given(st.text(), st.dictionaries(st.text(), st.integers()), st.integers())
def test_any_caller_and_any_arguments(caller: str, args: dict[str, int], other: int) -> None:
    """ZS-22: ids are drawn from all that is there, and never clash with those before."""
    envelope = Envelope(id=caller, queue="q", task="q.t")
    given = Job[object](queue="q", task="a", args=args)
    first, second = ids(envelope, given, Job[object](queue="q", task="a", args=args))
    assert first != second
    changed = Job[object](queue="q", task="a", args={**args, "other": other})
    same = args.get("other") == other
    assert (callee_id(envelope, changed, taken=()) == first) is same


def test_encrypted_arguments_cannot_be_tried() -> None:
    """ZS-21, ZS-22: an id is readable in the broker, so nothing that travels encrypted shows in it."""
    one, other = (
        Job[object](queue="q", task="a", args={"card": card}, encrypt=True) for card in ("1", "2")
    )
    assert callee_id(CALLER, one, taken=()) == callee_id(CALLER, other, taken=())
    assert len(set(ids(CALLER, one, other))) == 2
    plain, secret = (
        Job[object](queue="q", task="a", args={"card": card, "n": 1})
        for card in (Secret("1"), Secret("2"))
    )
    assert callee_id(CALLER, plain, taken=()) == callee_id(CALLER, secret, taken=())
