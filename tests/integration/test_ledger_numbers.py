"""What the ledger adds up: of one job, of queues, of failures; on each of its databases."""

from __future__ import annotations

import msgspec
import pytest

from support.ledger import ledger_url
from support.told import Told, error, ledger, write
from taskyard.ledger.failures import Failures, failures
from taskyard.ledger.filters import Filter, Span
from taskyard.ledger.lookup import Counters, job as look_up
from taskyard.ledger.statistics import statistics
from taskyard.shared.decide import TimedOut, describe
from taskyard.shared.envelope import Envelope
from taskyard.shared.states import State
from taskyard.shared.wire import ENC_DATA, ENC_KEY, ENC_NONCE

__all__ = ["ledger", "ledger_url"]

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def sent(name: str, minutes_ago: int = 30, **fields) -> Envelope:
    made = Envelope(
        id=name, queue="shop", task="shop.pay", enqueued_ms=NOW_MS - minutes_ago * 60_000
    )
    return msgspec.structs.replace(made, **fields)


# ---------------------------------------------------------------- one job


async def test_a_job_in_full(ledger):
    """ZS-04, ZS-61, ZP-35: its arguments, its trace, each attempt in order, and its value."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    envelope = sent(
        "one", body=b'{"x":1}', traceparent=f"00-{trace}-b7ad6b7169203331-01", ttr_ms=5_000
    )
    told = Told(envelope).start()
    told.end("retried", error=error("Broken", "once"), due=NOW_MS)
    told.publish(not_before_ms=NOW_MS).end("succeeded", value=msgspec.Raw(b'{"sum":5}'), ok="yes")
    await write(ledger, [told, Told(sent("other")).end("failed")])
    found = await look_up(ledger, "one", now_ms=NOW_MS)
    assert found is not None
    assert (found.job.state, found.job.attempt, found.job.arguments) == ("succeeded", 2, {"x": 1})
    assert (found.job.ttr_ms, found.trace) == (5_000, trace)
    assert [(run.attempt, run.outcome, run.value) for run in found.runs] == [
        (1, "retried", None),
        (2, "succeeded", '{"sum":5}'),
    ]
    assert found.runs[0].traceback == "Traceback of Broken"
    assert found.last == found.runs[1]


async def test_an_unknown_job(ledger):
    """Issue 6, 7: an unknown id is not "pending"."""
    await write(ledger, [Told(sent("one"))])
    assert await look_up(ledger, "on", now_ms=NOW_MS) is None


async def test_a_job_after_retry_hold_and_release(ledger):
    """LQ-14: 3 reserves, 1 release, 1 hold, 1 unhold."""
    told = Told(sent("one")).start().end("retried", error=error("Broken", "once"))
    told.publish().start().end("parked", detail="held")
    await write(ledger, [told])
    before = await look_up(ledger, "one", now_ms=NOW_MS)
    assert before is not None
    assert (before.counters.holds, before.counters.unholds) == (1, 0)
    assert before.last is not None
    assert before.last.detail == "held"
    await write(ledger, [told.publish().start().end("succeeded")])
    found = await look_up(ledger, "one", now_ms=NOW_MS)
    assert found is not None
    assert found.counters == Counters(
        reserves=3, timeouts=0, releases=1, holds=1, unholds=1, handbacks=0
    )


async def test_a_job_that_took_too_long(ledger):
    """LQ-14: timeouts; ZS-43: whatever came of it."""
    told = Told(sent("one")).start().end("handed_back", detail="stopping")
    told.publish(attempt=1).end("retried", error=describe(TimedOut("too long")))
    told.publish().end("failed", detail="timeout")
    await write(ledger, [told])
    found = await look_up(ledger, "one", now_ms=NOW_MS)
    assert found is not None
    assert found.counters == Counters(
        reserves=3, timeouts=2, releases=1, holds=0, unholds=0, handbacks=1
    )


async def test_a_job_that_was_judged_without_running(ledger):
    """LQ-14: what never started was not reserved."""
    await write(ledger, [Told(sent("one")).set_aside("parked", detail="unknown_task")])
    found = await look_up(ledger, "one", now_ms=NOW_MS)
    assert found is not None
    assert (found.counters.reserves, found.counters.holds) == (0, 1)


async def test_encrypted_arguments_stay_hidden(ledger):
    """ZS-21: words where something is encrypted, as in the list of parked jobs."""
    sealed = {ENC_KEY: "k1", ENC_NONCE: "bm9uY2U=", ENC_DATA: "aGlkZGVu"}
    body = msgspec.json.encode({"card": sealed, "sum": 5})
    await write(ledger, [Told(sent("one", body=body))])
    found = await look_up(ledger, "one", now_ms=NOW_MS)
    assert found is not None
    assert found.job.arguments == {"card": "‹encrypted with key k1›", "sum": 5}


# ---------------------------------------------------------------- statistics


async def test_exactly_those_numbers(ledger):
    """ZS-66: after 7 ok, 2 failed, 1 logical; what came before the window is not in it."""
    told = [Told(sent(f"ok-{n}")).end("succeeded") for n in range(7)]
    told += [Told(sent(f"bad-{n}")).end("failed", detail="error") for n in range(2)]
    told += [Told(sent("logical")).end("failed", detail="logical")]
    told += [Told(sent("old", 90)).end("succeeded"), Told(sent("held", 90)).end("parked")]
    told += [Told(sent("new")), Told(sent("later", not_before_ms=NOW_MS + 1)), Told(sent("runs"))]
    told[-1].start()
    await write(ledger, told)
    found = await statistics(ledger, now_ms=NOW_MS, since_ms=NOW_MS - HOUR_MS)
    assert found.queues == {"shop": found.overall}
    assert found.overall.changed == {
        "succeeded": 7,
        "failed": 2,
        "logically_failed": 1,
        "queued": 1,
        "scheduled": 1,
        "running": 1,
    }
    assert found.overall.now == {**found.overall.changed, "succeeded": 8, "parked": 1}
    assert (found.overall.complete, found.overall.incomplete) == (11, 4)
    assert (found.overall.added, found.overall.started, found.overall.completed) == (13, 11, 10)


async def test_averages_of_known_gaps(ledger):
    """ZP-26: 100 jobs with known gaps; also those of a retry, and of jobs that were to wait."""
    told = []
    for n in range(100):
        due_ms = NOW_MS - 30 * 60_000 + 1_000
        one = Told(sent(f"job-{n:03}", not_before_ms=due_ms), wait_ms=10 + n, run_ms=2 * n)
        told.append(one.end("succeeded"))
    await write(ledger, told)
    found = (await statistics(ledger, now_ms=NOW_MS)).overall
    assert (found.added, found.started, found.completed) == (100, 100, 100)
    assert found.in_queue.ms == pytest.approx(1_000 + 59.5)
    assert found.waited.ms == pytest.approx(59.5)
    assert found.ran.ms == pytest.approx(99)


async def test_each_attempt_is_a_start(ledger):
    """ZP-26: what the window saw starting; what is parked or retried is not completed."""
    told = Told(sent("one")).start().end("retried", due=NOW_MS)
    told.publish(not_before_ms=NOW_MS - 1_000).start()
    died = Told(sent("two"), wait_ms=9_000).start().publish(attempt=1, deliveries=2)
    held = Told(sent("three")).set_aside("parked", detail="held")
    await write(ledger, [told, died, held])
    found = (await statistics(ledger, now_ms=NOW_MS, since_ms=NOW_MS - HOUR_MS)).overall
    assert (found.added, found.started, found.completed) == (3, 3, 0)
    assert (found.waited.number, found.ran.number) == (3, 1)
    lately = (await statistics(ledger, now_ms=NOW_MS, since_ms=NOW_MS - 60_000)).overall
    assert (lately.added, lately.started, lately.waited.ms, lately.ran.ms) == (0, 1, 100, None)


async def test_each_queue_has_its_numbers(ledger):
    """ZS-67: and all together are their sum; nothing has none."""
    empty = await statistics(ledger, now_ms=NOW_MS)
    assert (empty.queues, empty.overall.now, empty.overall.ran.ms) == ({}, {}, None)
    told = [Told(sent(f"s{n}")).end("succeeded") for n in range(3)]
    told += [Told(sent("m", queue="mail", task="mail.send"), run_ms=90).end("succeeded")]
    await write(ledger, told)
    found = await statistics(ledger, now_ms=NOW_MS)
    assert {name: numbers.completed for name, numbers in found.queues.items()} == {
        "mail": 1,
        "shop": 3,
    }
    assert (found.overall.completed, found.overall.ran.ms) == (4, 60)
    alone = await statistics(ledger, now_ms=NOW_MS, queues=("mail",))
    assert alone.queues == {"mail": found.queues["mail"]}
    assert alone.overall == found.queues["mail"]


# ---------------------------------------------------------------- failures


def broken(name: str, minutes_ago: int, cause: str = "Broken", **fields) -> Told:
    told = Told(sent(name, minutes_ago, **fields), wait_ms=0, run_ms=0)
    return told.end("failed", detail="error", error=error(cause, f"no {name}"))


async def test_failures_of_one_cause_are_one(ledger):
    """Issue 6, 5: grouped by fingerprint; those without one by their reason."""
    told = [broken(f"b{n}", 10 * n) for n in range(5)]
    told += [Told(sent("parked", 70, queue="mail", task="mail.send"), wait_ms=0, run_ms=0)]
    told[-1].end("parked", detail="exhausted", error=error("Broken", "at last"))
    told += [broken("rare", 5, "Rare")]
    told += [Told(sent(f"l{n}"), wait_ms=0, run_ms=0).end("failed", detail="logical") for n in "ab"]
    told += [Told(sent("fine")).end("succeeded")]
    told += [Told(sent("again")).end("retried", error=error("Broken", "may pass"))]
    await write(ledger, told)
    found = await failures(ledger, Filter(), now_ms=NOW_MS)
    assert found == [
        Failures(
            fingerprint="Broken at x:f",
            details=("error", "exhausted"),
            count=6,
            first_ms=NOW_MS - 70 * 60_000,
            last_ms=NOW_MS,
            queues=("mail", "shop"),
            tasks=("mail.send", "shop.pay"),
            examples=("b0", "b1", "b2"),
            error_type="Broken",
            error_message="no b0",
        ),
        Failures(
            fingerprint=None,
            details=("logical",),
            count=2,
            first_ms=NOW_MS - 30 * 60_000,
            last_ms=NOW_MS - 30 * 60_000,
            queues=("shop",),
            tasks=("shop.pay",),
            examples=("lb", "la"),
            error_type=None,
            error_message=None,
        ),
        Failures(
            fingerprint="Rare at x:f",
            details=("error",),
            count=1,
            first_ms=NOW_MS - 5 * 60_000,
            last_ms=NOW_MS - 5 * 60_000,
            queues=("shop",),
            tasks=("shop.pay",),
            examples=("rare",),
            error_type="Rare",
            error_message="no rare",
        ),
    ]


async def test_failures_are_filtered(ledger):
    """Of a time, of a state, and no more groups than were asked for."""
    told = [broken(f"b{n}", 10 * n, f"Broken{n % 2}") for n in range(5)]
    await write(ledger, [*told, Told(sent("parked")).end("parked", detail="held")])
    lately = Filter(spans=(Span(moment="ended", after_ms=NOW_MS - 25 * 60_000),))
    found = await failures(ledger, lately, now_ms=NOW_MS)
    assert [(group.fingerprint, group.count) for group in found] == [
        ("Broken0 at x:f", 2),
        ("Broken1 at x:f", 1),
    ]
    assert len(await failures(ledger, Filter(), now_ms=NOW_MS, limit=2)) == 2
    parked = await failures(ledger, Filter(states=(State.PARKED,)), now_ms=NOW_MS)
    assert [group.details for group in parked] == [("held",)]
    assert await failures(ledger, Filter(states=(State.RUNNING,)), now_ms=NOW_MS) == []
