"""Several processes on one SQLite file: deaths, freezes, races and forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from support.sql_actor import QUEUE, opened, set_up
from taskyard.shared.adapters.sql import SqlBroker
from taskyard.shared.broker import PublishStatus, Settlement
from taskyard.shared.conformance.scene import ids, jobs, publish

TESTS = Path(__file__).parents[1]


class Actor:
    """A child process running one function of `support.sql_actor`."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.sql_actor", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(15):
            return (await asyncio.to_thread(self.process.stdout.readline)).strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


@pytest.fixture
def act() -> Iterator[Callable[..., Actor]]:
    actors: list[Actor] = []

    def start(*arguments: object) -> Actor:
        actors.append(Actor(*arguments))
        return actors[-1]

    yield start
    for actor in actors:
        actor.kill()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqlBroker]:
    broker = await opened(str(tmp_path / "b.db"))
    await set_up(broker)
    yield broker
    await broker.close()


async def test_a_killed_process_gives_its_jobs_back_at_once(act, broker, tmp_path) -> None:
    """SIGKILL is seen by the file lock, long before the lease ends; the hand-over is counted."""
    sent = jobs(QUEUE, 3)
    await publish(broker, *sent)
    victim = act("hold", tmp_path / "b.db", 3, 3600)
    assert await victim.line() == "took 3"
    consumer = await broker.consume(QUEUE, credit=10)
    assert (await broker.stats([QUEUE]))[QUEUE].unsettled == 3
    victim.process.kill()
    async with asyncio.timeout(2.0):
        got = list(await consumer.take())
    assert ids([d.envelope for d in got]) == ids(sent)
    assert {(d.redelivered, d.failures) for d in got} == {(True, 1)}


async def test_a_frozen_process_loses_its_jobs_with_its_lease(act, broker, tmp_path) -> None:
    """A stopped process keeps its file lock; its lease ends, and its late settle is fenced off."""
    await publish(broker, *jobs(QUEUE, 2))
    frozen = act("hold", tmp_path / "b.db", 2, 1)
    assert await frozen.line() == "took 2"
    consumer = await broker.consume(QUEUE, credit=10)
    frozen.process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(5.0):
        got = list(await consumer.take())
    assert [(d.redelivered, d.failures) for d in got] == [(True, 1)] * 2
    frozen.tell()
    frozen.process.send_signal(signal.SIGCONT)
    assert await frozen.line() == "lost lost"
    assert (await broker.stats([QUEUE]))[QUEUE].unsettled == 2


async def test_a_slow_process_keeps_its_jobs(act, broker, tmp_path) -> None:
    """The lease is renewed as long as the process moves: a job may take many leases."""
    await publish(broker, *jobs(QUEUE, 1))
    slow = act("hold", tmp_path / "b.db", 1, 0.6)
    assert await slow.line() == "took 1"
    consumer = await broker.consume(QUEUE, credit=10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.0):
            await consumer.take()
    slow.tell()
    assert await slow.line() == "settled"


async def test_each_job_runs_once_under_four_processes(act, broker, tmp_path) -> None:
    """Four processes that claim from one queue never share a job."""
    workers = [act("work", tmp_path / "b.db", tmp_path / f"out{n}") for n in range(4)]
    for worker in workers:
        assert await worker.line() == "ready"
    sent = jobs(QUEUE, 3000)
    for start in range(0, len(sent), 500):
        await publish(broker, *sent[start : start + 500])
    async with asyncio.timeout(20):
        while True:
            now = (await broker.stats([QUEUE]))[QUEUE]
            if not now.ready and not now.unsettled:
                break
            await asyncio.sleep(0.02)
    ran = [(tmp_path / f"out{n}").read_text().split() for n in range(4)]
    assert sorted(id for some in ran for id in some) == sorted(ids(sent))
    assert sum(bool(some) for some in ran) >= 2


async def test_confirmed_jobs_survive_the_death_of_everybody(act, broker, tmp_path) -> None:
    """What was confirmed is in the file, however its writer dies (promise 1)."""
    writer = act("publish_many", tmp_path / "b.db", 50)
    confirmed = 0
    while confirmed < 500:
        confirmed = int(await writer.line())
    writer.process.kill()
    await broker.crash()
    heir = await opened(str(tmp_path / "b.db"))
    assert (await heir.stats([QUEUE]))[QUEUE].ready >= confirmed
    await heir.close()


async def test_racing_creators_make_one_schema(act, tmp_path) -> None:
    """Processes that meet at a new file all succeed: one creates, the others find."""
    path = tmp_path / "new" / "folder" / "b.db"
    actors = [act("create", path) for _ in range(4)]
    for actor in actors:
        actor.tell()
    assert [await actor.line() for actor in actors] == ["confirmed"] * 4
    broker = await opened(str(path))
    assert (await broker.stats([QUEUE]))[QUEUE].ready == 4
    await broker.close()


async def test_a_fork_neither_uses_nor_keeps_the_handle(act, broker, tmp_path) -> None:
    """A child is refused in words, and its living on does not hide the parent's death."""
    await publish(broker, *jobs(QUEUE, 1))
    parent = act("fork", tmp_path / "b.db")
    assert await parent.line() == "refused True"
    consumer = await broker.consume(QUEUE, credit=1)
    parent.process.kill()
    async with asyncio.timeout(2.0):
        (delivery,) = await consumer.take()
    assert delivery.failures == 1


@pytest.mark.system
@pytest.mark.slow
async def test_publishing_goes_on_beside_a_busy_process(act, broker, tmp_path) -> None:
    """A process that writes without a pause does not shut the others out."""
    writer = act("publish_many", tmp_path / "b.db", 1000)
    await writer.line()
    for _ in range(50):
        (receipt,) = await broker.publish(jobs(QUEUE, 1), deadline_s=2.0)
        assert receipt.status is PublishStatus.CONFIRMED
    consumer = await broker.consume(QUEUE, credit=5)
    got = await consumer.take()
    await broker.settle([Settlement(delivery=d) for d in got], deadline_s=2.0)
