"""Jobs that come again though their end is known to the worker that had them, on RabbitMQ."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pika
import pytest

from integration.test_amqp_data_plane import collect, job, set_up
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.proxy import Proxy
from support.rig import QUEUE, Rig
from taskyard.shared.adapters.amqp import connect
from taskyard.shared.adapters.amqp.intake import Token
from taskyard.shared.broker import BrokerOptions, Settlement, SettleStatus
from taskyard.shared.envelope import Envelope

DEADLINE_S = 20.0


@pytest.fixture
def target(amqp_url, rabbitmq_node):
    return BrokerUnderTest(
        url=amqp_url,
        kind="rabbitmq",
        version=rabbitmq_node.version,
        management_url=rabbitmq_node.management_url,
    )


async def test_an_acknowledgement_that_never_arrived_is_given_again(target, taskyard, tmp_path):
    """Pain 5: acknowledgements are never confirmed. Jobs that ended while nothing moved any more,
    and were acknowledged into a socket that then died, come again and are not run again.
    """
    async with Proxy.to(target.url) as proxy:
        rig = Rig(target, taskyard, tmp_path)
        through = Rig(replace(target, url=proxy.url(target.url)), taskyard, tmp_path)
        async with rig:
            worker = through.start_worker("--concurrency", "3")
            await rig.ready(worker)
            await rig.send(*(rig.job("sleep", {"seconds": 2}) for _ in range(3)))

            async def running() -> bool:
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 3

            async def ended() -> bool:
                return await rig.metric(worker, "jobs_running", queue=QUEUE) == 0

            await eventually(running)
            proxy.stall()
            await eventually(ended)
            proxy.refuse()  # not `cut`: what is on its way in the proxy must be gone before it resumes
            await eventually(lambda: not proxy.connections)
            proxy.resume()
            await worker.wait_line("broker connection is back", within=20)
            await rig.ready(worker)
            # Behind what comes again, which would take every slot if it were run.
            await rig.send(rig.note("behind"))
            await rig.noted(1)
            assert await rig.metric(worker, "job_run_seconds_count", task="sleep") == 3
            await rig.emptied()
            assert await rig.metric(worker, "job_run_seconds_count", task="sleep") == 3
            assert not [parked async for parked in rig.broker.parked(QUEUE)]


def publish_twice(url: str, task: str, body: bytes) -> None:
    """Publish two jobs that nothing tells apart, and have both flagged as redelivered."""
    own = pika.BasicProperties(correlation_id="x", message_id="m", type=task, delivery_mode=2)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for _ in range(2):
            channel.basic_publish("taskyard.tasks", QUEUE, body, own)
        arriving = channel.consume(f"taskyard.q.{QUEUE}", inactivity_timeout=DEADLINE_S)
        for _, (method, _, _) in zip(range(2), arriving, strict=False):
            assert method is not None


async def test_two_jobs_that_nothing_tells_apart_are_both_settled(target, taskyard, tmp_path):
    """A client that uses its ids twice: the second is no sign that the first was lost, whose delivery
    was forgotten then, and stayed unacknowledged until the worker stopped.
    """
    async with Rig(target, taskyard, tmp_path) as rig:
        await asyncio.to_thread(publish_twice, target.url, "sleep", b'{"seconds": 2}')
        worker = await rig.worker("--concurrency", "2")

        async def both_ran() -> bool:
            return await rig.metric(worker, "job_run_seconds_count", task="sleep") == 2

        await eventually(both_ran, within=20)
        await rig.emptied()


@pytest.mark.parametrize("how", ["retry", "park"])
async def test_what_was_stored_before_the_delivery_was_lost_is_not_stored_again(
    amqp_url: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pain 10: the connection dies between the confirm of a copy and the acknowledgement: the
    adapter says so, so that the delivery, when it comes again, is only acknowledged.
    """
    async with Proxy.to(amqp_url) as proxy:
        broker = connect(proxy.url(amqp_url), BrokerOptions())
        await broker.open()
        try:
            await set_up(broker, "work")
            await broker.publish([job()], deadline_s=DEADLINE_S)
            consumer = await broker.consume("work", credit=1)
            (held,) = await collect(consumer, 1)
            token = held.token
            assert isinstance(token, Token)
            publisher = broker.core.publisher
            send = publisher.send

            async def send_and_lose(*args: Any, **kwargs: Any) -> Any:
                receipts = await send(*args, **kwargs)
                proxy.cut()
                await eventually(lambda: not token.ours)
                return receipts

            monkeypatch.setattr(publisher, "send", send_and_lose)
            copy = next_attempt(held.envelope)
            settlement = (
                Settlement(delivery=held, copies=(copy,))
                if how == "retry"
                else Settlement(delivery=held, park=copy)
            )
            statuses = await broker.settle([settlement], deadline_s=DEADLINE_S)
            assert statuses == [SettleStatus.STORED]
            monkeypatch.undo()
            came = await collect(consumer, 1)
            if how == "retry":  # credit for one: the copy comes behind the original, or before it
                await broker.settle([Settlement(delivery=came[0])], deadline_s=DEADLINE_S)
                came += await collect(consumer, 1)
            assert sorted(each.envelope.attempt for each in came) == [1, 2][: len(came)]
            await broker.settle([Settlement(delivery=came[-1])], deadline_s=DEADLINE_S)
            assert (await broker.stats(["work"]))["work"].ready == 0
        finally:
            await broker.close(abort=True)


def next_attempt(envelope: Envelope) -> Envelope:
    """Return the next attempt, as a retry publishes it."""
    return msgspec.structs.replace(envelope, attempt=envelope.attempt + 1, message_id="")
