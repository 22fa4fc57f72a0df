"""What decides about parked jobs, and what a crash in the middle of an edit leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given, strategies as st

from taskyard.broker_setup.editing import edit, edited, trail_of
from taskyard.broker_setup.moving import Tally
from taskyard.broker_setup.pace import Pace, parse_rate
from taskyard.broker_setup.parking import released
from taskyard.broker_setup.releasing import Order, Releasing, discard
from taskyard.broker_setup.survey import choose_fingerprint, group_id
from taskyard.shared.adapters.memory import MemoryBroker, MemoryState, SimulatedCrash
from taskyard.shared.broker import QueueSpec, Selection, Settlement, SetupSpec
from taskyard.shared.clock import VirtualClock
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.topology import plan

PARKING = Parking(reason="held", at_ms=1)


def job(**fields: object) -> Envelope:
    base = Envelope(id=mint_id(), queue="q", task="q.t", body=b'{"n":1}', parking=PARKING)
    return msgspec.structs.replace(base, **fields)


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(MemoryState(VirtualClock()))
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name="q"),))
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    yield broker
    await broker.close()


async def parked(broker: MemoryBroker, *jobs: Envelope) -> None:
    await broker.publish([msgspec.structs.replace(j, parking=None) for j in jobs], deadline_s=5)
    consumer = await broker.consume("q", credit=len(jobs))
    for delivery, envelope in zip(await consumer.take(), jobs, strict=True):
        await broker.settle([Settlement(delivery=delivery, park=envelope)], deadline_s=5)
    await consumer.stop()


async def lot(broker: MemoryBroker) -> list[tuple[str, int, bytes]]:
    return [
        (found.envelope.id, found.envelope.generation, found.envelope.body)
        async for found in broker.parked("q")
    ]


# ---------------------------------------------------------------- pace


@pytest.mark.parametrize(
    ("text", "per_s"), [("5/s", 5), ("120/min", 2), ("36/h", 0.01), ("7", 7), (" 0.5 / s ", 0.5)]
)
def test_rates_are_read(text: str, per_s: float) -> None:
    """A rate is a number per second, minute, hour or day (SQ-07)."""
    assert parse_rate(text) == pytest.approx(per_s)


@pytest.mark.parametrize("text", ["", "fast", "0/s", "-1/s", "5/year", "5//s"])
def test_wrong_rates_are_named(text: str) -> None:
    """What is no rate, or nothing at all, is refused with the text."""
    with pytest.raises(ConfigurationError, match="rate"):
        parse_rate(text)


@given(st.floats(0.5, 500), st.lists(st.integers(0, 300), max_size=60))
def test_the_pace_is_kept_without_bursts(per_s: float, stalls_ms: list[int]) -> None:
    """Never ahead of the average, nor at more than twice the pace, whatever stalls (SQ-07)."""
    clock = VirtualClock()
    pace = Pace(per_s, clock)
    went = 0
    last_s: float | None = None
    for stall_ms in stalls_ms:
        clock.advance(ms=round(pace.gap_s() * 1000) + 1 + stall_ms)
        now_s = clock.monotonic_s()
        assert went <= now_s * per_s + 1
        if last_s is not None:
            assert now_s - last_s >= pace.grain / per_s / 2 - 0.001
        pace.went(pace.grain)
        went += pace.grain
        last_s = now_s


# ---------------------------------------------------------------- which


def test_a_fingerprint_is_meant_by_its_beginning() -> None:
    """By itself, by how it begins, or by its group's id; what fits two is refused, naming both."""
    known = ["KeyError at a:f", "KeyError at a:f2", "held"]
    assert choose_fingerprint(known, "KeyError at a:f") == "KeyError at a:f"
    assert choose_fingerprint(known, "he") == "held"
    assert choose_fingerprint(known, group_id("KeyError at a:f2")) == "KeyError at a:f2"
    with pytest.raises(ConfigurationError, match="2 groups"):
        choose_fingerprint(known, "KeyE")
    with pytest.raises(NotFound, match="nothing of the kind"):
        choose_fingerprint(known, "nothing of the kind")


