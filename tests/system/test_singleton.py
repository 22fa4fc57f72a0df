"""`--singleton`: one worker at a time, whoever is killed, stopped or continued."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import time
from functools import partial

import pytest

from support.eventually import eventually
from support.process import run_taskyard
from support.rig import Rig
from taskyard.shared.broker import Held, Owner

pytestmark = [pytest.mark.system]

#: Notes when it begins and when it ends, each in one write.
TASKS = """
import asyncio, json, os, time
from taskyard.shared import Queue
default = Queue("default", concurrency=1)

@default.task
async def span(path: str, seconds: float) -> None:
    def note(what):
        with open(path, "a", buffering=1) as file:
            file.write(json.dumps([what, os.getpid(), time.monotonic()]) + "\\n")
    note("begin")
    await asyncio.sleep(seconds)
    note("end")
"""


class SingletonRig(Rig):
    """A rig whose workers can say who holds a lock, with jobs that tell when they begin and end."""

    def env(self, **more):
        url = self.target.management_url
        return super().env(**({"TASKYARD_MANAGEMENT_URL": url} if url else {}), **more)

    async def singleton(self, *options, module="spans"):
        (self.folder / "spans.py").write_text(TASKS)
        return self.start_worker("--singleton", *options, module=module)

    async def takes_over(self, *options, within):
        """Start singletons until one gets the lock; return it, and when it had it."""
        until = time.monotonic() + within
        while True:
            worker = await self.singleton(*options)

            def decided(worker=worker):
                return "lock taken" in worker.output or not worker.is_running

            await eventually(decided, within=30)
            if worker.is_running:
                return worker, time.monotonic()
            assert worker.exit_code == 75
            assert time.monotonic() < until, "nobody got the lock"
            await asyncio.sleep(0.4)

    def span(self, seconds: float):
        return self.job("span", {"path": str(self.notes), "seconds": seconds})

    def has_spans(self, number: int) -> bool:
        return len(self.spans()) == number

    def spans(self, pid: int | None = None):
        """Return (what, pid, instant), in order; `pid`: only of that process."""
        if not self.notes.exists():
            return []
        rows = [json.loads(line) for line in self.notes.read_text().splitlines()]
        return [row for row in rows if pid is None or row[1] == pid]


async def free(broker):
    """Take the workers' lock and give it back; false while another has it."""
    lease = await broker.lock("worker-default", Owner(host="probe", pid=1, since_ms=1))
    if isinstance(lease, Held):
        return False
    await lease.release()
    return True


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return SingletonRig(broker_url, taskyard, tmp_path)


async def test_the_second_exits_75_naming_the_first(rig):
    """CR-02, CR-07: host, pid and since; drains and plain workers alike; shown while it runs, and
    gone after; a name of one's own is another lock.
    """
    async with rig:
        await rig.send(rig.span(50))
        before = time.time()
        first = await rig.singleton("--drain", "--grace", "0")
        await first.wait_line("lock taken", within=20)
        for options in (["--drain"], [], ["--processes", "2"]):
            second = await rig.singleton(*options)
            assert await second.wait_exit(within=20) == 75, options
            found = re.search(
                r"already running: pid (\d+) on host (\S+) holds the lock worker-default since (\S+)",
                second.output,
            )
            assert found is not None, second.output
            assert int(found[1]) == first.pid
            assert found[2] == os.uname().nodename
            assert "+00:00" in found[3]
        code, output = await asyncio.to_thread(
            run_taskyard,
            *("broker", "locks", "--json"),
            log=rig.folder / "locks.log",
            env=rig.env(),
        )
        assert code == 0, output
        (lock,) = json.loads(output)
        assert (lock["lock"], lock["pid"]) == ("worker-default", first.pid)
        assert before - 1 < lock["since_ms"] / 1000 < time.time() + 1
        other = await rig.singleton("--singleton-name", "other", "--drain")
        await other.wait_line("lock taken", within=20)
        await eventually(rig.spans, within=20)
        assert await other.wait_exit(within=30) == 0
        assert [what for what, *_ in rig.spans()] == ["begin"]
        first.terminate()
        assert await first.wait_exit(within=20) == 0
        code, output = await asyncio.to_thread(
            run_taskyard, "broker", "locks", log=rig.folder / "none.log", env=rig.env()
        )
        assert code == 0
        assert "worker-default" not in output


