"""The levers of the `memory` adapter: what it does beyond the port, for tests of other parts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest

from taskyard.shared.adapters.memory import (
    MemoryBroker,
    MemoryRoom,
    MemoryState,
    SimulatedCrash,
    state_of,
)
from taskyard.shared.broker import (
    BrokerEvent,
    BrokerOptions,
    Connected,
    Lost,
    PublishStatus,
    QueueSpec,
    Settlement,
    SettleStatus,
    SetupSpec,
)
from taskyard.shared.brokers import connect
from taskyard.shared.clock import VirtualClock
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import Create, Remove, WorkQueue, plan


def job(**fields: object) -> Envelope:
    base = Envelope(id=mint_id(), queue="q", task="q.t")
    return msgspec.structs.replace(base, **fields)


async def opened(state: MemoryState) -> MemoryBroker:
    broker = MemoryBroker(state)
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name="q"),))
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    return broker


@pytest.fixture
async def broker() -> AsyncIterator[MemoryBroker]:
    broker = await opened(MemoryState(VirtualClock()))
    yield broker
    await broker.close()


async def test_a_url_names_one_state_per_process_and_namespace() -> None:
    """`memory://name` is the same broker for everyone in the process (EV-12)."""
    name = mint_id()
    one, two = connect(f"memory://{name}"), connect(f"memory://{name}")
    other = connect(f"memory://{name}", BrokerOptions(namespace="elsewhere"))
    assert isinstance(one, MemoryBroker)
    assert isinstance(two, MemoryBroker)
    assert isinstance(other, MemoryBroker)
    assert one.state is two.state is state_of(name)
    assert other.state is not one.state


async def test_only_a_virtual_clock_is_turned() -> None:
    """Turning the machine's clock is refused in words."""
    with pytest.raises(ConfigurationError, match="VirtualClock"):
        MemoryState().advance(1)


async def test_turning_the_clock_hands_over_what_became_due(broker: MemoryBroker) -> None:
    """To the millisecond: not one early, and in the order of due times."""
    start_ms = broker.now_ms()
    later, sooner = job(not_before_ms=start_ms + 20), job(not_before_ms=start_ms + 10)
    await broker.publish([later, sooner], deadline_s=1)
    consumer = await broker.consume("q", credit=5)
    broker.state.advance(9)
    assert (await broker.stats(["q"]))["q"].scheduled == 2
    broker.state.advance(1)
    assert [d.envelope.id for d in await consumer.take()] == [sooner.id]
    broker.state.advance(10)
    assert [d.envelope.id for d in await consumer.take()] == [later.id]


async def test_a_cut_connection_loses_deliveries_and_keeps_consumers(broker: MemoryBroker) -> None:
    """`sever` fences off what was held, redelivers it to the same consumer, and tells (LQ-07)."""

    async def watch() -> list[BrokerEvent]:
        return [event async for event in broker.events()]

    task = asyncio.create_task(watch(), name="watch")
    consumer, inbox = await broker.consume("q", credit=1), await broker.inbox()
    await broker.publish([job(reply=(inbox.address,))], deadline_s=1)
    (first,) = await consumer.take()
    broker.sever("cable pulled")
    assert await broker.settle([Settlement(delivery=first)], deadline_s=1) == [SettleStatus.LOST]
    (again,) = await consumer.take()
    assert (again.redelivered, again.failures) == (True, 1)
    assert consumer.present
    reply = Settlement(delivery=again, replies=((inbox.address, b"here"),))
    assert await broker.settle([reply], deadline_s=1) == [SettleStatus.SETTLED]
    assert await inbox.take() == [b"here"]
    await broker.close()
    assert await task == [Connected(), Lost("cable pulled"), Connected()]


async def test_a_closed_inbox_stays_closed_over_a_cut(broker: MemoryBroker) -> None:
    """A reconnect does not bring back what was given up."""
    inbox = await broker.inbox()
    await inbox.close()
    broker.sever()
    assert inbox.address not in broker.state.inboxes