def test_a_release_says_who_and_takes_the_last_watcher_out() -> None:
    """The copy names who released it; an address of an earlier watcher does not pile up."""
    once = released(job(reply=("sender",)), 5, by="ann@ops", watch="w1")
    assert once.reply == ("sender", "w1")
    twice = released(msgspec.structs.replace(once, parking=PARKING), 6, by="bob@ops", watch="w2")
    assert twice.reply == ("sender", "w2")
    plain = released(msgspec.structs.replace(twice, parking=PARKING), 7, by="bob@ops")
    assert plain.reply == ("sender",)
    assert plain.extra == {"ty-released": '{"by":"bob@ops","at":7}'}
    assert (plain.attempt, plain.base, plain.parking) == (4, 3, None)


@pytest.mark.parametrize(("task", "there"), [("q.t", "p.t"), ("t", "p.t"), ("q.a.b", "p.a.b")])
def test_a_task_keeps_its_short_name_elsewhere(task: str, there: str) -> None:
    """`--to` changes queue and full name together (SQ-07)."""
    moved = released(job(task=task), 5, by="ann@ops", to="p")
    assert (moved.queue, moved.task) == ("p", there)


# ---------------------------------------------------------------- edit


def test_a_trail_remembers_the_first_and_the_latest_edits() -> None:
    """However often a job is edited, its original and its last changes are known, in bounds."""
    envelope = job(body=b'{"n":0,"long":"%s"}' % (b"x" * 3000))
    for n in range(1, 30):
        arguments = {"n": n, "long": "y" * 3000 * n} if n % 5 == 0 else {"n": n}
        envelope = edited(envelope, arguments, by="ann@ops", now_ms=n)
    trail = trail_of(envelope)
    assert envelope.generation == 30
    assert trail[0].generation == 1
    assert trail[0].was is not None
    assert trail[0].was["n"] == 0
    assert [e.generation for e in trail[1:]] == list(range(23, 30))
    assert len(str((envelope.extra or {})["ty-edited"])) < 40_000


def test_what_the_broker_parked_is_edited_too() -> None:
    """A job without a parking header, with a body that is no JSON, gets both (GM-02)."""
    new = edited(job(parking=None, body=b"\xff"), {"n": 2}, by="ann@ops", now_ms=9)
    assert new.parking is not None
    assert (new.parking.reason, new.body) == ("poison", b'{"n":2}')


@pytest.mark.parametrize(
    "step", ["settle:parked", "settle:confirmed", "settle:acknowledged", "before"]
)
@pytest.mark.parametrize("ending", ["release", "discard", "edit"])
async def test_a_crash_in_an_edit_loses_nothing(
    broker: MemoryBroker, step: str, ending: str
) -> None:
    """After a crash at any step the job is parked; once its new form is, the old one never runs,
    whatever comes next (promise 3).
    """
    one, two = job(), job()
    await parked(broker, one, two)
    victim = MemoryBroker(broker.state)
    await victim.open()

    def fault(name: str) -> None:
        if name == step:
            broker.state.fault = None
            raise SimulatedCrash(name)

    def change(_: Envelope) -> dict[str, object]:
        if step == "before":
            raise SimulatedCrash(step)
        return {"n": 2}

    broker.state.fault = fault
    with pytest.raises((SimulatedCrash, asyncio.CancelledError)):
        await edit(victim, ["q"], one.id, change, by="ann@ops")
    broker.state.fault = None
    await victim.close(abort=True)
    found = await lot(broker)
    assert {two.id, one.id} == {entry[0] for entry in found}
    new = b'{"n":1}' if step == "before" else b'{"n":2}'
    assert any(entry[0] == one.id and entry[2] == new for entry in found)
    if ending == "edit":
        _, now = await edit(broker, ["q"], one.id, lambda _: {"n": 3}, by="bob@ops")
        assert sorted(await lot(broker)) == sorted(
            [(two.id, 1, two.body), (one.id, now.generation, b'{"n":3}')]
        )
        return
    tally = Tally()
    if ending == "discard":
        await discard(broker, ["q"], Selection(), by="ann@ops", tally=tally)
    else:
        await Releasing(broker, Order(selection=Selection(), by="ann@ops"), tally).run()
        consumer = await broker.consume("q", credit=5)
        ran = {d.envelope.id: d.envelope.body for d in await consumer.take()}
        assert ran == {one.id: new, two.id: two.body}
    assert sorted(tally.done) == sorted([one.id, two.id])
    assert await lot(broker) == []
