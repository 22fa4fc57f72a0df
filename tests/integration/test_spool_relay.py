"""`taskyard relay` beside a producer, over a broker's absence, and where there is no spool."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.eventually import eventually
from support.process import run_taskyard
from support.proxy import Proxy
from support.responder import create_queues
from taskyard.producer import AsyncProducer
from taskyard.shared import Job
from taskyard.shared.brokers import connect
from taskyard.shared.settings import Settings

QUEUE = "relayed"


@pytest.fixture
async def url(amqp_url: str) -> str:
    await create_queues(amqp_url, QUEUE)
    return amqp_url


async def ready(url: str) -> int:
    broker = connect(url, Settings(broker_url=url).broker_options("test"))
    await broker.open()
    try:
        return (await broker.stats([QUEUE]))[QUEUE].ready
    finally:
        await broker.close()


async def test_a_watcher_waits_for_its_broker(url: str, taskyard, tmp_path: Path) -> None:
    """Started while the broker is away, as a container beside a producer may be: it waits, hands over
    what is there, and what comes later; SIGTERM ends it.
    """
    spool = f"sqlite:///{tmp_path / 'spool.db'}"
    async with Proxy.to(url) as proxy:
        proxy.refuse()
        away = proxy.url(url)
        producer = AsyncProducer(away, spool=spool)
        assert (await producer.send(Job(queue=QUEUE, task="write"), deadline=1)).spooled
        await producer.close()
        env = {"TASKYARD_BROKER_URL": away, "TASKYARD_PUBLISH_DEADLINE": "1"}
        relay = taskyard("relay", "--watch", spool, env=env)
        await relay.wait_line("the broker is away", within=20)
        proxy.resume()

        async def arrived() -> bool:
            return await ready(url) == 1

        await eventually(arrived, within=20)
        assert relay.is_running


def test_a_spool_that_is_not_there(tmp_path: Path) -> None:
    """A mistyped path is an error, and makes no file; the environment's spool may not be needed yet."""
    spool = f"sqlite:///{tmp_path / 'speool.db'}"
    env = {"TASKYARD_BROKER_URL": f"sqlite:///{tmp_path / 'broker.db'}"}
    code, said = run_taskyard("relay", spool, log=tmp_path / "relay.log", env=env)
    assert (code, "no such file" in said) == (2, True), said
    env["TASKYARD_SPOOL_URL"] = spool
    code, said = run_taskyard("relay", log=tmp_path / "again.log", env=env)
    assert (code, "0 handed over, 0 left" in said) == (0, True), said
    code, said = run_taskyard("doctor", log=tmp_path / "doctor.log", env=env)
    assert "the spool is empty" in said
    assert not list(tmp_path.glob("speool*"))
