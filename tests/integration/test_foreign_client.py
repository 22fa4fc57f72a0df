"""Programs that know only docs/PROTOCOL.md: another AMQP client publishes, and reads what we wrote."""

from __future__ import annotations

import json
import time

import aio_pika
import msgspec
import pytest
from aiormq.abc import FieldValue

from support.eventually import eventually
from taskyard.broker_setup.intents import pause
from taskyard.broker_setup.setup import apply_spec
from taskyard.shared.broker import Broker, QueueSpec, Settlement, SetupSpec
from taskyard.shared.brokers import connect
from taskyard.shared.envelope import Parking
from taskyard.shared.feed import FINISHED, FeedRecord
from taskyard.shared.job import Job

DEADLINE_S = 10.0


@pytest.fixture
async def broker(amqp_url: str):
    """A broker with one queue and the lifecycle feed."""
    opened = connect(amqp_url)
    await opened.open()
    await apply_spec(opened, SetupSpec(queues=(QueueSpec(name="mail"),), ledger=True))
    yield opened
    await opened.close()


@pytest.fixture
async def foreign(amqp_url: str):
    """A channel of another client."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield await connection.channel()


async def test_the_smallest_job(broker: Broker, foreign: aio_pika.abc.AbstractChannel) -> None:
    """B-27, ZP-01: a task's name and a JSON body are a job, and an id is minted."""
    tasks = await foreign.get_exchange("taskyard.tasks", ensure=False)
    message = aio_pika.Message(b'{"to": "ann"}', headers={"ty-task": "send"})
    await tasks.publish(message, routing_key="mail")
    (delivery,) = await (await broker.consume("mail", credit=1)).take()
    envelope = delivery.envelope
    assert (envelope.task, envelope.queue, envelope.body) == ("send", "mail", b'{"to": "ann"}')
    assert (envelope.attempt, envelope.deliveries) == (1, 1)
    assert delivery.anonymous
    assert delivery.defect is None


