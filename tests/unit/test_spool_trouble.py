"""A spool in trouble: what moves while it is counted, a file that does not let go, or is taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from support.eventually import eventually
from taskyard.producer import fallback as fallback_module, spool as spool_module
from taskyard.producer.drain_gate import DrainGate
from taskyard.producer.fallback import Fallback
from taskyard.producer.flusher import Flusher
from taskyard.producer.spool import Spool
from taskyard.shared.broker import PublishStatus, Receipt, Settlement, SettleStatus
from taskyard.shared.clock import SystemClock
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.errors import Unavailable
from taskyard.shared.spool import unwrap


class Trouble:
    """Stands before a spool's file, and does to its calls what `on_stats` and `on_settle` say."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.on_stats: Callable[[], Any] | None = None
        self.on_settle: Callable[[Sequence[Settlement]], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def stats(self, queues: Sequence[str]) -> Any:
        found = await self._store.stats(queues)
        if self.on_stats is not None:
            await self.on_stats()
        return found

    async def settle(self, done: Sequence[Settlement], *, deadline_s: float) -> Any:
        if self.on_settle is not None:
            told = await self.on_settle(done)
            if told is not None:
                return told
        return await self._store.settle(done, deadline_s=deadline_s)


class Replies:
    """An address that is not there yet; counts who asks."""

    address, is_there, looks = "here", False, 0

    @property
    def present(self) -> bool:
        self.looks += 1
        return self.is_there


class Wire:
    """A broker that takes everything, and notes it."""

    connected, blocked = True, False

    def __init__(self) -> None:
        self.arrived: list[str] = []

    async def publish(self, envelopes: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        del deadline_s
        self.arrived += [envelope.id for envelope in envelopes]
        return [Receipt(PublishStatus.CONFIRMED)] * len(envelopes)


def job(**fields: Any) -> Envelope:
    return Envelope(id=mint_id(), queue="mail", task="mail.send", body=b"{}", **fields)


@pytest.fixture
async def spool(tmp_path: Path):
    made = Spool(f"sqlite:///{tmp_path / 'spool.db'}", limit_bytes=1 << 20)
    made._store = Trouble(made._store)  # type: ignore[assignment]
    await made.open(5.0)
    yield made
    await made.close()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def no_replies() -> Any:
    return SimpleNamespace(address=None, present=True)


async def put(spool: Spool, *jobs: Envelope) -> None:
    receipts = await spool.put(jobs, 5.0, wait=False)
    assert {receipt.status for receipt in receipts} == {PublishStatus.SPOOLED}


async def test_a_job_put_while_the_file_was_counted_is_not_hidden(spool):
    """The count is of before, and must not say that nothing is there: later sends would overtake it."""
    read, put_now = asyncio.Event(), asyncio.Event()

    async def after_reading() -> None:
        read.set()
        await put_now.wait()

    spool._store.on_stats = after_reading
    counting = asyncio.create_task(spool.count())
    await read.wait()
    await put(spool, job())
    put_now.set()
    assert await counting == 0
    assert spool.pending == 1
    assert not spool.idle


async def test_a_put_under_way_when_the_count_began_is_not_hidden(spool, monkeypatch):
    """The same, where the put began before the file was read and ends after it."""
    published, go_on = asyncio.Event(), asyncio.Event()
    store = spool._store._store

    async def slow(entries: Sequence[Envelope], *, deadline_s: float) -> Any:
        published.set()
        await go_on.wait()
        return await type(store).publish(store, entries, deadline_s=deadline_s)

    monkeypatch.setattr(store, "publish", slow)
    putting = asyncio.create_task(put(spool, job()))
    await published.wait()

    async def end_the_put() -> None:
        go_on.set()
        await putting

    spool._store.on_stats = end_the_put
    assert await spool.count() == 0
    assert spool.pending == 1


async def test_what_is_settled_while_it_is_counted_is_not_taken_off_twice(spool):
    """Of two, one is left: a count of one, and one less for the other, would hide it."""
    await put(spool, job(), job())
    flow = await spool.consume()
    first, *_ = await flow.take()
    counted = 0

    async def count_first(_: Sequence[Settlement]) -> list[SettleStatus]:
        nonlocal counted
        spool._store.on_settle = None
        done = await spool._store.settle([Settlement(delivery=first)], deadline_s=5.0)
        counted = await spool.count()
        return list(done)

    spool._store.on_settle = count_first
    await spool.settle([Settlement(delivery=first)])
    assert (counted, spool.pending) == (1, 1)


async def test_what_the_file_does_not_let_go_is_tried_again(spool):
    """Locked by another, or the disk full for a moment: the entries are still ours to settle."""
    await put(spool, job(), job())
    flow = await spool.consume()
    taken = list(await flow.take())
    calls: list[int] = []

    async def not_yet(done: Sequence[Settlement]) -> list[SettleStatus] | None:
        calls.append(len(done))
        return [SettleStatus.UNDONE] * len(done) if len(calls) < 3 else None

    spool._store.on_settle = not_yet
    await spool.settle([Settlement(delivery=each) for each in taken])
    assert calls == [2, 2, 2]
    assert (await spool.count(), spool.pending) == (0, 0)


async def test_what_it_never_lets_go_comes_again(spool, monkeypatch):
    """After a while that is an error; closed and opened again, the entries are there, in order."""
    monkeypatch.setattr(spool_module, "_PATIENCE_S", 0.2)
    jobs = [job(), job()]
    await put(spool, *jobs)
    flow = await spool.consume()
    taken = list(await flow.take())

    async def never(done: Sequence[Settlement]) -> list[SettleStatus]:
        return [SettleStatus.UNDONE] * len(done)

    spool._store.on_settle = never
    with pytest.raises(Unavailable, match="does not let go of 2 entries"):
        await spool.settle([Settlement(delivery=each) for each in taken])
    await spool.close()
    await spool.open(5.0)
    again = await (await spool.consume()).take()
    assert [unwrap(each.envelope).id for each in again] == [each.id for each in jobs]


async def test_a_file_in_passing_trouble_keeps_its_order(spool, wire, no_replies, monkeypatch):
    """Settling fails once, and then works: all arrive, once and in order, and then the next one."""
    monkeypatch.setattr(fallback_module, "_FILE_PAUSE_S", 0.05)
    jobs = [job() for _ in range(5)]
    await put(spool, *jobs)
    failures = 1

    async def fails(_: Sequence[Settlement]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unavailable("the disk is full")

    spool._store.on_settle = fails
    sender = Fallback(
        wire, wire.publish, spool, no_replies, SystemClock(), gate=DrainGate(wire, SystemClock())
    )
    await sender.look(5.0)
    assert sender.spooling
    await sender.drained()
    assert not sender.spooling
    assert wire.arrived == [each.id for each in jobs]
    later = job()
    assert [r.status for r in await sender.publish([later], 5.0)] == [PublishStatus.CONFIRMED]
    assert wire.arrived[-1] == later.id


async def test_a_broken_file_does_not_keep_jobs_from_the_broker(
    spool, wire, no_replies, monkeypatch, tmp_path
):
    """It can be used no more: after a while jobs go past it, and what is in it stays."""
    monkeypatch.setattr(fallback_module, "_FILE_PATIENCE_S", 0.3)
    monkeypatch.setattr(fallback_module, "_FILE_PAUSE_S", 0.05)
    first = job()
    await put(spool, first)
    sender = Fallback(
        wire, wire.publish, spool, no_replies, SystemClock(), gate=DrainGate(wire, SystemClock())
    )

    async def never(_: Sequence[Settlement]) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(Spool, "settle", lambda _, done: never(done))
    await sender.look(5.0)
    await sender.drained()
    later = job()
    assert [r.status for r in await sender.publish([later], 5.0)] == [PublishStatus.CONFIRMED]
    assert wire.arrived == [first.id, later.id]
    left = Spool(spool.url, limit_bytes=1)
    await left.open(5.0)
    assert left.pending == 1
    await left.close()


async def test_a_file_that_is_taken_away_is_noticed(spool, tmp_path):
    """Counted still, it would keep the spool from ever being empty."""
    await put(spool, job())
    for file in tmp_path.glob("spool.db*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(Unavailable, match="deleted or replaced"):
        await spool.count()


@pytest.mark.parametrize("wants", [True, False], ids=["wanted", "not wanted"])
async def test_a_job_waits_for_the_address_of_its_reply(spool, wire, wants):
    """The address is back a moment after the broker; what nobody awaits goes out at once."""
    replies = Replies()
    await put(spool, job(reply=("here",) if wants else ("elsewhere",)))
    flusher = Flusher(wire, wire.publish, spool, replies)  # type: ignore[arg-type]
    running = asyncio.create_task(flusher.run())
    if wants:
        await eventually(lambda: replies.looks >= 3)
        assert wire.arrived == []
        replies.is_there = True
    await eventually(lambda: wire.arrived)
    await running


async def test_a_damaged_entry_does_not_stop_those_behind_it(spool, wire):
    """Text that is no UTF-8 is no `DecodeError`: the entry is kept aside, the next one goes out."""
    await put(spool, job(), job())
    flow = await spool.consume()
    first, second = await flow.take()
    broken = bytes(first.envelope.body).replace(b"mail.send", b"mail.\xff\xff\xff\xff")
    damaged = msgspec.structs.replace(first.envelope, body=broken)
    flusher = Flusher(wire, wire.publish, spool)
    await flusher._forward([msgspec.structs.replace(first, envelope=damaged), second])
    assert wire.arrived == [second.envelope.id]
    state = await spool.state()
    assert (state.pending, state.refused) == (0, 1)
