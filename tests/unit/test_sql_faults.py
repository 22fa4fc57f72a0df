"""What the SQLite broker does when the file, the disk or another process stands in its way."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support.sql_actor import QUEUE, opened, set_up
from taskyard.shared.adapters.sql import SqlBroker
from taskyard.shared.adapters.sql.gate import ByteGate
from taskyard.shared.broker import (
    BrokerOptions,
    Connected,
    Lost,
    PublishStatus,
    Settlement,
    SettleStatus,
)
from taskyard.shared.brokers import connect
from taskyard.shared.conformance.scene import job, jobs, publish
from taskyard.shared.control import ControlRecord, ControlUnavailable
from taskyard.shared.errors import ConfigurationError, Unavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "b.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SqlBroker]:
    broker = await opened(str(path))
    await set_up(broker)
    yield broker
    await broker.close()


async def test_a_full_disk_rejects_and_stores_nothing(broker) -> None:
    """A publish that does not fit is refused whole, in words; afterwards all goes on."""
    engine = broker._handle.engine

    def limit(session) -> int:
        (pages,) = session.one("PRAGMA page_count")
        session.run(f"PRAGMA max_page_count = {pages + 20}")
        return pages

    await engine.read(limit)
    big = [job(QUEUE, body=b"x" * 100_000) for _ in range(5)]
    receipts = await broker.publish(big, deadline_s=5)
    assert {r.status for r in receipts} == {PublishStatus.REJECTED}
    assert "disk is full" in receipts[0].detail
    assert (await broker.stats([QUEUE]))[QUEUE].ready == 0
    await engine.read(lambda s: s.run("PRAGMA max_page_count = 1000000"))
    await publish(broker, *big)


async def test_a_full_disk_keeps_what_must_be_settled(broker, path) -> None:
    """A retry that does not fit keeps its delivery; with space again it is settled, once."""
    (envelope,) = big = [job(QUEUE, body=b"x" * 400_000)]
    await publish(broker, *big)
    consumer = await broker.consume(QUEUE, credit=1)
    (delivery,) = await consumer.take()
    engine = broker._handle.engine

    def fill(session) -> None:
        (pages,) = session.one("PRAGMA page_count")
        session.run(f"PRAGMA max_page_count = {pages}")

    await engine.read(fill)
    copy = msgspec.structs.replace(delivery.envelope, attempt=2, body=b"y" * 900_000)
    retry = Settlement(delivery=delivery, copies=(copy,))
    assert await broker.settle([retry], deadline_s=1) == [SettleStatus.UNDONE]
    assert (await broker.stats([QUEUE]))[QUEUE].unsettled == 1
    await engine.read(lambda s: s.run("PRAGMA max_page_count = 1000000"))
    assert await broker.settle([retry], deadline_s=5) == [SettleStatus.SETTLED]
    (again,) = await consumer.take()
    assert (again.envelope.id, again.envelope.attempt) == (envelope.id, 2)


async def test_a_locked_database_keeps_every_deadline(broker, path) -> None:
    """While another program holds the lock, writes end at their deadline, and nothing is done."""
    await publish(broker, *jobs(QUEUE, 1))
    (delivery,) = await (await broker.consume(QUEUE, credit=1)).take()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    before = time.monotonic()
    receipts, statuses = await asyncio.gather(
        broker.publish(jobs(QUEUE, 2), deadline_s=0.4),
        broker.settle([Settlement(delivery=delivery)], deadline_s=0.4),
    )
    assert time.monotonic() - before < 0.7
    assert [r.status for r in receipts] == [PublishStatus.UNAVAILABLE] * 2
    assert "locked" in receipts[0].detail
    assert statuses == [SettleStatus.UNDONE]
    with pytest.raises(ControlUnavailable):
        await broker.append_control([ControlRecord(key="a", op="b")], deadline_s=0.1)
    # Reading goes on meanwhile.
    assert (await broker.stats([QUEUE]))[QUEUE].unsettled == 1
    other.execute("ROLLBACK")
    other.close()
    assert await broker.settle([Settlement(delivery=delivery)], deadline_s=5) == [
        SettleStatus.SETTLED
    ]
    assert (await broker.stats([QUEUE]))[QUEUE].ready == 0


async def test_a_deleted_file_is_noticed(broker, path) -> None:
    """Nothing is confirmed into a file that nobody can open any more; a new one is made."""
    await broker.consume(QUEUE, credit=1)
    seen: list[object] = []

    async def listen() -> None:
        async for event in broker.events():
            seen.append(event)  # noqa: PERF401  # watched while it grows

    listening = asyncio.create_task(listen())
    for file in path.parent.glob("b.db*"):
        if file.is_file():
            file.unlink()
    receipts = await broker.publish(jobs(QUEUE, 1), deadline_s=5)
    assert receipts[0].status in {PublishStatus.UNAVAILABLE, PublishStatus.UNROUTABLE}
    async with asyncio.timeout(5):
        while not (isinstance(seen[-1], Connected) and len(seen) >= 3):
            await asyncio.sleep(0.01)
    assert isinstance(seen[1], Lost)
    await set_up(broker)
    await publish(broker, *jobs(QUEUE, 1))
    listening.cancel()


async def test_a_newer_schema_is_refused_in_words(broker, path) -> None:
    """A database of a later version is left alone."""
    await broker.close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE taskyard_meta SET value = 99 WHERE key = 'schema'")
    other.close()
    late = connect(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError, match="schema version 99"):
        await late.open()


async def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    """Opening says what is wrong, within its deadline."""
    (tmp_path / "text.db").write_text("this is a letter, not a database\n" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        await connect(f"sqlite:///{tmp_path}/text.db").open()
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        await connect(f"sqlite:///{tmp_path}/file/b.db").open()


async def test_a_closed_handle_answers(broker) -> None:
    """After the close every call returns or raises at once."""
    consumer = await broker.consume(QUEUE, credit=1)
    inbox = await broker.inbox()
    await broker.close()
    assert await consumer.take() == []
    assert await inbox.take() == []
    (receipt,) = await broker.publish(jobs(QUEUE, 1), deadline_s=5)
    assert receipt.status is PublishStatus.UNAVAILABLE
    with pytest.raises(Unavailable):
        await broker.stats([QUEUE])
    await broker.open()
    await publish(broker, *jobs(QUEUE, 1))


async def test_namespaces_do_not_meet(broker, path) -> None:
    """One file may hold several namespaces."""
    other = connect(f"sqlite:///{path}", BrokerOptions(namespace="other-team"))
    await other.open()
    (receipt,) = await other.publish(jobs(QUEUE, 1), deadline_s=5)
    assert receipt.status is PublishStatus.UNROUTABLE
    assert "other-team" in receipt.detail
    await other.close()


async def test_bytes_under_way_are_bounded() -> None:
    """The gate admits in order, lets a giant pass alone, and forgets who gave up."""
    gate = ByteGate(100)
    assert await gate.enter(80, 1)
    assert not await gate.enter(30, 0.01)
    giant = asyncio.create_task(gate.enter(500, 1))
    small = asyncio.create_task(gate.enter(10, 1))
    await asyncio.sleep(0)
    assert not giant.done()
    gate.leave(80)
    assert await giant
    assert not small.done()
    gate.leave(500)
    assert await small