async def test_every_field_of_a_job(broker: Broker, foreign: aio_pika.abc.AbstractChannel) -> None:
    """Properties and headers mean what the protocol's tables say, also in another client's encoding."""
    tasks = await foreign.get_exchange("taskyard.tasks", ensure=False)
    now_ms = time.time_ns() // 1_000_000
    headers: dict[str, FieldValue] = {
        "ty-attempt": 2,
        "ty-deliveries": 3,
        "ty-base": 1,
        "ty-generation": 4,
        "ty-enqueued": now_ms,
        "ty-expires": now_ms + 60_000,
        "ty-ttr": 5000,
        "ty-context": '{"tenant": "a"}',
        "ty-parent": "p",
        "ty-reply": ["one", "two"],
        "ty-later": "kept",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    message = aio_pika.Message(
        b"{}", headers=headers, type="mail.send", correlation_id="job-1", message_id="m-1",
        priority=9, app_id="php", content_type="application/json",
    )  # fmt: skip
    await tasks.publish(message, routing_key="mail")
    (delivery,) = await (await broker.consume("mail", credit=1)).take()
    got = msgspec.structs.asdict(delivery.envelope)
    wanted = {
        "id": "job-1", "message_id": "m-1", "task": "mail.send", "priority": 9, "app": "php",
        "attempt": 2, "deliveries": 3, "base": 1, "generation": 4, "enqueued_ms": now_ms,
        "expires_ms": now_ms + 60_000, "ttr_ms": 5000, "context": '{"tenant": "a"}', "parent": "p",
        "reply": ("one", "two"), "extra": {"ty-later": "kept"}, "traceparent": headers["traceparent"],
    }  # fmt: skip
    assert {name: got[name] for name in wanted} == wanted
    assert delivery.defect is None


async def test_a_delay_by_hand(broker: Broker, foreign: aio_pika.abc.AbstractChannel) -> None:
    """The ladder's key, as the protocol spells it: 600 ms are six ticks."""
    entry = await foreign.get_exchange("taskyard.delay.00.6", ensure=False)
    started = time.monotonic()
    message = aio_pika.Message(b"{}", type="mail.send", correlation_id="late")
    await entry.publish(message, routing_key="0.0.0.0.0.0.0.0.0.6.mail")
    (delivery,) = await (await broker.consume("mail", credit=1)).take()
    assert time.monotonic() - started >= 0.6
    assert delivery.envelope.id == "late"


async def test_what_we_publish_reads_by_the_protocol(
    broker: Broker, foreign: aio_pika.abc.AbstractChannel
) -> None:
    """A job, a parked job, the feed and the control log, as another client sees them."""
    job: Job[object] = Job(queue="mail", task="send", args={"to": "ann"})
    now_ms = broker.now_ms()
    await broker.publish([job.options(priority="high").envelope(now_ms, app="shop")], deadline_s=10)
    (delivery,) = await (await broker.consume("mail", credit=1)).take()
    parking = Parking(reason="held", at_ms=now_ms, detail="why", worker="here:1")
    record = FeedRecord(
        event=FINISHED, job=job.id, queue="mail", task="mail.send", attempt=1, deliveries=1,
        message=delivery.envelope.message_id, at=now_ms, outcome="parked", detail="held",
    )  # fmt: skip
    parked = msgspec.structs.replace(delivery.envelope, parking=parking)
    settlement = Settlement(delivery=delivery, park=parked, record=record)
    await broker.settle([settlement], deadline_s=DEADLINE_S)
    await pause(broker, ["mail"], by="ann@ops", for_s=60, reason="down")

    lot = await _one(foreign, "taskyard.parked.mail")
    assert (lot.correlation_id, lot.type, lot.priority, lot.app_id) == (
        job.id,
        "mail.send",
        4,
        "shop",
    )
    assert lot.headers["ty-park-priority"] == 7
    assert (lot.delivery_mode, lot.content_type, lot.body) == (
        2,
        "application/json",
        b'{"to":"ann"}',
    )
    assert lot.headers["ty-park-reason"] == "held"
    assert lot.headers["ty-park-at"] == now_ms
    assert lot.headers["ty-park-detail"] == "why"
    assert lot.headers["ty-park-worker"] == "here:1"

    published = await _one(foreign, "taskyard.ledger")
    assert (published.correlation_id, published.body) == (job.id, b'{"to":"ann"}')
    (told,) = json.loads((await _one(foreign, "taskyard.ledger")).body)
    assert told == {
        "event": "finished", "job": job.id, "queue": "mail", "task": "mail.send", "attempt": 1,
        "deliveries": 1, "message": delivery.envelope.message_id, "at": now_ms,
        "outcome": "parked", "detail": "held",
    }  # fmt: skip

    control = await _log(foreign, "taskyard.control", 2)
    assert control[0]["op"] == "genesis"
    assert control[1]["key"] == "queue:mail:pause"
    assert (control[1]["op"], control[1]["by"]) == ("pause", "ann@ops")
    assert control[1]["body"] == {"reason": "down"}


async def _one(
    channel: aio_pika.abc.AbstractChannel, name: str
) -> aio_pika.abc.AbstractIncomingMessage:
    queue = await channel.get_queue(name, ensure=False)

    async def got() -> aio_pika.abc.AbstractIncomingMessage:
        return await queue.get(no_ack=True)  # raises while it is empty

    return await eventually(got, within=10)


async def _log(
    channel: aio_pika.abc.AbstractChannel, name: str, count: int
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    await channel.set_qos(prefetch_count=10)
    queue = await channel.get_queue(name, ensure=False)

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        found.extend(json.loads(message.body))
        await message.ack()

    await queue.consume(take, arguments={"x-stream-offset": "first"})
    await eventually(lambda: len(found) >= count, within=10)
    return found
