"""The hot paths, each driven the same way every time: in one process, in step with its broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.counts.peer import Peer
from taskyard.producer import AsyncProducer, Producer
from taskyard.shared import Queue
from taskyard.shared.broker import Broker, QueueSpec, SetupSpec
from taskyard.shared.brokers import connect
from taskyard.shared.control import encode_records, genesis
from taskyard.shared.settings import Settings
from taskyard.shared.topology import plan
from taskyard.workers.worker import Worker

bench = Queue("bench", concurrency=200)

_NAMESPACE: Final = "taskyard"
_WORK_QUEUE: Final = f"{_NAMESPACE}.q.{bench.name}"
#: No heartbeat falls into a run.
_HEARTBEAT_S: Final = 600.0


@bench.task
async def noop(n: int) -> None:
    """Do nothing with `n` but count the call."""
    del n
    _done.tick()


@bench.task
def noop_in_thread(n: int) -> None:
    """Do nothing with `n`, in a thread."""
    del n


class _Done:
    """Counts the jobs that were run, for whoever waits for the last of some."""

    def __init__(self) -> None:
        self._left = 0
        self._last = asyncio.Event()

    def expect(self, number: int) -> None:
        self._left = number
        self._last = asyncio.Event()

    def tick(self) -> None:
        self._left -= 1
        if not self._left:
            self._last.set()

    async def wait_last(self) -> None:
        await self._last.wait()


_done = _Done()


@dataclass(frozen=True, slots=True)
class Steps:
    """A path that is ready.

    Attributes:
        prepare: does what is not part of it, for so many jobs.
        run: takes so many jobs along it.

    """

    prepare: Callable[[int], Awaitable[object]]
    run: Callable[[int], Awaitable[object]]


Opened: TypeAlias = AbstractAsyncContextManager[Steps]


async def _nothing(_: int) -> None:
    pass


def _settings(url: str, folder: Path) -> Settings:
    return Settings(
        broker_url=url,
        namespace=_NAMESPACE,
        management_url=f"http://{url.rpartition('@')[2]}" if url.startswith("amqp") else None,
        state_dir=folder,
        heartbeat=_HEARTBEAT_S,
    )


def _peer(*, recording: bool) -> Peer:
    return Peer(feed=recording, queue=_WORK_QUEUE, control=encode_records([genesis(0)]))


# on RabbitMQ's protocol


@asynccontextmanager
async def worker(folder: Path, *, task: Any, recording: bool) -> AsyncIterator[Steps]:
    """Deliveries are read, run, recorded and acknowledged."""
    async with _peer(recording=recording) as peer:
        settings = _settings(peer.url, folder)
        async with AsyncProducer(settings=settings) as producer:
            broker = connect(peer.url, settings.broker_options("worker"))
            await broker.open()
            running = Worker(broker, [bench], settings=settings)
            end = asyncio.create_task(running.run())

            async def prepare(number: int) -> None:
                await producer.send_many(task.job(n=n) for n in range(number))
                await peer.prepare(number)

            try:
                yield Steps(prepare, peer.hand_over)
            finally:
                running.stop()
                await end
                await broker.close()


@asynccontextmanager
async def send_many(folder: Path) -> AsyncIterator[Steps]:
    """Jobs are checked, encoded, published and confirmed, many at once."""
    async with (
        _peer(recording=True) as peer,
        AsyncProducer(settings=_settings(peer.url, folder)) as producer,
    ):

        async def run(number: int) -> None:
            await producer.send_many(noop.job(n=n) for n in range(number))

        yield Steps(_nothing, run)


@asynccontextmanager
async def send(folder: Path) -> AsyncIterator[Steps]:
    """The same, each confirmed before the next."""
    async with (
        _peer(recording=True) as peer,
        AsyncProducer(settings=_settings(peer.url, folder)) as producer,
    ):

        async def run(number: int) -> None:
            for n in range(number):
                await producer.send(noop, n=n)

        yield Steps(_nothing, run)


@asynccontextmanager
async def sync(folder: Path, *, many: bool) -> AsyncIterator[Steps]:
    """The same from a program without an event loop."""
    async with _peer(recording=True) as peer:
        producer = Producer(settings=_settings(peer.url, folder))

        def sending(number: int) -> None:
            if many:
                producer.send_many(noop.job(n=n) for n in range(number))
                return
            for n in range(number):
                producer.send(noop, n=n)

        try:
            yield Steps(_nothing, lambda number: asyncio.to_thread(sending, number))
        finally:
            await asyncio.to_thread(producer.close)


# on SQLite


@asynccontextmanager
async def _sqlite(folder: Path, *, recording: bool) -> AsyncIterator[tuple[Settings, Broker]]:
    settings = _settings(f"sqlite:///{folder / 'broker.db'}", folder)
    broker = connect(settings.require_broker_url(), settings.broker_options("worker"))
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name=bench.name),), ledger=recording)
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    try:
        yield settings, broker
    finally:
        await broker.close()


@asynccontextmanager
async def sqlite_send_many(folder: Path) -> AsyncIterator[Steps]:
    """Jobs are checked, encoded and committed to the file."""
    async with (
        _sqlite(folder, recording=True) as (settings, broker),
        AsyncProducer(broker=broker, settings=settings) as producer,
    ):

        async def run(number: int) -> None:
            await producer.send_many(noop.job(n=n) for n in range(number))

        yield Steps(_nothing, run)


@asynccontextmanager
async def sqlite_worker(folder: Path) -> AsyncIterator[Steps]:
    """Jobs are claimed, run, and settled with their records."""
    async with (
        _sqlite(folder, recording=True) as (settings, broker),
        AsyncProducer(broker=broker, settings=settings) as producer,
    ):
        running = Worker(broker, [bench], settings=settings)
        end = asyncio.create_task(running.run())
        lane = running.lanes[bench.name]

        async def consumers(number: int) -> None:
            while (await broker.stats([bench.name]))[bench.name].consumers != number:
                pass

        async def prepare(number: int) -> None:
            await consumers(1)
            lane.set_open(False)
            await consumers(0)
            await producer.send_many(noop.job(n=n) for n in range(number))

        async def run(number: int) -> None:
            _done.expect(number)
            lane.set_open(True)
            await _done.wait_last()
            await running.committer.wait_idle()

        try:
            yield Steps(prepare, run)
        finally:
            running.stop()
            await end


PATHS: Final[dict[str, Callable[[Path], Opened]]] = {
    "worker": partial(worker, task=noop, recording=True),
    "worker-unrecorded": partial(worker, task=noop, recording=False),
    "worker-threads": partial(worker, task=noop_in_thread, recording=True),
    "send-many": send_many,
    "send": send,
    "sync-send-many": partial(sync, many=True),
    "sync-send": partial(sync, many=False),
    "sqlite-send-many": sqlite_send_many,
    "sqlite-worker": sqlite_worker,
}
