"""What a producer lets through while operators want nothing new, and how rarely it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from taskyard.producer.drain_gate import FRESH_S, DrainGate
from taskyard.producer.verdict import Place, error_of
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.clock import VirtualClock
from taskyard.shared.control import ControlRecord, drain_record
from taskyard.shared.envelope import Envelope
from taskyard.shared.errors import Draining, PublishError, Unavailable

DRAIN = drain_record(by="ann@ops", at_ms=1_700_000_000_000, reason="upgrade")


class Asked:
    """A broker that counts how often it is asked."""

    def __init__(self, clock: VirtualClock) -> None:
        self.connected, self.blocked = True, False
        self.answer: ControlRecord | None = None
        self.error: Exception | None = None
        self.times = 0
        self.now_ms = clock.now_ms

    async def draining(self, *, deadline_s: float) -> ControlRecord | None:
        assert deadline_s > 0
        self.times += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.answer


class Bench:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = Asked(self.clock)
        self.gate = DrainGate(self.broker, self.clock)  # type: ignore[arg-type]
        self.sent: list[str] = []

    async def send(self, *envelopes: Envelope) -> list[PublishStatus]:
        """Send as `Direct` does."""
        if self.clock.monotonic_s() >= self.gate.due_s:
            await self.gate.refresh(envelopes, 5.0)
        return [receipt.status for receipt in await self.gate.guard(envelopes, self._publish)]

    async def _publish(self, envelopes: Sequence[Envelope]) -> list[Receipt]:
        self.sent += [envelope.id for envelope in envelopes]
        return [Receipt(PublishStatus.CONFIRMED, message_id=each.id) for each in envelopes]


def new(name: str) -> Envelope:
    return Envelope(id=name, queue="q", task="q.t")


def child(name: str) -> Envelope:
    return Envelope(id=name, queue="q", task="q.t", parent="p")


async def test_only_new_work_is_refused() -> None:
    """BS-15: what a running job sends is let through, in its place among the others."""
    bench = Bench()
    bench.broker.answer = DRAIN
    refused, passed = PublishStatus.DRAINING, PublishStatus.CONFIRMED
    assert await bench.send(new("a"), child("b"), new("c"), child("d")) == [
        refused,
        passed,
        refused,
        passed,
    ]
    assert bench.sent == ["b", "d"]
    assert await bench.send(new("e")) == [refused]
    assert bench.sent == ["b", "d"]


async def test_it_is_asked_for_seldom() -> None:
    """Before the first job, then by the first job after two seconds; jobs of jobs ask nothing."""
    bench = Bench()
    await bench.send(child("p"))
    assert bench.broker.times == 0
    for n in range(10):
        await bench.send(new(str(n)))
    assert bench.broker.times == 1
    bench.clock.advance(ms=round(FRESH_S * 1000) - 1)
    await bench.send(new("x"))
    assert bench.broker.times == 1
    bench.clock.advance(ms=1)
    bench.broker.answer = DRAIN
    assert await bench.send(new("y")) == [PublishStatus.DRAINING]
    assert bench.broker.times == 2


async def test_many_senders_share_a_question() -> None:
    """Jobs that are sent at the same time wait for one answer, and each of them for it."""
    bench = Bench()
    bench.broker.answer = DRAIN
    found = await asyncio.gather(*(bench.send(new(str(n))) for n in range(50)))
    assert found == [[PublishStatus.DRAINING]] * 50
    assert bench.broker.times == 1


async def test_it_ends_by_itself_without_a_question() -> None:
    """BS-12, BS-15: the end is known with the drain, to the millisecond."""
    bench = Bench()
    now_ms = bench.clock.now_ms()
    bench.broker.answer = drain_record(by="ann", at_ms=now_ms, until_ms=now_ms + 1000)
    assert await bench.send(new("a")) == [PublishStatus.DRAINING]
    bench.clock.advance(ms=999)
    assert await bench.send(new("a")) == [PublishStatus.DRAINING]
    bench.clock.advance(ms=1)
    assert await bench.send(new("a")) == [PublishStatus.CONFIRMED]
    assert bench.broker.times == 1


@pytest.mark.parametrize("trouble", ["away", "blocked", "silent"])
async def test_the_last_answer_holds_while_nobody_answers(trouble: str) -> None:
    """A drain does not end because the broker is away, and none begins: the job's own fate tells."""
    bench = Bench()
    bench.broker.connected = trouble != "away"
    bench.broker.blocked = trouble == "blocked"
    bench.broker.error = Unavailable("no answer")
    assert await bench.send(new("a")) == [PublishStatus.CONFIRMED]
    bench.broker.connected, bench.broker.blocked, bench.broker.error = True, False, None
    bench.broker.answer = DRAIN
    bench.clock.advance(ms=2000)
    assert await bench.send(new("b")) == [PublishStatus.DRAINING]
    bench.broker.connected = trouble != "away"
    bench.broker.blocked = trouble == "blocked"
    bench.broker.error = Unavailable("no answer")
    bench.clock.advance(ms=60_000)
    assert await bench.send(new("c")) == [PublishStatus.DRAINING]


async def test_a_broker_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question takes half of a publish's time at most."""
    bench = Bench()

    async def never(*, deadline_s: float) -> None:
        await asyncio.sleep(deadline_s + 60)

    monkeypatch.setattr(bench.broker, "draining", never)
    async with asyncio.timeout(2):
        await bench.gate.refresh([new("a")], 0.1)
    await bench.gate.close()
    assert bench.gate.drain is None


@pytest.mark.parametrize(
    ("drain", "words"),
    [
        (DRAIN, ["by ann@ops", "since 2023-11-14T22:13:20Z", ": upgrade", "taskyard drain off"]),
        (
            drain_record(by="ann", at_ms=1_700_000_000_000, until_ms=1_700_000_060_000),
            ["until 2023-11-14T22:14:20Z", "send it again then"],
        ),
        (ControlRecord(key=DRAIN.key, op="drain"), ["nothing", "operators want no new jobs now"]),
    ],
)
def test_who_is_refused_learns_by_whom(drain: ControlRecord, words: list[str]) -> None:
    """BS-15: a typed error that says what was not sent, by whom, since and until when, and why."""
    place = Place(host="rabbit:5672", namespace="shop")
    receipt = Receipt(PublishStatus.DRAINING, drain=drain)
    error: Any = error_of(receipt, new("id-1"), place, 2.5)
    assert type(error) is Draining
    assert isinstance(error, PublishError)
    for each in ("id-1", "'shop'", "rabbit:5672", *(w for w in words if w != "nothing")):
        assert each in str(error)
    assert (error.job_id, error.queue) == ("id-1", "q")
    assert (error.by, error.since_ms, error.until_ms) == (drain.by, drain.at, drain.expires)
    assert error.reason == (drain.body or {}).get("reason", "")
