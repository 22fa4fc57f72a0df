"""Everything dies, or the broker is full: nothing is lost, and nobody hangs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from typing import Any

import pytest

from support.eventually import eventually
from support.process import Program
from support.rig import QUEUE, Rig
from taskyard.shared import Job, PartialSendError

pytestmark = [pytest.mark.system, pytest.mark.slow]

MIB = 2**20

SENDER = """
import sys, time
from taskyard.producer import Producer
from taskyard.shared import Job

producer = Producer()
jobs = [
    Job(queue="default", task="record", args={"path": sys.argv[1], "line": str(n)})
    for n in range(1000)
]
print("sent", len(producer.send_many(jobs)), flush=True)
time.sleep(600)
"""


@pytest.mark.breaks_broker
async def test_a_thousand_jobs_outlive_everybody(broker_url, taskyard, tmp_path):
    """ZS-30, BS-19, promise 1: sender, worker and broker are killed with SIGKILL, one after another,
    the worker in mid-work: every job runs, at worst a second time.
    """
    script = tmp_path / "sender.py"
    script.write_text(SENDER)
    rig = Rig(broker_url, taskyard, tmp_path)
    async with rig:
        pass
    argv = [sys.executable, str(script), str(rig.notes)]
    with Program(argv, log=tmp_path / "sender.log", env=rig.env()) as sender:
        await sender.wait_line("sent 1000", within=30)
        sender.kill()
        await sender.wait_exit()
    first = taskyard("worker", "taskyard.workers.selftest", env=rig.env(), cwd=tmp_path)
    await rig.noted(100)
    first.kill()
    await first.wait_exit()
    await broker_url.kill_broker()
    async with Rig(broker_url, taskyard, tmp_path) as again:
        await again.worker()

        def all_ran() -> bool:
            return len({run["line"] for run in again.seen()}) == 1000

        await eventually(all_ran, within=60, every=0.2)
        await again.emptied()
        runs = again.seen()
        assert {run["line"] for run in runs} == {str(n) for n in range(1000)}
        assert len({run["job"] for run in runs}) == 1000
        number = Counter(run["job"] for run in runs)
        # At least once: a killed broker may have forgotten acknowledgements that were not on disk.
        assert max(number.values()) <= 2
        assert {run["attempt"] for run in runs} == {1}


@pytest.mark.breaks_broker
@pytest.mark.timeout(300)
@pytest.mark.server_only
async def test_a_minute_of_memory_alarm_under_load(broker_url, taskyard, tmp_path):
    """Promise 7: 60 s of alarm during load, one job in ten retried: the worker drains the queue in
    flat memory, no send outlives its deadline, and afterwards everything completes.
    """
    rig = Rig(broker_url, taskyard, tmp_path, ledger=True)
    node = broker_url.own_node()
    # Retries wait with their delivery, beside the slots: many times what the slots could hold.
    load, retries = 6_000, 600

    def some(n: int) -> Job[Any]:
        if n % (load // retries):
            return rig.job("sleep", {"seconds": 0.2})
        return rig.job("retry", {"times": 1, "in_seconds": 0.2})

    async with rig:
        await rig.send(*map(some, range(load)))
        worker = await rig.worker("--concurrency", "40")

        async def ended(task: str, outcome: str) -> float:
            return await rig.metric(worker, "jobs_finished_total", task=task, outcome=outcome)

        async def ready() -> int:
            return (await rig.broker.stats([QUEUE]))[QUEUE].ready or 0

        async def busy() -> bool:
            return await ended("sleep", "succeeded") > 100

        await eventually(busy, within=20)
        await asyncio.to_thread(node.set_memory_alarm, on=True)
        since = time.monotonic()
        await worker.wait_line("takes no publishes", within=20)
        early, left = worker.proportional_bytes(), [await ready()]
        assert left[0] > load / 2

        took: list[float] = []
        refused = 0
        while time.monotonic() - since < 60:
            jobs, begun = [rig.job("noop", {"n": n}) for n in range(5)], time.monotonic()
            try:
                await rig.send(*jobs)
            except PartialSendError as error:
                refused += len(error.failed)
            took.append(time.monotonic() - begun)
            left.append(await ready())
        assert max(took) < 12, took
        assert refused >= 5
        assert left == sorted(left, reverse=True)
        assert left[-1] == 0, left
        assert await ended("retry", "retried") == retries
        assert await ended("sleep", "succeeded") == load - retries
        assert worker.proportional_bytes() - early < 30 * MIB
        assert (await rig.probe(worker, "/livez")).status_code == 200

        await asyncio.to_thread(node.set_memory_alarm, on=False)

        async def complete() -> bool:
            return await ended("retry", "succeeded") == retries

        await eventually(complete, within=30, every=0.3)
        # Afterwards a send is as quick as ever, and its job runs.
        await rig.send(rig.note("afterwards"))
        (run,) = await rig.noted(1)
        assert run["started"] - run["due"] < 1
        assert await rig.metric(worker, "unrecorded_total") == 0
        assert [job async for job in rig.broker.parked(QUEUE)] == []
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        assert await ready() == 0
