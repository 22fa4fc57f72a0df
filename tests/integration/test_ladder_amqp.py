"""The AMQP layout on a real broker: it is accepted as it is, and the ladder keeps its times."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from support.eventually import eventually_blocking
from support.rabbitmq import Server
from taskyard.shared.adapters.amqp import ladder
from taskyard.shared.adapters.amqp.layout import BrokerFacts, layout, resolve_type
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.topology import Binding, Create, Exchange, QueueObject, Topology, plan

pytestmark = pytest.mark.rabbitmq

NAMES = Names("tq")
QUEUES = ("left", "right")
GRACE_S = 10.0


@pytest.fixture
def channel(amqp_url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    yield connection.channel()
    connection.close()


@pytest.fixture
def laid_out(channel: BlockingChannel, rabbitmq_node: Server) -> BlockingChannel:
    kind = resolve_type("auto", BrokerFacts(version=rabbitmq_node.version_tuple))
    assert isinstance(kind, str)
    create(channel, layout(NAMES, [(queue, kind) for queue in QUEUES], feed="quorum"))
    channel.confirm_delivery()
    return channel


def create(channel: BlockingChannel, desired: Topology) -> None:
    for action in plan(desired, Topology()):
        assert isinstance(action, Create)
        entity = action.entity
        if isinstance(entity, Exchange):
            channel.exchange_declare(
                entity.name, entity.kind, durable=True, arguments=dict(entity.arguments)
            )
        elif isinstance(entity, QueueObject):
            channel.queue_declare(entity.name, durable=True, arguments=dict(entity.arguments))
        elif isinstance(entity, Binding) and entity.destination_kind == "queue":
            channel.queue_bind(entity.destination, entity.source, entity.routing_key)
        elif isinstance(entity, Binding):
            channel.exchange_bind(entity.destination, entity.source, entity.routing_key)


def send(channel: BlockingChannel, delay_ms: int, queue: str, **properties: object) -> None:
    """Publish a job whose body is its due time, in seconds."""
    ticks = ladder.ticks(delay_ms)
    channel.basic_publish(
        ladder.entry(NAMES, ticks),
        ladder.routing_key(ticks, queue),
        repr(time.time() + delay_ms / 1000).encode(),
        pika.BasicProperties(delivery_mode=2, priority=4, **properties),
        mandatory=True,
    )


def count(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def receive(channel: BlockingChannel, queues: list[str], wanted: int) -> list[tuple[str, float]]:
    """Consume until `wanted` jobs came: each one's queue and how late it was, in seconds."""
    got: list[tuple[str, float]] = []

    def take(consuming: BlockingChannel, method, _properties, body: bytes) -> None:
        got.append((method.consumer_tag, time.time() - float(body)))
        consuming.basic_ack(method.delivery_tag)

    for queue in queues:
        channel.basic_consume(queue, take, consumer_tag=queue)
    deadline = time.monotonic() + 4.0 + GRACE_S
    while len(got) < wanted and time.monotonic() < deadline:
        channel.connection.process_data_events(time_limit=0.1)
    return got


def test_random_delays_arrive_in_time_at_their_own_queue(laid_out: BlockingChannel) -> None:
    """None early and none astray, on either version, while two queues share the ladder."""
    rng = random.Random(5)
    sent = [(rng.randint(1, 3500), rng.choice(QUEUES)) for _ in range(120)]
    for delay_ms, queue in sent:
        send(laid_out, delay_ms, queue)

    got = receive(laid_out, [NAMES.work_queue(queue) for queue in QUEUES], len(sent))

    assert sorted(q for q, _ in got) == sorted(NAMES.work_queue(queue) for _, queue in sent)
    assert min(late for _, late in got) >= 0
    assert max(late for _, late in got) < GRACE_S
    assert count(laid_out, NAMES.ledger) == len(sent), "the feed has one copy of each"


def test_a_delayed_job_for_a_missing_queue_is_orphaned(laid_out: BlockingChannel) -> None:
    """At-least-once dead letters without a target would stop the ladder; none is lost either."""
    for _ in range(40):  # more than the 32 that the broker holds unconfirmed per queue
        send(laid_out, 200, "nowhere")
    send(laid_out, 200, "left")

    assert len(receive(laid_out, [NAMES.work_queue("left")], 1)) == 1
    assert len(receive(laid_out, [NAMES.orphaned], 40)) == 40


def test_an_unknown_queue_is_returned_by_the_probe(laid_out: BlockingChannel) -> None:
    """A mandatory publish to `known` says whether a queue exists, and leaves nothing behind."""
    laid_out.basic_publish(NAMES.known, "left", b"", mandatory=True)
    with pytest.raises(pika.exceptions.UnroutableError):
        laid_out.basic_publish(NAMES.known, "nowhere", b"", mandatory=True)
    assert count(laid_out, NAMES.known) == 0


def test_the_ladder_charges_no_deliveries(laid_out: BlockingChannel) -> None:
    """A job that came through dead letters is a first delivery: nothing counts to its limit."""
    send(laid_out, 900, "left")

    arriving = laid_out.consume(NAMES.work_queue("left"), inactivity_timeout=GRACE_S)
    method, properties, _ = next(arriving)

    assert method is not None
    assert not method.redelivered
    assert not properties.headers.get("x-delivery-count")


def cut_off(channel: BlockingChannel, lot: str, wanted: int) -> list[int]:
    """Browse as we do: consume everything, then close the channel under it."""
    reader = channel.connection.channel()
    seen: list[int] = []
    for method, _, body in reader.consume(lot, inactivity_timeout=GRACE_S):
        assert method is not None
        seen.append(int(body))
        if len(seen) == wanted:
            break
    reader.close()
    return seen


def got_and_rejected(channel: BlockingChannel, lot: str, wanted: int) -> list[int]:
    """Browse as other tools do: get, then reject with requeue, which charges a delivery."""
    reader = channel.connection.channel()
    taken = [reader.basic_get(lot) for _ in range(wanted)]
    for method, _, _ in taken:
        reader.basic_reject(method.delivery_tag, requeue=True)
    reader.close()
    return [int(body) for _, _, body in taken]


@pytest.mark.parametrize("browse", [cut_off, got_and_rejected])
def test_a_parking_lot_keeps_every_job_and_their_order(
    laid_out: BlockingChannel, browse: Callable[[BlockingChannel, str, int], list[int]]
) -> None:
    """Thirty browses end no job and move none, on every version."""
    lot = NAMES.parked_queue("left")
    for number in range(10):
        laid_out.basic_publish(
            NAMES.parked, "left", str(number).encode(), pika.BasicProperties(delivery_mode=2)
        )
    for _ in range(30):
        assert browse(laid_out, lot, 10) == list(range(10))
        eventually_blocking(partial(has, laid_out, lot, 10), within=GRACE_S)


def has(channel: BlockingChannel, queue: str, wanted: int) -> bool:
    """Whether a queue has this many jobs ready."""
    return count(channel, queue) == wanted
