"""From `send` to the result: the command line and the SDK against a worker of its own process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.process import Program
from taskyard.producer import AsyncProducer
from taskyard.shared import Job, JobFailed, JobParked, ResultTimeout, bind_values

pytestmark = pytest.mark.system


class Yard:
    """A broker with the selftest queue, and a worker of it."""

    def __init__(self, broker: BrokerUnderTest, start: StartTaskyard, folder: Path) -> None:
        self.url = broker.url
        self._start = start
        self._folder = folder
        self._env = {"TASKYARD_BROKER_URL": broker.url, "TASKYARD_METRICS_PORT": "0"}
        if broker.management_url is not None:
            self._env["TASKYARD_MANAGEMENT_URL"] = broker.management_url

    def program(self, *args: str) -> Program:
        return self._start(*args, env=self._env)

    async def run(self, *args: str) -> tuple[int, str]:
        """Run a command to its end."""
        program = self.program(*args)
        return await program.wait_exit(within=40), program.output

    async def work(self) -> Program:
        """Set the queue up and start a worker."""
        code, output = await self.run("broker", "apply", "taskyard.workers.selftest")
        assert code == 0, output
        worker = self.program("worker", "taskyard.workers.selftest", "--queues", "all")
        await worker.wait_line("worker started", within=30)
        return worker


@pytest.fixture
async def yard(broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path) -> Yard:
    return Yard(broker_url, taskyard, tmp_path)


async def test_a_message_makes_the_round_trip(yard: Yard) -> None:
    """`send default:test:a:b:c --wait` prints what the worker returned (LQ-18, LQ-24)."""
    await yard.work()
    assert await yard.run("send", "default:test:a:b:c", "--wait", "--timeout", "20") == (
        0,
        '"a:b:c"\n',
    )
    code, output = await yard.run("send", "default:test:hello", "--json")
    assert code == 0
    assert set(json.loads(output)) == {"id"}


async def test_exit_codes_tell_how_it_ended(yard: Yard) -> None:
    """0 done, 1 failed, parked or not found, 2 wrong, 124 not in time (ZS-15, ZS-19)."""
    await yard.work()
    for args, expected, words in (
        (("default:fail", "reason=declined"), 1, "failed (logical): declined"),
        (("default:hold", "reason=no stock"), 1, "parked (held): no stock"),
        (("default:nothing",), 1, "parked (unknown_task)"),
        (("default:sleep", "seconds=30", "--timeout", "0.2"), 124, "the job goes on"),
        (("nope:test:x",), 1, "queue 'nope' does not exist"),
        (("default:test", "no-pair"), 2, "is not KEY=VALUE"),
    ):
        code, output = await yard.run("send", *args, "--wait")
        assert (code, words in output) == (expected, True), output


async def test_results_and_failures_reach_the_sdk(yard: Yard) -> None:
    """A value, a failure, a parked job with its remote traceback, and a late result (ZP-03)."""
    await yard.work()

    def job(task: str, **args: object) -> Job[object]:
        return Job(queue="default", task=task, args=args, reply=True)

    async with AsyncProducer(yard.url) as producer:
        handles = [await producer.send(job("test", message=f"m{n}")) for n in range(20)]
        results = await asyncio.gather(*(handle.result(timeout=20) for handle in handles))
        assert results == [f"m{n}" for n in range(20)]

        with pytest.raises(JobFailed, match="declined"):
            await (await producer.send(job("fail", reason="declined"))).result(timeout=20)
        with pytest.raises(JobParked, match="exhausted") as caught:
            await (await producer.send(job("error", message="boom"))).result(timeout=30)
        assert "Traceback" in caught.value.traceback
        assert "boom" in caught.value.traceback

        slow = await producer.send(job("sleep", seconds=1))
        with pytest.raises(ResultTimeout):
            await slow.result(timeout=0.1)
        await slow.result(timeout=20)

        with bind_values(tenant="acme"):
            handle = await producer.send(job("ok"))
        await handle.result(timeout=20)
