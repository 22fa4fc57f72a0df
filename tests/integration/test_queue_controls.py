"""Operators pause, resume and set slots with commands; workers in their own processes follow."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from support.eventually import eventually
from support.rig import QUEUE, Rig
from taskyard.broker_setup.intents import read_intents
from taskyard.shared import Job


class Desk(Rig):
    """A rig with an operator at the command line."""

    def env(self, **more: str) -> dict[str, str]:
        url = self.target.management_url
        return super().env(**({"TASKYARD_MANAGEMENT_URL": url} if url else {}), **more)

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; return what it printed."""
        program = self._start(*arguments, env=self.env(), cwd=self.folder)
        assert await program.wait_exit(within=60) == code, program.output
        assert "Traceback" not in program.output
        return program.output

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with `--json`; return what it printed."""
        return json.loads(await self.run(*arguments, "--json", code=code))

    def naps(self, number: int, seconds: float) -> list[Job[Any]]:
        return [self.job("sleep", {"seconds": seconds}) for _ in range(number)]


@pytest.fixture
def desk(broker_url, taskyard, tmp_path) -> Desk:
    return Desk(broker_url, taskyard, tmp_path)


async def running(desk: Desk, worker, number: int) -> None:
    """Wait until so many attempts run."""

    async def enough() -> bool:
        return await desk.metric(worker, "jobs_running", queue=QUEUE) == number

    await eventually(enough)


@pytest.mark.parametrize("what", [QUEUE, "--all"])
async def test_a_pause_outlives_all_workers(desk, what):
    """ZS-53, ZS-54, ZP-21: five jobs are accepted and none starts, with these workers or others;
    after `resume` all five run.
    """
    async with desk:
        worker = await desk.worker()
        await desk.run("queues", "pause", what)
        await eventually(lambda: "queue paused" in worker.output)
        await desk.send(*(desk.note(str(n)) for n in range(5)))
        others = [worker]
        for _ in range(2):
            assert (await desk.broker.stats([QUEUE]))[QUEUE].ready == 5
            others[-1].terminate()
            await others[-1].wait_exit()
            others.append(await desk.worker())
            assert await desk.metric(others[-1], "queue_paused", queue=QUEUE) == 1
        assert desk.seen() == []
        await desk.run("queues", "resume", what)
        runs = await desk.noted(5)
        assert sorted(run["line"] for run in runs) == ["0", "1", "2", "3", "4"]
        await desk.emptied()
        assert len(desk.seen()) == 5


@pytest.mark.breaks_broker
@pytest.mark.slow
async def test_what_was_intended_outlives_the_broker(desk):
    """ZS-53, BS-15: after `kill -9` of the broker queues stay paused, slots set, producers refused."""
    async with desk:
        await desk.run("queues", "pause", "--all")
        await desk.run("queues", "concurrency", QUEUE, "3")
        await desk.run("drain", "on", "--reason", "moving")
        await desk.target.kill_broker()
    async with Desk(desk.target, desk._start, desk.folder) as after:
        worker = await after.worker()
        assert await after.metric(worker, "queue_paused", queue=QUEUE) == 1
        assert await after.metric(worker, "slots", queue=QUEUE) == 3
        assert "moving" in await after.run("send", f"{QUEUE}:ok", code=69)
        await after.run("drain", "off")
        await after.run("send", f"{QUEUE}:ok")


async def test_a_pause_ends_by_itself(desk):
    """BS-12: it ends when it said that it would, within a second, and not before."""
    async with desk:
        await desk.worker()
        await desk.run("queues", "pause", QUEUE, "--for", "4s")
        (job_id,) = await desk.send(desk.note())
        (pause,) = (await desk.json("queues", "paused", QUEUE))["pauses"]
        assert pause["until"] is not None
        (run,) = await desk.noted(1)
        assert run["job"] == job_id
        record = (await read_intents(desk.broker)).paused(0)[QUEUE]
        assert record.expires is not None
        assert record.expires == record.at + 4000
        assert record.expires / 1000 <= run["started"] <= record.expires / 1000 + 1


async def test_a_pause_waits_until_nothing_runs(desk):
    """ZS-53: `--wait` returns when the last running job has ended, and not earlier; what had not
    started is there, uncharged.
    """
    async with desk:
        worker = await desk.worker("--concurrency", "2")
        await desk.send(*desk.naps(2, 3), desk.note("after"))
        await running(desk, worker, 2)
        found = await desk.json("queues", "pause", QUEUE, "--wait", "40s")
        assert found["busy"] == {}
        assert await desk.metric(worker, "jobs_running", queue=QUEUE) == 0
        assert await desk.ended_as(worker, "succeeded") == 2
        assert (await desk.broker.stats([QUEUE]))[QUEUE].ready == 1
        assert desk.seen() == []
        assert "nothing runs" in await desk.run("queues", "pause", "--all", "--wait", "40s")


async def test_a_wait_that_is_too_short_says_what_runs(desk):
    """ZS-53: exit 124, naming the queue and what is not over; the pause stays."""
    async with desk:
        worker = await desk.worker()
        await desk.send(*desk.naps(1, 40))
        await running(desk, worker, 1)
        began = time.monotonic()
        # Longer than the numbers of RabbitMQ are old, also where the machine is busy.
        said = await desk.run("queues", "pause", "--all", "--wait", "12s", code=124)
        assert time.monotonic() - began < 20
        assert f"queue {QUEUE} is not quiet" in said
        assert "1 job runs" in said
        assert "it stays paused" in said
        assert await desk.json("queues", "paused")
        worker.kill()


async def test_one_can_see_what_is_paused_and_by_what(broker_url, taskyard, tmp_path):
    """ZS-54: everything is paused by the flag of all alone, not because each queue is; a queue is
    by either.
    """
    async with Desk(broker_url, taskyard, tmp_path, queues=(QUEUE, "mail")) as desk:
        names = [QUEUE, "mail"]
        assert "nothing is paused" in await desk.run("queues", "paused", code=1)
        await desk.run("queues", "pause", *names, "--reason", "a leak")
        assert (await desk.json("queues", "paused", code=1))["paused"] is False
        assert (await desk.json("queues", "paused", *names))["paused"] is True
        await desk.run("queues", "resume", "mail")
        await desk.json("queues", "paused", *names, code=1)
        await desk.run("queues", "pause", "--all")
        assert (await desk.json("queues", "paused"))["paused"] is True
        await desk.json("queues", "paused", *names)
        rows = {row["queue"]: row for row in await desk.json("queues", "list")}
        assert [pause["queue"] for pause in rows[QUEUE]["pauses"]] == [QUEUE, "*"]
        assert [pause["queue"] for pause in rows["mail"]["pauses"]] == ["*"]
        assert "a leak; with all queues, by " in rows[QUEUE]["paused"]
        assert "every queue is paused" in await desk.run("doctor")
        await desk.run("queues", "resume", "--all")
        await desk.json("queues", "paused", QUEUE)
        await desk.json("queues", "paused", "mail", code=1)
        assert "nowhere" in await desk.run("queues", "paused", "nowhere", code=1)


async def test_slots_are_set_for_workers_that_run(desk):
    """ZS-51: from 1 to 4 and back while loaded, without a restart and without ending a job."""
    async with desk:
        worker = await desk.worker("--concurrency", "1")
        await desk.send(*desk.naps(12, 1))
        await running(desk, worker, 1)
        assert "runs 4 jobs" in await desk.run("queues", "concurrency", QUEUE, "4")
        await running(desk, worker, 4)
        (row,) = await desk.json("queues", "list")
        assert row["slots"] == 4
        assert f"queue {QUEUE}: 4 slots" in await desk.run("doctor")
        later = await desk.worker("--concurrency", "9")
        assert await desk.metric(later, "slots", queue=QUEUE) == 4
        await desk.run("queues", "concurrency", QUEUE, "--reset")

        async def as_declared() -> bool:
            slots = [await desk.metric(each, "slots", queue=QUEUE) for each in (worker, later)]
            return slots == [1, 9]

        await eventually(as_declared)
        assert (await desk.json("queues", "list"))[0]["slots"] is None

        # What RabbitMQ counts as unsettled may be 0 from before: the workers know.
        async def all_ended() -> bool:
            return sum([await desk.ended_as(each, "succeeded") for each in (worker, later)]) == 12

        await eventually(all_ended)
        await desk.emptied()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("0",), 2, "that is `taskyard queues pause`"),
        (("--", "-3"), 2, "from 1 to 65535"),
        (("100000",), 2, "from 1 to 65535"),
        (("many",), 2, "many"),
        ((), 2, "--reset"),
        (("3", "--reset"), 2, "--reset"),
    ],
)
async def test_slots_that_make_no_sense_are_refused(desk, arguments, code, words):
    """A number that stops a queue, or is none, changes nothing and is refused in words."""
    async with desk:
        assert words in await desk.run("queues", "concurrency", QUEUE, *arguments, code=code)
        assert (await desk.json("queues", "list"))[0]["slots"] is None
        assert "nowhere" in await desk.run("queues", "concurrency", "nowhere", "3", code=1)
