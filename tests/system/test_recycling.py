"""Workers that hold too much are replaced between jobs, and nothing is lost or run twice."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter

import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.rig import Rig

pytestmark = [pytest.mark.system, pytest.mark.slow]

TASKS = """
import asyncio, os
from taskyard.shared import Context, Queue
from taskyard.workers.selftest import record

default = Queue("default", concurrency={slots})
leaked = []

@default.task
async def leak(ctx: Context, path: str) -> None:
    leaked.append(os.urandom(1024 * 1024) * 10)
    await asyncio.sleep(0.02)
    await record.function(ctx, path, "leak")

@default.task
async def inner(ctx: Context, path: str) -> None:
    await asyncio.sleep(0.02)
    await record.function(ctx, path, "inner")

@default.task
async def outer(ctx: Context, path: str, calls: int) -> None:
    for _ in range(calls):
        await ctx.call(inner.job(path))

@default.task(ttr=0.2)
async def stuck() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return Rig(broker_url, taskyard, tmp_path)


async def test_a_large_job_finishes_and_does_not_recycle_its_worker(rig):
    """A5.6: 400 MiB under `--max-rss 300M`, alone and beside others: done, same process, no restart."""
    async with rig:
        worker = await rig.worker("--max-rss", "300M")
        large = [rig.job("large", {"mib": 400, "seconds": 1.5}) for _ in range(2)]
        await rig.send(large[0])

        async def grown():
            return await rig.metric(worker, "resident_bytes") > 400 * 2**20

        await eventually(grown)
        await rig.send(*(rig.note(str(n)) for n in range(20)))
        await rig.noted(20)
        assert await rig.metric(worker, "jobs_running", queue="default") == 1  # others went on

        async def finished(number: int) -> bool:
            return await rig.metric(worker, "jobs_finished_total", task="large") == number

        await eventually(lambda: finished(1))
        await rig.send(large[1])
        await eventually(lambda: finished(2))

        async def shrunk():
            return await rig.metric(worker, "resident_bytes") < 300 * 2**20

        await eventually(shrunk)
        await rig.send(rig.note("after"))
        runs = await rig.noted(21)
        assert {run["worker"].rpartition(":")[2] for run in runs} == {str(worker.pid)}
        assert worker.is_running
        assert "recycled" not in worker.output
        worker.terminate()
        assert await worker.wait_exit() == 0


@pytest.mark.parametrize("slots", [1, 5])
async def test_a_leak_recycles_the_worker_and_loses_nothing(rig, slots):
    """A5.6: 90 jobs that keep 10 MiB each under `--max-rss 300M`: the worker ends with 0 between
    jobs, again and again, and each job runs exactly once, uncharged.
    """
    (rig.folder / "leaky.py").write_text(TASKS.replace("{slots}", str(slots)))
    async with rig:
        ids = await rig.send(*(rig.job("leak", {"path": str(rig.notes)}) for _ in range(90)))
        lives = 0
        while len(rig.seen()) < 90:
            worker = rig.start_worker("--max-rss", "300M", module="leaky")

            def done(worker=worker):
                return not worker.is_running or len(rig.seen()) == 90

            await eventually(done, within=60)
            if not worker.is_running:
                lives += 1
                assert worker.exit_code == 0
                assert re.search(r"holds [\d.]+ MiB of memory, above the limit", worker.output)
                assert '"unsettled": 0' in worker.output
                assert "attempt handed back" not in worker.output
        assert lives >= 2
        await rig.emptied(within=30)
        runs = rig.seen()
        assert Counter(run["job"] for run in runs) == Counter(ids)
        assert {(run["attempt"], run["deliveries"]) for run in runs} == {(1, 1)}


