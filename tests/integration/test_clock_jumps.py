"""A machine whose clock is set, under a worker that runs jobs: a whole worker inside the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from taskyard.producer import AsyncProducer
from taskyard.shared import Context, Queue, RetryPolicy
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.adapters.sql.broker import SqlBroker
from taskyard.shared.adapters.sql.location import parse
from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.clock import SystemClock
from taskyard.shared.settings import Settings
from taskyard.shared.topology import plan
from taskyard.workers.worker import Worker, WorkerOptions

DAY_MS = 86_400_000


class Watch(SystemClock):
    """The machine's clock, which someone sets; its monotonic one goes on."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


class Shop:
    """A queue, its runs, and a worker on a watch of its own."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.queue = Queue("clocks", retry=RetryPolicy(attempts=3, first=0.3, jitter="none"))
        self.started: list[tuple[str, int, int]] = []
        self.ended: list[str] = []

        @self.queue.task(ttr=20.0)
        async def work(ctx: Context, seconds: float = 0.0) -> None:
            self.started.append((ctx.job_id, ctx.attempt, ctx.deliveries))
            await asyncio.sleep(seconds)
            self.ended.append(ctx.job_id)

        @self.queue.task
        async def again(ctx: Context) -> None:
            self.started.append((ctx.job_id, ctx.attempt, ctx.deliveries))
            if ctx.attempt == 1:
                raise RuntimeError("once more")
            self.ended.append(ctx.job_id)

        self.work, self.again = work, again


@asynccontextmanager
async def working(
    shop: Shop, target: BrokerUnderTest, folder: Path
) -> AsyncIterator[AsyncProducer]:
    broker: AmqpBroker | SqlBroker = (
        AmqpBroker(target.url, clock=shop.watch)
        if target.kind == "rabbitmq"
        else SqlBroker(parse(target.url), clock=shop.watch)
    )
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name=shop.queue.name),))
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    settings = Settings(broker_url=target.url, state_dir=folder)
    worker = Worker(
        broker, [shop.queue], settings=settings, options=WorkerOptions(), clock=shop.watch
    )
    running = asyncio.create_task(worker.run())
    producer = AsyncProducer(broker=broker, settings=settings)
    try:
        yield producer
    finally:
        worker.hurry()
        await asyncio.wait_for(running, 20)
        await producer.close()
        await broker.close()


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS], ids=["ahead", "back"])
async def test_a_clock_that_is_set_disturbs_nothing_that_runs(
    broker_url: BrokerUnderTest, tmp_path: Path, jump_ms: int
) -> None:
    """Times to run and heartbeats are measured, not compared: no run ends early or twice, and what is
    sent and tried again afterwards waits as long as it should.
    """
    shop = Shop()
    async with working(shop, broker_url, tmp_path) as producer:
        long = await producer.send(shop.work.job(seconds=2.0))
        await eventually(lambda: shop.started)
        shop.watch.ahead_ms = jump_ms
        more = [
            await producer.send(shop.again.job()),
            await producer.send(shop.work.job().options(delay=0.5)),
            await producer.send(shop.work.job(seconds=0.1)),
        ]
        everyone = {long.id, *(handle.id for handle in more)}
        await eventually(lambda: set(shop.ended) == everyone, within=20)
        assert len(shop.ended) == len(everyone)
        assert {deliveries for _, _, deliveries in shop.started} == {1}
        assert sorted(attempt for _, attempt, _ in shop.started) == [1, 1, 1, 1, 2]
