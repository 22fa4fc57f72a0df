"""What waits is nobody's burden: delayed jobs, held jobs, idle workers, and a month on the calendar."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.eventually import eventually
from support.process import Program
from support.rig import QUEUE, Rig

pytestmark = [pytest.mark.system, pytest.mark.slow]

MIB = 2**20


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return Rig(broker_url, taskyard, tmp_path)


async def settled_memory(worker: Program) -> int:
    """Return a process's proportional memory once it has stopped moving."""
    sizes = [worker.proportional_bytes()]

    def still() -> bool:
        sizes.append(worker.proportional_bytes())
        return len(sizes) > 5 and max(sizes[-5:]) - min(sizes[-5:]) < 256 * 1024

    await eventually(still, within=20, every=0.1)
    return sizes[-1]


async def delayed(rig: Rig) -> int:
    """Return how many delayed jobs the broker holds, as its own numbers tell."""
    if rig.target.kind == "sqlite":
        return (await rig.broker.stats([QUEUE]))[QUEUE].scheduled or 0
    node = rig.target.own_node()
    vhost = rig.target.url.rpartition("/")[2]
    listed = await asyncio.to_thread(
        node.ctl, "list_queues", "-p", vhost, "name", "messages", "--quiet", "--no-table-headers"
    )
    rows = [line.split() for line in listed.splitlines() if line.strip()]
    return sum(int(row[1]) for row in rows if row[0].startswith("taskyard.delay"))


@pytest.mark.timeout(300)
async def test_a_minute_of_waiting(rig):
    """SQ-04, LQ-25, promise 6: 100 000 delayed jobs and a held one, for a minute: the worker's memory
    does not grow, the held job has no further attempt, and a job that comes then runs at once.
    """
    async with rig:
        worker = await rig.worker("--concurrency", "50")
        await rig.send(*(rig.job("noop", {"n": n}) for n in range(2_000)))
        await rig.emptied()
        (held,) = await rig.send(rig.job("hold", {"reason": "look"}))
        await rig.parked(1)
        since = time.monotonic()
        before = await settled_memory(worker)
        for start in range(0, 100_000, 10_000):
            await rig.send(
                *(
                    rig.job("noop", {"n": n}, delay=3600 + n % 4000)
                    for n in range(start, start + 10_000)
                )
            )
        await asyncio.sleep(max(60 - (time.monotonic() - since), 0))  # waiting is what is tested
        after = await settled_memory(worker)
        assert after - before < 4 * MIB, (before / MIB, after / MIB)
        assert len([line for line in worker.lines if held in line]) == 1
        assert len([job async for job in rig.broker.parked(QUEUE)]) == 1
        await rig.send(rig.note("at once"))
        (run,) = await rig.noted(1)
        assert run["started"] - run["due"] < 1
        assert (await rig.probe(worker, "/livez")).status_code == 200
        fresh = await rig.worker()
        assert await settled_memory(fresh) - before < 4 * MIB


@pytest.mark.breaks_broker
async def test_a_month_survives_a_restart(rig):
    """LQ-06, promise 1: a delay of 30 days is accepted and is there after `kill -9` and a restart of
    the broker; a short one, sent beside it, comes when it is due, and no sooner.
    """

    async def life(number: int) -> None:
        """Let a worker run one job that is ready; a broker is killed in use, not in its set-up."""
        async with Rig(rig.target, rig._start, rig.folder) as now:
            worker = await now.worker()
            await now.send(now.note("ready"))
            await eventually(lambda: len({run["job"] for run in now.seen()}) == number)
            worker.terminate()
            assert await worker.wait_exit() == 0

    async with rig:
        await rig.send(rig.note("in a month", delay="30d"), rig.note("soon", delay=25))
    await life(1)
    await rig.target.kill_broker()
    await life(2)
    await rig.target.restart_broker()
    async with Rig(rig.target, rig._start, rig.folder) as again:
        await again.worker()

        def came() -> bool:
            return bool([run for run in again.seen() if run["line"] == "soon"])

        await eventually(came, within=40)
        runs = again.seen()
        # A killed broker may have forgotten an acknowledgement, never a job.
        assert {run["line"] for run in runs} == {"ready", "soon"}
        assert len({run["job"] for run in runs}) == 3
        assert all(run["started"] >= run["due"] for run in runs)

        async def one_left() -> bool:
            return await delayed(again) == 1

        await eventually(one_left, within=20, every=0.5)
