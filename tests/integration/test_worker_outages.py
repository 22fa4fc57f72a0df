"""A worker whose connection breaks, or whose broker restarts, on RabbitMQ."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.proxy import Proxy
from support.rig import QUEUE, Rig


@pytest.fixture
def target(amqp_url, rabbitmq_node):
    return BrokerUnderTest(
        url=amqp_url,
        kind="rabbitmq",
        version=rabbitmq_node.version,
        management_url=rabbitmq_node.management_url,
    )


async def test_a_cut_connection_charges_nobody_and_repeats_nothing(target, taskyard, tmp_path):
    """Pain 5, BS-19: the running job goes on, its redelivery is recognised, and it counts once."""
    async with Proxy.to(target.url) as proxy:
        rig = Rig(target, taskyard, tmp_path)
        through = Rig(replace(target, url=proxy.url(target.url)), taskyard, tmp_path)
        async with rig:
            worker = through.start_worker("--concurrency", "2")
            await rig.ready(worker)
            await rig.send(rig.job("sleep", {"seconds": 4}))

            async def running():
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 1

            await eventually(running)
            proxy.cut()
            await worker.wait_line("broker connection lost", within=10)
            await worker.wait_line("broker connection is back", within=20)
            await rig.send(rig.note("after"))
            (run,) = await rig.noted(1)
            assert (run["attempt"], run["deliveries"]) == (1, 1)

            async def finished():
                return await rig.metric(
                    worker, "jobs_finished_total", task="sleep", outcome="succeeded"
                )

            assert await eventually(finished, within=15) == 1
            await rig.emptied()
            assert await rig.metric(worker, "job_run_seconds_count", task="sleep") == 1
            assert (await rig.probe(worker, "/livez")).status_code == 200
            assert await rig.metric(worker, "broker_reconnects_total") >= 1


async def test_a_job_that_ends_while_the_broker_is_away_is_not_run_again(
    target, taskyard, tmp_path
):
    """Pain 5: Its outcome is remembered: the redelivery is settled with it, not run."""
    async with Proxy.to(target.url) as proxy:
        rig = Rig(target, taskyard, tmp_path)
        through = Rig(replace(target, url=proxy.url(target.url)), taskyard, tmp_path)
        async with rig:
            worker = through.start_worker("--concurrency", "2")
            await rig.ready(worker)
            await rig.send(rig.job("sleep", {"seconds": 1.5}))

            async def running():
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 1

            await eventually(running)
            proxy.refuse()
            proxy.cut()
            assert (await rig.probe(worker, "/livez")).status_code == 200

            async def unready():
                return (await rig.probe(worker, "/readyz")).status_code == 503

            await eventually(unready)

            async def ended():
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 0

            await eventually(ended)
            proxy.resume()
            await rig.ready(worker)
            await rig.emptied()
            assert await rig.metric(worker, "job_run_seconds_count", task="sleep") == 1


@pytest.mark.slow
@pytest.mark.breaks_broker
@pytest.mark.server_only
async def test_a_worker_outlives_its_broker(broker_url, taskyard, tmp_path):
    """Pain 4, ZS-30: kill and start the broker under load: the worker comes back, and every job runs."""
    rig = Rig(broker_url, taskyard, tmp_path)
    async with rig:
        worker = await rig.worker("--concurrency", "5")
        ids = await rig.send(
            *(rig.note(str(n)) for n in range(300)),
            *(rig.job("sleep", {"seconds": 3}) for _ in range(4)),
            *(rig.note(str(n)) for n in range(300, 600)),
        )
        await rig.noted(100)
        await broker_url.kill_broker()
        await rig.ready(worker, within=40)
        await rig.noted(600, within=40)
        await eventually(lambda: {run["job"] for run in rig.seen()} >= _noted(ids))
        assert (await rig.probe(worker, "/livez")).status_code == 200
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        await asyncio.sleep(0)


def _noted(ids: list[str]) -> set[str]:
    return {*ids[:300], *ids[304:]}
