"""Jobs that run longer than RabbitMQ waits for an acknowledgement. It looks once a minute."""

from __future__ import annotations

import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.rabbitmq import Node
from support.rig import QUEUE, Rig

#: RabbitMQ's own patience, and a job that outlasts the look after it.
PATIENCE_S = 60
JOB_S = 125


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_job_longer_than_the_brokers_patience_runs_once(rabbitmq_root, taskyard, tmp_path):
    """Pains 3 and 5: where the patience is ours to ask for, the job stays ours. Elsewhere a worker
    that is told of it refuses such times to run beforehand, in words; one that is not told loses
    its channel, consumes again, and recognises the job that it still runs.
    """
    async with Node.of(rabbitmq_root, config=[f"consumer_timeout = {PATIENCE_S * 1000}"]) as node:
        target = BrokerUnderTest(
            url=node.url,
            kind="rabbitmq",
            version=node.version,
            management_url=node.management_url,
        )
        async with Rig(target, taskyard, tmp_path) as rig:
            worker = await rig.worker("--concurrency", "2")
            await rig.send(rig.job("sleep", {"seconds": JOB_S}, ttr=600))

            async def running() -> bool:
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 1

            await eventually(running)
            if node.version_tuple < (4, 3):
                told = rig.start_worker(env={"TASKYARD_CONSUMER_TIMEOUT": str(PATIENCE_S)})
                assert await told.wait_exit(within=20) == 2
                assert "TASKYARD_CONSUMER_TIMEOUT" in told.output
                await worker.wait_line("the broker ended a channel", within=JOB_S)
                await rig.ready(worker, within=10)

            async def ended() -> bool:
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 0

            await eventually(ended, within=JOB_S + 10, every=0.5)
            assert (await rig.probe(worker, "/livez")).status_code == 200
            await rig.send(rig.note("after"))
            await rig.noted(1, within=10)
            await rig.emptied()
            runs = await rig.metric(worker, "job_run_seconds_count", task="sleep")
            assert runs == 1
