"""Jobs on a real RabbitMQ while nothing breaks: publishing, consuming, settling, foreign clients."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import pika
import pytest

from support.eventually import eventually
from support.rabbitmq import Server
from taskyard.shared.adapters.amqp import connect
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.broker import (
    BrokerOptions,
    Consumer,
    Delivery,
    PublishStatus,
    QueueSpec,
    Settlement,
    SettleStatus,
    SetupSpec,
)
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.errors import ConfigurationError, Unavailable, UnknownQueue
from taskyard.shared.feed import FINISHED, FeedRecord
from taskyard.shared.topology import plan

pytestmark = pytest.mark.rabbitmq

Open = Callable[..., Awaitable[AmqpBroker]]
DEADLINE_S = 20.0


@pytest.fixture
async def open_broker(amqp_url: str) -> AsyncIterator[Open]:
    """Open handles on the test's virtual host, closed after it."""
    handles: list[AmqpBroker] = []

    async def make(url: str = amqp_url, **options: Any) -> AmqpBroker:
        broker = connect(url, BrokerOptions(**options))
        await broker.open()
        handles.append(broker)
        return broker

    yield make
    for handle in handles:
        await handle.close()


async def set_up(broker: AmqpBroker, *queues: str, ledger: bool = False) -> None:
    spec = SetupSpec(queues=tuple(QueueSpec(name=queue) for queue in queues), ledger=ledger)
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))


def job(queue: str = "work", **values: Any) -> Envelope:
    return Envelope(id=mint_id(), queue=queue, task=f"{queue}.ok", enqueued_ms=1, **values)