@pytest.mark.parametrize("step", ["settle:begin", "settle:copied", "settle:confirmed"])
async def test_a_process_dies_at_the_step_that_is_named(broker: MemoryBroker, step: str) -> None:
    """A hook that raises ends the handle there: its delivery goes back, charged (promise 2)."""
    consumer = await broker.consume("q", credit=1)
    await broker.publish([job()], deadline_s=1)
    (held,) = await consumer.take()

    def fault(name: str) -> None:
        if name == step:
            broker.state.fault = None
            raise SimulatedCrash

    broker.state.fault = fault
    copy = msgspec.structs.replace(held.envelope, attempt=2)
    with pytest.raises(SimulatedCrash):
        await broker.settle([Settlement(delivery=held, copies=(copy,))], deadline_s=1)
    assert not broker.connected
    heir = await opened(broker.state)
    got = await (await heir.consume("q", credit=5)).take()
    attempts = [(d.envelope.attempt, d.failures) for d in got]
    assert attempts == ([(1, 1)] if step == "settle:begin" else [(1, 1), (2, 0)])


async def test_a_due_job_wakes_a_consumer_by_itself() -> None:
    """On the machine's clock nobody has to turn anything, also when the job came later."""
    broker = await opened(MemoryState())
    consumer = await broker.consume("q", credit=1)
    taking = asyncio.create_task(_take(consumer.take), name="take")
    await asyncio.sleep(0)
    sent = job(not_before_ms=broker.now_ms() + 30)
    await broker.publish([sent], deadline_s=1)
    async with asyncio.timeout(5):
        assert await taking == [sent.id]
    assert broker.now_ms() >= sent.due_ms
    await broker.close()


async def _take(method) -> list[str]:
    return [delivery.envelope.id for delivery in await method()]


async def test_handles_may_live_on_other_threads() -> None:
    """A producer's loop in a thread of its own reaches a worker's loop in this one."""
    state = MemoryState()
    broker = await opened(state)
    consumer = await broker.consume("q", credit=100)

    def produce() -> None:
        async def send() -> None:
            producer = MemoryBroker(state)
            await producer.open()
            for _ in range(50):
                receipts = await producer.publish([job()], deadline_s=1)
                assert receipts[0].status is PublishStatus.CONFIRMED
            await producer.close()

        asyncio.run(send())

    thread = threading.Thread(target=produce)
    thread.start()
    got = 0
    async with asyncio.timeout(10):
        while got < 50:
            batch = await consumer.take()
            got += len(batch)
            await broker.settle([Settlement(delivery=each) for each in batch], deadline_s=1)
    thread.join()
    await broker.close()


async def test_a_park_for_an_unknown_queue_is_kept_among_the_orphans(broker: MemoryBroker) -> None:
    """Nothing is dropped (promise 3)."""
    consumer = await broker.consume("q", credit=1)
    await broker.publish([job()], deadline_s=1)
    (held,) = await consumer.take()
    stray = msgspec.structs.replace(held.envelope, queue="gone")
    assert await broker.settle([Settlement(delivery=held, park=stray)], deadline_s=1) == [
        SettleStatus.SETTLED
    ]
    assert [envelope.id for envelope in broker.state.orphaned] == [stray.id]


async def test_a_queue_with_jobs_is_not_removed(broker: MemoryBroker) -> None:
    """An action that would lose jobs is refused in words; an empty queue goes."""
    await broker.publish([job()], deadline_s=1)
    with pytest.raises(ConfigurationError, match="holds 1 jobs"):
        await broker.apply([Remove(WorkQueue("q"))])
    (held,) = await (await broker.consume("q", credit=1)).take()
    await broker.settle([Settlement(delivery=held)], deadline_s=1)
    await broker.apply([Remove(WorkQueue("q"))])
    assert await broker.queues() == []


async def test_foreign_entities_are_refused(broker: MemoryBroker) -> None:
    """What another technology has does not exist here."""
    with pytest.raises(ConfigurationError, match="attic"):
        await broker.apply([Create(MemoryRoom("attic"))])


async def test_control_and_feed_need_set_up() -> None:
    """Before `apply` the log and the feed are refused, naming the command."""
    broker = MemoryBroker(MemoryState())
    await broker.open()
    with pytest.raises(ConfigurationError, match="--ledger"):
        await broker.feed(credit=1)
    with pytest.raises(Exception, match="broker apply"):
        await broker.append_control([])
    await broker.close()