async def test_a_stand_still_does_not_wait_for_calls(taskyard, tmp_path):
    """A5.6: a worker that leaks, and whose jobs call jobs of their own queue, which only it could
    run: it does not stand still until its patience ends, and all is done.
    """
    url = f"sqlite:///{tmp_path / 'broker.db'}"
    target = BrokerUnderTest(url=url, kind="sqlite", version=sqlite3.sqlite_version)
    rig = Rig(target, taskyard, tmp_path)
    (rig.folder / "leaky.py").write_text(TASKS.replace("{slots}", "2"))
    path = {"path": str(rig.notes)}
    async with rig:
        worker = await rig.worker("--max-rss", "150M", module="leaky")
        # One that runs when memory is seen to be too much, until the second has come on a busy
        # machine too; and one that comes only then, and still runs when that one has ended.
        await rig.send(rig.job("outer", {**path, "calls": 200}))
        await rig.noted(1)
        await rig.send(*(rig.job("leak", path) for _ in range(12)))
        await eventually(lambda: sum(run["line"] == "leak" for run in rig.seen()) == 12)
        await rig.noted(len(rig.seen()) + 15)  # three times as long as between two looks
        await rig.send(rig.job("outer", {**path, "calls": 300}))
        await worker.wait_line("no job starts until", within=30)
        assert len(rig.seen()) < 500 + 12
        await rig.noted(500 + 12, within=28)  # the first patience is 30 s
        worker.terminate()
        assert await worker.wait_exit(within=40) == 0


async def test_handlers_that_do_not_end_recycle_the_worker(rig):
    """A5.6: so many abandoned ones, and it ends with 0; running jobs finish first."""
    (rig.folder / "leaky.py").write_text(TASKS.replace("{slots}", "5"))
    async with rig:
        worker = await rig.worker("--max-abandoned", "2", "--grace", "20", module="leaky")
        await rig.send(rig.job("stuck"), rig.job("stuck"))
        assert await worker.wait_exit(within=30) == 0
        assert "handlers ran out of time and do not end (the limit is 2)" in worker.output


async def test_a_limit_below_what_an_idle_worker_holds_is_refused(rig):
    """A5.6: exit 2, naming option and need, instead of a worker that restarts for ever."""
    async with rig:
        worker = rig.start_worker("--max-rss", "10M")
        assert await worker.wait_exit(within=20) == 2
        assert re.search(r"--max-rss: 10\.0 MiB is less than the [\d.]+ MiB", worker.output)


async def test_max_jobs_ends_with_zero(rig):
    """A5.6, CR-04: exactly so many run, exit 0, the rest stays for whoever is started next."""
    async with rig:
        await rig.send(*(rig.note(str(n)) for n in range(10)))
        for total in (4, 8, 10):
            worker = rig.start_worker("--max-jobs", "4", *(["--drain"] if total == 10 else []))
            assert await worker.wait_exit(within=20) == 0
            assert len(rig.seen()) == total
        assert Counter(run["line"] for run in rig.seen()) == Counter(map(str, range(10)))


async def test_a_signal_while_it_starts_is_no_failure(rig):
    """B-13: SIGTERM before the broker is open, or before tasks are imported, ends it with 0."""
    (rig.folder / "slow_import.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(30)\n"
    )
    async with rig:
        importing = rig.start_worker(module="slow_import")
        await importing.wait_line("importing", within=20)
        importing.terminate()
        assert await importing.wait_exit(within=10) == 0

        connected = asyncio.Event()

        async def say_nothing(reader, writer):
            connected.set()
            await reader.read()  # until it goes
            writer.close()
            await writer.wait_closed()

        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        for options in ([], ["--singleton"], ["--singleton", "--processes", "2"]):
            connected.clear()
            url = f"amqp://127.0.0.1:{port}/"
            opening = rig.start_worker(*options, env={"TASKYARD_BROKER_URL": url})
            await asyncio.wait_for(connected.wait(), 20)
            opening.terminate()
            assert await opening.wait_exit(within=10) == 0, options
        silent.close()
        await silent.wait_closed()
