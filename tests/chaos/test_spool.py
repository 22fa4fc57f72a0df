"""The broker is away while a program sends, and the program is killed: nothing that was sent is lost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.attack import Size
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.process import Program, run_taskyard
from support.responder import create_queues
from taskyard.shared.broker import Broker
from taskyard.shared.brokers import connect
from taskyard.shared.settings import Settings
from taskyard.shared.spool import connect_spool, survey

QUEUE = "spooled"

SENDER = """
import asyncio, sys, time
from taskyard.producer import AsyncProducer
from taskyard.shared import Job

FIRST, LAST, PER_SECOND, DEADLINE_S = map(float, sys.argv[1:])

async def main():
    slowest, spooled, began = 0.0, 0, time.monotonic()
    async with AsyncProducer() as producer:
        async def send(n):
            nonlocal slowest, spooled
            since = time.monotonic()
            job = Job(queue="spooled", task="t", args={"n": n}, id=f"job-{n}")
            handle = await producer.send(job, deadline=DEADLINE_S)
            slowest = max(slowest, time.monotonic() - since)
            spooled += handle.spooled
            print("sent", n, flush=True)
        async with asyncio.TaskGroup() as group:
            for n in range(int(FIRST), int(LAST)):
                await asyncio.sleep(max(0.0, began + (n - FIRST) / PER_SECOND - time.monotonic()))
                group.create_task(send(n))
        print("done", slowest, spooled, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


class Outage:
    """A program that sends numbered jobs, and what has come of them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.spool = f"sqlite:///{folder / 'spool.db'}"
        self.script = folder / "sender.py"
        self.script.write_text(SENDER)
        self._folder = folder

    @property
    def env(self) -> Mapping[str, str]:
        return {"TASKYARD_BROKER_URL": self.url, "TASKYARD_SPOOL_URL": self.spool}

    def sender(self, first: int, last: int, per_second: float, deadline_s: float) -> Program:
        argv = [sys.executable, str(self.script), str(first), str(last), str(per_second)]
        log = self._folder / f"sender-{first}.log"
        return Program([*argv, str(deadline_s)], log=log, env=self.env)

    def broker(self) -> Broker:
        """Return a client of the broker, not yet open."""
        return connect(self.url, Settings(broker_url=self.url).broker_options("test"))

    async def arrived(self) -> list[str]:
        """Return the ids of what is in the queue, in order."""
        broker = self.broker()
        await broker.open()
        try:
            number = (await broker.stats([QUEUE]))[QUEUE].ready
            flow = await broker.consume(QUEUE, credit=number + 10)
            found: list[str] = []
            while len(found) < number:
                found += [each.envelope.id for each in await flow.take()]
            return found
        finally:
            await broker.close(abort=True)

    async def left(self) -> int:
        store = connect_spool(self.spool)
        await store.open()
        state = await survey(store)
        await store.close()
        assert state.refused == 0
        return state.pending


def sent(program: Program) -> set[str]:
    return {f"job-{line.split()[1]}" for line in program.lines if line.startswith("sent ")}


@pytest.mark.in_full
@pytest.mark.breaks_broker
@pytest.mark.on_cluster
@pytest.mark.server_only
async def test_an_outage_under_load(
    size: Size, broker_url: BrokerUnderTest, tmp_path: Path
) -> None:
    """Graceful decay: the broker is down for a time under steady sends: each returns within its
    deadline, every job arrives, and the spool is empty afterwards.
    """
    per_second, down_s = size.of((200.0, 4.0), (500.0, 60.0))
    deadline_s = 10.0
    jobs = int(per_second * (down_s + size.of(8, 30)))
    await create_queues(broker_url.url, QUEUE)
    outage = Outage(broker_url.url, tmp_path)
    with outage.sender(0, jobs, per_second, deadline_s) as sender:
        await sender.wait_line(f"^sent {int(per_second)}$", within=30)
        await broker_url.stop_broker()
        last = int(sender.lines[-1].split()[-1])
        await sender.wait_line(f"^sent {int(last + per_second * down_s)}$", within=down_s + 30)
        await broker_url.start_broker()
        line = await sender.wait_line("^done", within=jobs / per_second + 30)
        slowest_s, spooled = map(float, line.split()[1:])

        async def all_there() -> bool:
            broker = outage.broker()
            await broker.open()
            ready = (await broker.stats([QUEUE]))[QUEUE].ready
            await broker.close()
            return ready >= jobs

        await eventually(all_there, within=60, every=0.5)
        assert await outage.left() == 0
    ids = await outage.arrived()
    print(f"slowest send {slowest_s:.2f} s, {spooled:.0f} of {jobs} spooled, {len(ids)} arrived")
    assert slowest_s < deadline_s
    assert spooled >= per_second * down_s
    assert set(ids) == {f"job-{n}" for n in range(jobs)}
    # What the broker had stored without saying so is sent again, as the same job.
    assert len(ids) - jobs <= per_second


@pytest.mark.in_full
@pytest.mark.breaks_broker
@pytest.mark.on_cluster
@pytest.mark.server_only
async def test_a_program_dies_in_the_outage(
    size: Size, broker_url: BrokerUnderTest, tmp_path: Path
) -> None:
    """SIGKILL of the program in the middle of it: whatever a send returned for arrives, by the next
    program or by `taskyard relay`.
    """
    per_second, jobs = size.of((200.0, 1_000), (500.0, 15_000))
    await create_queues(broker_url.url, QUEUE)
    outage = Outage(broker_url.url, tmp_path)
    promised: set[str] = set()
    for first in (0, jobs):
        with outage.sender(first, first + jobs, per_second, 10.0) as sender:
            await sender.wait_line(f"^sent {first + jobs // 4}$", within=60)
            if first == 0:
                await broker_url.stop_broker()
            await sender.wait_line(f"^sent {first + jobs // 2}$", within=60)
            if first:
                await broker_url.start_broker()
            await sender.wait_line(f"^sent {first + jobs * 3 // 4}$", within=60)
            sender.kill()
            await sender.wait_exit()
            promised |= sent(sender)
    code, said = run_taskyard("relay", log=tmp_path / "relay.log", env=outage.env, within=120)
    assert code == 0, said
    ids = await outage.arrived()
    print(f"{len(promised)} promised, {len(ids)} arrived, of them {len(set(ids))} different")
    assert promised <= set(ids)
    assert await outage.left() == 0
