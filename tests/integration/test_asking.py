"""Who asks for many changes waits as long as answers come."""

from __future__ import annotations

import asyncio

from taskyard.broker_setup.asking import Asking
from taskyard.broker_setup.intents import cancel_records
from taskyard.shared.adapters.memory import MemoryBroker, MemoryState
from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.changes import Answer, answer_record
from taskyard.shared.topology import plan

WAIT_S = 2.0
GAP_S = 0.9


async def test_a_bulk_that_takes_long_is_waited_for() -> None:
    """Four answers take longer than the time that each is waited for; the fifth never comes."""
    broker = MemoryBroker(MemoryState())
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name="q"),))
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    jobs = [f"job-{n}" for n in range(5)]
    asking = Asking()

    async def answer() -> None:
        while len(asking.jobs) < len(jobs):  # it tells nobody
            await asyncio.sleep(0.01)
        for token, job in list(asking.jobs.items())[:4]:
            await asyncio.sleep(GAP_S)
            said = answer_record(job, Answer(of=token, done=True), by="c", at_ms=broker.now_ms())
            await broker.append_control([said])

    answering = asyncio.create_task(answer())
    await asking.ask(
        broker, lambda _: cancel_records(broker, jobs, by="me", abort=False), wait_s=WAIT_S
    )
    await answering
    assert sorted(asking.answers) == jobs[:4]
    assert asking.unanswered == jobs[4:]
    await broker.close()
