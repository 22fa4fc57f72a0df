"""The bare client: pika's asyncio adapter with nothing around it, on uvloop, as the yardstick.

python -m benchmarks.ours.bare many N BYTES      pipelined confirms, persistent, mandatory
python -m benchmarks.ours.bare one N BYTES       one at a time, pika's blocking connection
python -m benchmarks.ours.bare consume           a coroutine per message, then its ack
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec
import pika
import uvloop
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel
from pika.channel import Channel

from benchmarks.meter import Meter
from benchmarks.publishing import Job, main

#: Unconfirmed publishes in flight; the bare client does not get faster beyond a thousand.
WINDOW = int(os.environ.get("BENCH_WINDOW", "1000"))
PREFETCH = int(os.environ.get("BENCH_PREFETCH", "200"))
QUEUE = "taskyard.q.bench"
URL = os.environ["BENCH_URL"]
PROPERTIES = pika.BasicProperties(
    content_type="application/json",
    delivery_mode=2,
    priority=4,
    type="bench.noop",
    correlation_id="01a205ba-59b4-7324-9aaf-07cf6a656592",
)


def body(job: Job) -> bytes:
    return msgspec.json.encode({"sent": job[0], "data": job[1]})


async def open_channel() -> tuple[AsyncioConnection, Channel]:
    """Return an open connection with one open channel."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Channel] = loop.create_future()
    connection = AsyncioConnection(
        pika.URLParameters(URL),
        on_open_callback=lambda c: c.channel(on_open_callback=ready.set_result),
        on_open_error_callback=lambda _, error: ready.set_exception(error),
        custom_ioloop=loop,
    )
    return connection, await ready


class Pipeline:
    """Publishes with as many confirms outstanding as serve."""

    def __init__(self) -> None:
        self._confirmed = 0
        self._sent = 0
        self._room = asyncio.Event()

    async def open(self) -> None:
        _, self._channel = await open_channel()
        selected: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._channel.confirm_delivery(self._on_confirm, callback=selected.set_result)
        await selected

    async def publish(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            while self._sent - self._confirmed >= WINDOW:
                self._room.clear()
                await self._room.wait()
            self._channel.basic_publish("", QUEUE, body(job), PROPERTIES, mandatory=True)
            self._sent += 1
            if self._sent % 100 == 0:
                await asyncio.sleep(0)
        while self._confirmed < self._sent:
            self._room.clear()
            await self._room.wait()

    def _on_confirm(self, frame: pika.frame.Method) -> None:
        method = frame.method
        tag = method.delivery_tag
        self._confirmed = max(self._confirmed, tag) if method.multiple else self._confirmed + 1
        self._room.set()


async def consume() -> None:
    """Run until ended: a coroutine per message, which decodes it, and then its ack."""
    connection, channel = await open_channel()
    loop, meter = asyncio.get_running_loop(), Meter()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(tag: int, data: bytes) -> None:
        meter.tick(msgspec.json.decode(data)["sent"])
        channel.basic_ack(tag)

    def on_message(_: Channel, method: pika.spec.Basic.Deliver, __: object, data: bytes) -> None:
        task = loop.create_task(handle(method.delivery_tag, data))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(QUEUE, on_message)
    closed: asyncio.Future[object] = loop.create_future()
    connection.add_on_close_callback(lambda _, error: closed.set_result(error))
    await closed


class OneAtATime:
    """pika's blocking connection: each publish returns when it is confirmed."""

    def ready(self) -> None:
        self._channel: BlockingChannel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
        self._channel.confirm_delivery()

    def publish(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._channel.basic_publish("", QUEUE, body(job), PROPERTIES, mandatory=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if sys.argv[1] == "consume":
            runner.run(consume())
        elif sys.argv[1] == "one":
            one = OneAtATime()
            main({"one": one.publish}, ready=one.ready)
        else:
            pipeline = Pipeline()
            main(
                {"many": lambda jobs: runner.run(pipeline.publish(jobs))},
                ready=lambda: runner.run(pipeline.open()),
            )
