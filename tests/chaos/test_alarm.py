"""The broker is full while jobs flow: the queue drains all the same, and nobody hangs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.attack import Size
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.process import Program
from support.rig import QUEUE, Rig
from taskyard.shared import Job, PartialSendError

MIB = 2**20
#: One job in so many asks to be run again. Retries wait with their delivery, beside the slots: many
#: times what the slots could hold.
RETRIED = 10


class Load:
    """Jobs that flow while the alarm is on, and what the worker says of them."""

    def __init__(self, rig: Rig, jobs: int) -> None:
        self.rig = rig
        self.retries = jobs // RETRIED
        self.plain = jobs - self.retries
        self.jobs = [self._some(n) for n in range(jobs)]

    def _some(self, n: int) -> Job[Any]:
        if n % RETRIED:
            return self.rig.job("sleep", {"seconds": 0.2})
        return self.rig.job("retry", {"times": 1, "in_seconds": 0.2})

    async def ended(self, worker: Program, task: str, outcome: str) -> float:
        return await self.rig.metric(worker, "jobs_finished_total", task=task, outcome=outcome)

    async def ready(self) -> int:
        """Return how many jobs the queue still holds for anybody."""
        return (await self.rig.broker.stats([QUEUE]))[QUEUE].ready or 0

    async def taken(self, worker: Program) -> bool:
        """Say whether everything was run once, though nothing can be published."""
        return (
            await self.ready() == 0
            and await self.ended(worker, "retry", "retried") == self.retries
            and await self.ended(worker, "sleep", "succeeded") == self.plain
        )

    async def send_meanwhile(self, until: float) -> tuple[list[float], int]:
        """Send until then; return what each send took, and how many jobs were refused."""
        took: list[float] = []
        refused = 0
        while time.monotonic() < until:
            jobs, begun = [self.rig.job("noop", {"n": n}) for n in range(5)], time.monotonic()
            try:
                await self.rig.send(*jobs)
            except PartialSendError as error:
                refused += len(error.failed)
            took.append(time.monotonic() - begun)
        return took, refused

    async def recorded(self, *, within: float) -> Counter[str]:
        """Read the feed until each job has its last record; return how many `succeeded` each has."""
        wanted = {job.id for job in self.jobs}
        succeeded: Counter[str] = Counter()
        feed = await self.rig.broker.feed(credit=500)
        try:
            async with asyncio.timeout(within):
                while not wanted <= succeeded.keys():
                    items = await feed.take()
                    records = [record for item in items for record in item.records]
                    succeeded.update(r.job for r in records if r.outcome == "succeeded")
                    await feed.ack(items)
        except TimeoutError:
            pass
        finally:
            await feed.stop()
        return Counter({job: number for job, number in succeeded.items() if job in wanted})


@pytest.mark.breaks_broker
@pytest.mark.on_cluster
@pytest.mark.server_only
async def test_a_memory_alarm_under_load(
    size: Size, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """Promise 7, pain 9: the worker drains the queue in flat memory, no send outlives its deadline,
    afterwards everything completes, and each job has its record or is counted as unrecorded.
    """
    lasting_s = size.of(10.0, 60.0)
    async with Rig(broker_url, taskyard, tmp_path, ledger=True) as rig:
        load = Load(rig, size.of(1_500, 6_000))
        await rig.send(*load.jobs)
        worker = await rig.worker("--concurrency", "40")

        async def busy() -> bool:
            return await load.ended(worker, "sleep", "succeeded") > 100

        await eventually(busy, within=20)
        await broker_url.set_memory_alarm(on=True)
        since = time.monotonic()
        await worker.wait_line("takes no publishes", within=20)
        early, left = worker.proportional_bytes(), await load.ready()
        assert left > 100

        took, refused = await load.send_meanwhile(since + lasting_s)
        assert max(took) < 12, took
        assert refused >= 5
        await eventually(lambda: load.taken(worker), within=30, every=0.3)
        grown = worker.proportional_bytes() - early
        print(f"memory grew by {grown / MIB:.1f} MiB; {left} jobs were left; refused {refused}")
        assert abs(grown) < 20 * MIB
        assert (await rig.probe(worker, "/livez")).status_code == 200

        await broker_url.set_memory_alarm(on=False)

        async def complete() -> bool:
            return await load.ended(worker, "retry", "succeeded") == load.retries

        await eventually(complete, within=30, every=0.3)
        # Afterwards a send is as quick as ever, and its job runs.
        await rig.send(rig.note("afterwards"))
        (run,) = await rig.noted(1)
        assert run["started"] - run["due"] < 1
        succeeded = await load.recorded(within=20)
        unrecorded = await rig.metric(worker, "unrecorded_total")
        assert len(succeeded) + unrecorded >= len(load.jobs)
        assert set(succeeded.values()) == {1}
        assert [job async for job in rig.broker.parked(QUEUE)] == []
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        assert await load.ready() == 0
