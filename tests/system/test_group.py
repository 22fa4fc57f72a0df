"""`--processes N`: several workers as one; whoever dies, whatever is asked of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter

import httpx
import psutil
import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.ports import free_port
from support.process import wait_gone_blocking
from support.rig import QUEUE, Rig

pytestmark = [pytest.mark.system]

LEAKY = """
import asyncio, os
from taskyard.shared import Context, Queue
from taskyard.workers.selftest import record, sleep

default = Queue("default", concurrency=2)
leaked = []

@default.task
async def leak(ctx: Context, path: str) -> None:
    leaked.append(os.urandom(1024 * 1024) * 10)
    await asyncio.sleep(0.02)
    await record.function(ctx, path, "leak")
"""

DYING = """
import os, signal, sys
from taskyard.shared import Queue

default = Queue("default")

@default.task
async def never() -> None: ...

if any(word.startswith("--supervised") for word in sys.argv):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return Rig(broker_url, taskyard, tmp_path)


@pytest.fixture
def embedded(taskyard, tmp_path):
    """A rig for what concerns processes and not the broker."""
    target = BrokerUnderTest(url=f"sqlite:///{tmp_path / 'broker.db'}", kind="sqlite", version="3")
    return Rig(target, taskyard, tmp_path)


def children(program):
    """Return the process ids of a supervisor's workers."""
    return [child.pid for child in psutil.Process(program.pid).children()]


async def test_one_endpoint_for_all(rig):
    """A5.6: N processes work; one port shows their sums, ready when all are; a killed one is started
    again and no counter goes back; SIGTERM ends all in good order.
    """
    async with rig:
        group = await rig.worker("--processes", "2", "--concurrency", "3")
        pids = children(group)
        assert len(pids) == 2
        assert len(re.findall("health server listens", group.output)) == 1
        assert await rig.metric(group, "slots", queue=QUEUE) == 6
        await rig.send(*(rig.note(str(n)) for n in range(200)))
        await rig.noted(200)

        async def counted(number: int) -> bool:
            return await rig.metric(group, "jobs_finished_total", task="record") == number

        await eventually(lambda: counted(200))
        assert len({run["worker"] for run in rig.seen()}) == 2
        os.kill(pids[0], signal.SIGKILL)
        await group.wait_line("a process ended and is started again", within=20)
        assert await counted(200)
        await rig.ready(group)
        assert len(set(children(group)) - set(pids)) == 1
        assert await rig.metric(group, "process_restarts_total", why="failed") == 1
        await rig.send(*(rig.note(str(n)) for n in range(100)))
        await rig.noted(300)
        await eventually(lambda: counted(300))
        signs = (await rig.probe(group, "/livez")).json()
        assert signs["alive"] is True
        assert {member["pid"] for member in signs["members"]} == set(children(group))
        left = children(group)
        await rig.send(rig.job("sleep", {"seconds": 2}), rig.job("sleep", {"seconds": 2}))

        async def both_run():
            return await rig.metric(group, "jobs_running", queue=QUEUE) == 2

        await eventually(both_run)
        group.terminate()
        assert await group.wait_exit(within=20) == 0
        assert "attempt handed back" not in group.output
        for pid in left:
            wait_gone_blocking(pid)
        assert len(re.findall('"worker stopped"', group.output)) == 2


@pytest.mark.slow
async def test_a_leak_under_a_supervisor(rig):
    """A5.6: 120 jobs that keep 10 MiB each, two processes, `--max-rss 300M`, drained: each runs once,
    processes are recycled, counters add up over all their lives, exit 0.
    """
    (rig.folder / "leaky.py").write_text(LEAKY)
    async with rig:
        ids = await rig.send(*(rig.job("leak", {"path": str(rig.notes)}) for _ in range(120)))
        group = rig.start_worker("--processes", "2", "--max-rss", "300M", module="leaky")
        runs = await rig.noted(120, within=90)

        async def counted():
            return await rig.metric(group, "jobs_finished_total", task="leak") == 120

        await eventually(counted, within=20)
        assert await rig.metric(group, "process_restarts_total", why="recycled") >= 2
        assert await rig.metric(group, "process_restarts_total", why="failed") == 0
        await rig.emptied()
        assert Counter(run["job"] for run in runs) == Counter(ids)
        assert {(run["attempt"], run["deliveries"]) for run in rig.seen()} == {(1, 1)}
        group.terminate()
        assert await group.wait_exit(within=20) == 0