async def collect(consumer: Consumer, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            found += await consumer.take()
    return found


async def settle(broker: AmqpBroker, deliveries: Sequence[Delivery]) -> list[SettleStatus]:
    return await broker.settle(
        [Settlement(delivery=delivery) for delivery in deliveries], deadline_s=DEADLINE_S
    )


async def test_ten_thousand_jobs_in_one_call(open_broker: Open) -> None:
    """One call publishes, one consumer takes; all confirmed, none twice, in order (ZS-02, ZS-30)."""
    broker = await open_broker()
    await set_up(broker, "work")
    jobs = [job(body=b"%d" % n) for n in range(10_000)]
    receipts = await broker.publish(jobs, deadline_s=60.0)
    assert {receipt.status for receipt in receipts} == {PublishStatus.CONFIRMED}
    assert len({receipt.message_id for receipt in receipts}) == 10_000
    consumer = await broker.consume("work", credit=300)
    got: list[bytes] = []
    async with asyncio.timeout(60):
        while len(got) < 10_000:
            batch = await consumer.take()
            got += [delivery.envelope.body for delivery in batch]
            assert set(await settle(broker, batch)) == {SettleStatus.SETTLED}
    assert got == [b"%d" % n for n in range(10_000)]


async def test_unroutable_jobs_say_where_they_were_to_go(open_broker: Open) -> None:
    """Delayed or not: the receipt names queue, namespace and host (ZS-15, LQ-18)."""
    broker = await open_broker()
    await set_up(broker, "work")
    later = broker.now_ms() + 60_000
    receipts = await broker.publish(
        [job("nowhere"), job(), job("nowhere", not_before_ms=later), job(not_before_ms=later)],
        deadline_s=DEADLINE_S,
    )
    assert [receipt.status for receipt in receipts] == [
        PublishStatus.UNROUTABLE,
        PublishStatus.CONFIRMED,
        PublishStatus.UNROUTABLE,
        PublishStatus.CONFIRMED,
    ]
    for receipt in (receipts[0], receipts[2]):
        assert "no queue 'nowhere' in namespace 'taskyard' at 127.0.0.1:" in receipt.detail


async def test_thousands_of_returns_among_confirms(open_broker: Open) -> None:
    """Each return is matched to its own publish, whatever surrounds it."""
    broker = await open_broker()
    await set_up(broker, "work")
    jobs = [job("nowhere" if n % 3 == 0 else "work") for n in range(3_000)]
    receipts = await broker.publish(jobs, deadline_s=60.0)
    for envelope, receipt in zip(jobs, receipts, strict=True):
        lost = envelope.queue == "nowhere"
        assert receipt.status is (PublishStatus.UNROUTABLE if lost else PublishStatus.CONFIRMED)


async def test_a_queue_that_is_created_later_is_found(open_broker: Open) -> None:
    """That a queue was missing is not remembered."""
    broker = await open_broker()
    await set_up(broker, "work")
    later = broker.now_ms() + 300
    (before,) = await broker.publish([job("late", not_before_ms=later)], deadline_s=DEADLINE_S)
    assert before.status is PublishStatus.UNROUTABLE
    await set_up(broker, "work", "late")
    (after,) = await broker.publish([job("late", not_before_ms=later)], deadline_s=DEADLINE_S)
    assert after.status is PublishStatus.CONFIRMED
    await collect(await broker.consume("late", credit=1), 1)


async def test_a_namespace_that_is_not_set_up_is_named(open_broker: Open) -> None:
    """Publishing and consuming say what to do; the next publish after set-up succeeds."""
    broker = await open_broker(namespace="fresh")
    (receipt,) = await broker.publish([job()], deadline_s=DEADLINE_S)
    assert receipt.status is PublishStatus.UNROUTABLE
    assert "taskyard broker apply" in receipt.detail
    with pytest.raises(UnknownQueue, match="'work' in namespace 'fresh'"):
        await broker.consume("work", credit=1)
    await set_up(broker, "work")
    (receipt,) = await broker.publish([job()], deadline_s=DEADLINE_S)
    assert receipt.status is PublishStatus.CONFIRMED


async def test_a_job_that_amqp_cannot_carry_fails_alone(open_broker: Open) -> None:
    """The publish of its neighbours goes on, and the receipt says what does not fit."""
    broker = await open_broker()
    await set_up(broker, "work")
    long = msgspec.structs.replace(job(), id="x" * 300)
    receipts = await broker.publish([job(), long, job()], deadline_s=DEADLINE_S)
    assert [receipt.status for receipt in receipts] == [
        PublishStatus.CONFIRMED,
        PublishStatus.REJECTED,
        PublishStatus.CONFIRMED,
    ]
    assert "255" in receipts[1].detail
    await collect(await broker.consume("work", credit=5), 2)


async def test_the_cap_holds_and_everything_arrives(open_broker: Open) -> None:
    """With room for two bodies, forty still arrive, never more than the cap at once."""
    broker = await open_broker(unconfirmed_cap_bytes=256 * 1024)
    await set_up(broker, "work")
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(broker.core.publisher.unconfirmed_bytes)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    receipts = await broker.publish(
        [job(body=b"x" * 100_000) for _ in range(40)], deadline_s=DEADLINE_S
    )
    watching.cancel()
    assert {receipt.status for receipt in receipts} == {PublishStatus.CONFIRMED}
    assert 0 < max(seen) <= 256 * 1024
    assert broker.core.publisher.unconfirmed_bytes == 0


async def test_concurrent_batches_keep_their_receipts_apart(open_broker: Open) -> None:
    """Many tasks publish at once; each gets its own receipts."""
    broker = await open_broker()
    await set_up(broker, "work")

    async def batch(size: int) -> int:
        receipts = await broker.publish([job() for _ in range(size)], deadline_s=DEADLINE_S)
        assert all(receipt.status is PublishStatus.CONFIRMED for receipt in receipts)
        return len(receipts)

    sizes = [1, 700, 3, 50, 1, 400] * 5
    assert await asyncio.gather(*map(batch, sizes)) == sizes


async def test_a_cancelled_publish_disturbs_nobody(open_broker: Open) -> None:
    """Its confirms are taken when they come, and room is made again."""
    broker = await open_broker()
    await set_up(broker, "work")
    many = [job() for _ in range(2_000)]
    publishing = asyncio.create_task(broker.publish(many, deadline_s=DEADLINE_S), name="many")
    await eventually(lambda: broker.core.publisher.unconfirmed_bytes > 0)
    publishing.cancel()
    await asyncio.wait([publishing])
    (receipt,) = await broker.publish([job()], deadline_s=DEADLINE_S)
    assert receipt.status is PublishStatus.CONFIRMED
    await eventually(lambda: broker.core.publisher.unconfirmed_bytes == 0)


async def test_a_foreign_message_is_a_job(open_broker: Open, amqp_url: str) -> None:
    """A message of another client, with its own kind of headers, arrives and can be settled with
    a copy that keeps them (LQ-04, B-27).
    """
    broker = await open_broker()
    await set_up(broker, "work")
    connection = await asyncio.to_thread(pika.BlockingConnection, pika.URLParameters(amqp_url))
    channel = connection.channel()
    properties = pika.BasicProperties(headers={"ty-task": "ok", "x-own": [1, {"deep": None}]})
    channel.basic_publish("taskyard.tasks", "work", b'{"a": 1}', properties)
    channel.basic_publish("taskyard.tasks", "work", b"\xff\x00 not json")
    await asyncio.to_thread(connection.close)
    consumer = await broker.consume("work", credit=5)
    sound, defect = await collect(consumer, 2)
    assert sound.anonymous
    assert sound.defect is None
    assert json.loads(sound.envelope.body) == {"a": 1}
    assert defect.defect is not None
    assert "no task" in defect.defect
    statuses = await broker.settle(
        [
            Settlement(delivery=sound, copies=(sound.envelope,)),
            Settlement(
                delivery=defect,
                park=msgspec.structs.replace(defect.envelope, parking=Parking(reason="invalid")),
            ),
        ],
        deadline_s=DEADLINE_S,
    )
    assert statuses == [SettleStatus.SETTLED] * 2
    (again,) = await collect(consumer, 1)
    assert again.envelope.id == sound.envelope.id
    assert not again.anonymous
    assert again.envelope.extra == {"x-own": [1, {"deep": None}]}
    (parked,) = [entry async for entry in broker.parked("work")]
    assert parked.envelope.body == b"\xff\x00 not json"


async def test_settling_again_publishes_nothing_twice(open_broker: Open) -> None:
    """What was confirmed of a settlement that stayed undone is not published a second time."""
    broker = await open_broker()
    await set_up(broker, "work", "other")
    await broker.publish([job()], deadline_s=DEADLINE_S)
    (held,) = await collect(await broker.consume("work", credit=1), 1)
    good, astray = job("other"), job("nowhere")
    undone = Settlement(delivery=held, copies=(good, astray))
    assert await broker.settle([undone], deadline_s=DEADLINE_S) == [SettleStatus.UNDONE]
    mended = Settlement(delivery=held, copies=(good, job("other")))
    assert await broker.settle([mended], deadline_s=DEADLINE_S) == [SettleStatus.SETTLED]
    found = await collect(await broker.consume("other", credit=5), 2)
    assert {each.envelope.id for each in found} == {each.id for each in mended.copies}


async def test_records_of_a_batch_travel_together(open_broker: Open, amqp_url: str) -> None:
    """With a ledger, one feed message carries the records of a queue's whole batch, and they gate
    the ack; whether there is a ledger is discovered.
    """
    broker = await open_broker()
    await set_up(broker, "work", ledger=True)
    assert broker.recording
    other = await open_broker()
    assert other.recording
    await broker.publish([job() for _ in range(20)], deadline_s=DEADLINE_S)
    deliveries = await collect(await broker.consume("work", credit=20), 20)
    statuses = await broker.settle(
        [Settlement(delivery=each, record=record(each)) for each in deliveries],
        deadline_s=DEADLINE_S,
    )
    assert statuses == [SettleStatus.SETTLED] * 20
    feed = await broker.feed(credit=100)
    envelopes = 0
    records: list[tuple[FeedRecord, ...]] = []
    async with asyncio.timeout(DEADLINE_S):
        while envelopes < 20 or not records:
            for item in await feed.take():
                envelopes += item.envelope is not None
                if item.records:
                    records.append(item.records)
    assert [len(some) for some in records] == [20]
    await feed.stop()


async def test_large_records_travel_in_messages_that_the_broker_takes(open_broker: Open) -> None:
    """24 values of a mebibyte end together: RabbitMQ takes 16 MiB in one message, and no more."""
    broker = await open_broker()
    await set_up(broker, "work", ledger=True)
    await broker.publish([job() for _ in range(24)], deadline_s=DEADLINE_S)
    deliveries = await collect(await broker.consume("work", credit=24), 24)
    value = msgspec.Raw(b'"' + b"x" * (1024 * 1024) + b'"')
    batch = [
        Settlement(delivery=each, record=msgspec.structs.replace(record(each), value=value))
        for each in deliveries
    ]
    statuses = await broker.settle(batch, deadline_s=DEADLINE_S)
    assert statuses == [SettleStatus.SETTLED] * 24
    feed = await broker.feed(credit=100)
    told: set[str] = set()
    async with asyncio.timeout(DEADLINE_S):
        while len(told) < 24:
            items = await feed.take()
            told |= {each.job for item in items for each in item.records}
            await feed.ack(items)
    assert told == {each.envelope.id for each in deliveries}
    await feed.stop()


async def test_a_ledger_that_is_taken_away_stops_nobody(
    open_broker: Open, rabbitmq_node: Server, amqp_url: str
) -> None:
    """The job is settled all the same, and its record given back to be kept."""
    broker = await open_broker()
    await set_up(broker, "work", ledger=True)
    await broker.publish([job()], deadline_s=DEADLINE_S)
    (delivery,) = await collect(await broker.consume("work", credit=1), 1)
    await rabbitmq_node.delete_queue(amqp_url, "taskyard.ledger")
    settlement = Settlement(delivery=delivery, record=record(delivery))
    assert await broker.settle([settlement], deadline_s=DEADLINE_S) == [SettleStatus.UNRECORDED]


def record(delivery: Delivery) -> FeedRecord:
    envelope = delivery.envelope
    return FeedRecord(
        event=FINISHED,
        job=envelope.id,
        queue=envelope.queue,
        task=envelope.task,
        attempt=1,
        deliveries=1,
        message=envelope.message_id,
        at=1,
        outcome="succeeded",
    )


async def test_late_deliveries_of_a_stopped_consumer_are_not_charged(open_broker: Open) -> None:
    """Stopping in full flow and handing everything back marks no job as redelivered (BS-19)."""
    broker = await open_broker()
    await set_up(broker, "work")
    await broker.publish([job() for _ in range(2_000)], deadline_s=DEADLINE_S)
    held: list[Delivery] = []
    for _ in range(10):
        consumer = await broker.consume("work", credit=100)
        held += await consumer.take()
        held += await consumer.stop()
    statuses = await broker.settle(
        [Settlement(delivery=each, copies=(each.envelope,)) for each in held],
        deadline_s=DEADLINE_S,
    )
    assert set(statuses) == {SettleStatus.SETTLED}
    consumer = await broker.consume("work", credit=2_000)
    back = await collect(consumer, 2_000)
    assert len({each.envelope.id for each in back}) == 2_000
    assert not any(each.redelivered for each in back)


async def test_stopping_while_the_last_job_ends_charges_nobody(open_broker: Open) -> None:
    """The channel stays open until the broker has said that no more is on its way (BS-09)."""
    broker = await open_broker()
    await set_up(broker, "work")
    await broker.publish([job() for _ in range(1500)], deadline_s=DEADLINE_S)
    for _ in range(60):
        consumer = await broker.consume("work", credit=5)
        batch = await consumer.take()
        ending = asyncio.create_task(settle(broker, batch))
        rest = await consumer.stop()
        await ending
        await settle(broker, rest)
        for delivery in (*batch, *rest):
            # A queue that counts failed hand-overs tells a return from one.
            counts = delivery.failures is not None
            assert delivery.failures == 0 if counts else not delivery.redelivered


@asynccontextmanager
async def tls_in_front(url: str, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """Terminate TLS before a broker; yields the `amqps` URL and the certificate's file."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "install openssl (scripts/ensure-rabbitmq does)"
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    making = await asyncio.create_subprocess_exec(
        openssl, *command.split(), *names, *files, stderr=asyncio.subprocess.DEVNULL
    )
    assert await making.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    broker = urlsplit(url)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(broker.hostname, broker.port)
        await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    replaced = broker._replace(
        scheme="amqps", netloc=f"{broker.username}:{broker.password}@127.0.0.1:{port}"
    )
    yield urlunsplit(replaced), certificate
    server.close()


async def test_amqps_trusts_only_what_it_was_told_to(
    open_broker: Open, amqp_url: str, tmp_path: Path
) -> None:
    """Jobs travel over TLS; a certificate of unknown authority, or of another host, is a
    configuration error at once.
    """
    async with tls_in_front(amqp_url, tmp_path) as (url, certificate):
        broker = await open_broker(f"{url}?cafile={certificate}")
        await set_up(broker, "work")
        jobs = [job(body=b"x" * 100_000) for _ in range(30)]
        receipts = await broker.publish(jobs, deadline_s=DEADLINE_S)
        assert {receipt.status for receipt in receipts} == {PublishStatus.CONFIRMED}
        assert len(await collect(await broker.consume("work", credit=30), 30)) == 30
        await broker.close()
        with pytest.raises(ConfigurationError, match="cannot be trusted: self-signed"):
            await connect(url).open(deadline_s=DEADLINE_S)
        elsewhere = f"{url}?cafile={certificate}".replace("127.0.0.1", "localhost")
        with pytest.raises(ConfigurationError, match="not valid for 'localhost'"):
            await connect(elsewhere).open(deadline_s=DEADLINE_S)


async def test_wrong_credentials_are_a_configuration_error(amqp_url: str) -> None:
    """Said at once and in words, not tried for ever; the password is not shown (ZS-19)."""
    broker = connect(amqp_url.replace("taskyard:taskyard@", "taskyard:wr0ng@"))
    with pytest.raises(ConfigurationError, match="refuses user 'taskyard'") as caught:
        await broker.open(deadline_s=DEADLINE_S)
    assert "wr0ng" not in str(caught.value)


async def test_an_unknown_virtual_host_is_a_configuration_error(rabbitmq_node: Server) -> None:
    """Its name is in the text."""
    url = rabbitmq_node.url.rpartition("/")[0] + "/no-such-host"
    with pytest.raises(ConfigurationError, match="'no-such-host' does not exist"):
        await connect(url).open(deadline_s=DEADLINE_S)


async def test_an_absent_broker_is_unavailable_within_the_deadline() -> None:
    """Opening gives up in time and says why."""
    with pytest.raises(Unavailable, match=r"within 0\.5 s.*refused"):
        await connect("amqp://127.0.0.1:1/").open(deadline_s=0.5)


async def test_a_dead_node_of_the_list_is_passed_over(amqp_url: str, open_broker: Open) -> None:
    """A cluster's URL names several nodes; any that answers will do (promise 1)."""
    host = amqp_url.partition("@")[2].partition("/")[0]
    broker = await open_broker(amqp_url.replace(host, f"127.0.0.1:1,{host}"))
    assert broker.connected


async def test_a_stopped_consumer_is_given_no_more(open_broker: Open) -> None:
    """Credit that is changed while a flow ends with a job still running, as calls do, must not open
    it again: a job that it was then given would be stuck with it.
    """
    broker = await open_broker()
    await set_up(broker, "work")
    await broker.publish([job()], deadline_s=DEADLINE_S)
    stopped = await broker.consume("work", credit=1)
    await collect(stopped, 1)
    await stopped.stop()
    await stopped.set_credit(5)
    sent = job()
    await broker.publish([sent], deadline_s=DEADLINE_S)
    (delivery,) = await collect(await broker.consume("work", credit=1), 1)
    assert delivery.envelope.id == sent.id