async def test_a_killed_holder_frees_the_lock_at_once(rig):
    """CR-02: `kill -9` of the holder, in the middle of a job: a worker that is started within two
    seconds has the lock, and runs the job again.
    """
    async with rig:
        await rig.send(rig.span(3))
        first = await rig.singleton()
        await eventually(rig.spans, within=20)
        first.kill()
        killed_s = time.monotonic()
        # Asked from here: the import of a worker's modules is not the lock's time.
        await eventually(lambda: free(rig.broker), within=2, every=0.4)
        assert time.monotonic() - killed_s < 2
        second, _ = await rig.takes_over(within=5)
        await eventually(lambda: len(rig.spans(second.pid)) == 2, within=60)
        second.terminate()
        assert await second.wait_exit(within=20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
async def test_a_stopped_holder_is_replaced_and_knows_it(rig, processes):
    """CR-02: SIGSTOP in the middle of a job frees the lock in less than 30 s; continued, the former
    holder starts nothing more and ends, though hundreds of jobs wait: no two run at once.
    """
    async with rig:
        await rig.send(rig.span(0.5), *(rig.span(0.05) for _ in range(600)))
        options = ["--processes", str(processes)] if processes > 1 else []
        first = await rig.singleton(*options)
        await eventually(rig.spans, within=20)
        first.freeze()
        stopped_s = time.monotonic()
        second, taken_s = await rig.takes_over(within=30)
        assert taken_s - stopped_s < 30
        await eventually(lambda: rig.spans(second.pid), within=60)
        first.thaw()
        thawed_s = time.monotonic()
        assert await first.wait_exit(within=20) == 1
        assert "lock" in first.lines[-1]
        begun = [row for row in rig.spans() if row[0] == "begin" and row[1] != second.pid]
        taking_s = rig.spans(second.pid)[0][2]
        assert [row for row in begun if row[2] > min(taking_s, thawed_s)] == []
        count = len(rig.spans(second.pid))
        await eventually(lambda: len(rig.spans(second.pid)) > count, within=20)
        second.terminate()
        assert await second.wait_exit(within=40) == 0


@pytest.mark.server_only
@pytest.mark.slow
async def test_a_stopped_member_is_no_second_singleton(rig):
    """CR-02: SIGSTOP of one of two processes in the middle of a job: the group keeps its lock, the
    other one gets the job after the heartbeat; continued, the first starts nothing of what it had
    and works on: each job ends once, but for the one that was in its hands.
    """
    async with rig:
        (rig.folder / "spans.py").write_text(TASKS)
        options = ("--singleton", "--processes", "2")
        worker = await rig.worker(*options, module="spans", env={"TASKYARD_HEARTBEAT": "2"})
        await rig.send(*(rig.span(0.3) for _ in range(4)))
        await eventually(rig.spans, within=20)
        stopped = rig.spans()[0][1]
        os.kill(stopped, signal.SIGSTOP)
        seen = len(rig.spans(stopped))
        await rig.send(*(rig.span(0.02) for _ in range(100)))

        def ends() -> int:
            return sum(what == "end" for what, *_ in rig.spans())

        await eventually(lambda: ends() == 104, within=30, hint="the other process does it all")
        assert len(rig.spans(stopped)) == seen
        rival = await rig.singleton()
        assert await rival.wait_exit(within=20) == 75
        os.kill(stopped, signal.SIGCONT)
        await rig.send(*(rig.span(0.05) for _ in range(100)))
        await eventually(lambda: len(rig.spans(stopped)) > seen + 2, within=30)
        await eventually(lambda: ends() >= 204, within=60, hint="all have ended")
        await rig.emptied(within=60)
        # The job that was in its hands has ended twice, or was given up by the first.
        assert ends() in {204, 205}
        assert worker.is_running
        worker.terminate()
        assert await worker.wait_exit(within=40) == 0


@pytest.mark.slow
async def test_stopped_for_a_moment_it_goes_on(rig):
    """CR-02: a holder that was suspended for less than the lock bears keeps it, and works on."""
    async with rig:
        first = await rig.singleton()
        await first.wait_line("worker started", within=20)
        for pause_s in (1.0, 5.5):
            first.freeze()
            await asyncio.sleep(pause_s)  # the suspension itself is what is tested
            first.thaw()
            before = len(rig.spans())
            await rig.send(rig.span(0.01))
            await eventually(partial(rig.has_spans, before + 2), within=20)
        assert first.is_running
        first.terminate()
        assert await first.wait_exit(within=20) == 0


async def test_a_lock_file_left_by_hand_does_not_matter(rig):
    """CR-03: files and rows that nobody lives behind hold nothing: a drain still runs."""
    for folder in (rig.folder, rig.folder / "state", rig.folder / "broker.db.owners"):
        folder.mkdir(exist_ok=True)
        for name in ("worker-default", "worker-default.lock", "taskyard.lock", "1.lock", "1"):
            (folder / name).write_text("999999")
    async with rig:
        if rig.target.kind == "sqlite":
            with sqlite3.connect(rig.folder / "broker.db") as database:
                (table,) = database.execute(
                    "SELECT name FROM sqlite_master WHERE type='table' AND name LIKE '%locks'"
                ).fetchone()
                database.execute(
                    f"INSERT INTO {table} (name, owner, fence, host, pid, since, expires) "
                    "VALUES ('worker-default', 999, 1, 'gone', 1, 1, 1)"
                )
        await rig.send(rig.span(0.01))
        worker = await rig.singleton("--drain")
        assert await worker.wait_exit(within=20) == 0
        assert len(rig.spans()) == 2


@pytest.mark.breaks_broker
@pytest.mark.server_only
@pytest.mark.slow
async def test_a_broker_that_restarts_ends_the_holder(rig):
    """CR-02: the lock is gone with the broker: the holder hands back and ends; the next one works."""
    async with rig:
        await rig.send(rig.span(0.05))
        first = await rig.singleton()
        await eventually(lambda: len(rig.spans()) == 2, within=20)
        await rig.target.kill_broker()
        assert await first.wait_exit(within=20) == 1
        assert "lock" in first.lines[-1]
        second, _ = await rig.takes_over(within=30)
        await rig.ready(second, within=60)
        second.terminate()
        assert await second.wait_exit(within=20) == 0