async def test_a_killed_supervisor_takes_its_processes_along(rig):
    """SIGKILL of the supervisor: nobody is left behind, and what ran comes again elsewhere."""
    async with rig:
        group = await rig.worker("--processes", "2")
        await rig.send(rig.job("sleep", {"seconds": 50}))
        pids = children(group)

        async def runs():
            return await rig.metric(group, "jobs_running", queue=QUEUE) == 1

        await eventually(runs)
        # Stopped first: given the job between two deaths, where deliveries are recounted by a copy,
        # the second might leave copy and original behind, and the job would run twice.
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        group.kill()
        for pid in pids:
            await asyncio.to_thread(wait_gone_blocking, pid, within=2)
        second = await rig.worker("--grace", "0")

        async def again():
            return await rig.metric(second, "jobs_running", queue=QUEUE) == 1

        await eventually(again, within=30)


@pytest.mark.slow
async def test_processes_that_die_in_a_loop_are_started_less_often(embedded):
    """Processes that kill themselves at their start do not spin: the pauses grow; the supervisor
    lives, is not ready, and still stops when it is told to.
    """
    (embedded.folder / "dying.py").write_text(DYING)
    async with embedded:
        group = embedded.start_worker("--processes", "2", module="dying")
        line = await group.wait_line("started again", within=60, count=8)
        delays = Counter(map(float, re.findall(r'"in_s": ([\d.]+)', group.output)))
        assert delays[0.5] == delays[1] == delays[2] == 2
        assert '"exit_code": -9' in line
        assert (await embedded.probe(group, "/readyz")).status_code == 503
        assert (await embedded.probe(group, "/livez")).status_code == 200
        group.terminate()
        assert await group.wait_exit(within=5) == 0


async def test_a_port_in_use_is_told_before_anything_starts(embedded):
    """CR-05: exit 2, naming the setting; no process was started."""
    async with embedded:
        port = free_port()
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        group = embedded.start_worker("--processes", "2", env={"TASKYARD_METRICS_PORT": str(port)})
        assert await group.wait_exit(within=20) == 2
        assert "TASKYARD_METRICS_PORT" in group.output
        assert "worker started" not in group.output
        server.close()


async def test_a_group_that_cannot_work_gives_up(embedded):
    """Exit 2 with the reason of one worker, which nobody would mend by trying again."""
    async with embedded:
        group = embedded.start_worker("--processes", "2", "--max-rss", "10M")
        assert await group.wait_exit(within=30) == 2
        assert "is less than the" in group.output


async def test_a_group_drains(rig):
    """CR-01, CR-02: with `--singleton` too: all is done, exit 0, and the lock is free again."""
    async with rig:
        await rig.send(*(rig.note(str(n)) for n in range(50)))
        for _ in range(2):
            group = rig.start_worker("--processes", "2", "--drain", "--singleton")
            assert await group.wait_exit(within=40) == 0
        assert Counter(run["line"] for run in rig.seen()) == Counter(map(str, range(50)))


@pytest.mark.slow
async def test_a_frozen_process_is_replaced(embedded):
    """One that is stopped reports nothing: it is killed and started again, its job comes again."""
    async with embedded:
        group = await embedded.worker("--processes", "2", "--grace", "0")
        frozen = children(group)[0]
        os.kill(frozen, signal.SIGSTOP)

        async def told():
            response: httpx.Response = await embedded.probe(group, "/livez")
            return response.status_code == 503 and f"process {frozen}" in response.text

        await eventually(told, within=40, every=0.2)
        await asyncio.to_thread(wait_gone_blocking, frozen, within=60)
        await embedded.ready(group, within=30)
        group.terminate()
        assert await group.wait_exit(within=30) == 0
