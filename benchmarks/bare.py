"""The bare client: pika's asyncio adapter with nothing around it, as the yardstick.

    python -m benchmarks.bare publish URL QUEUE N     pipelined confirms, persistent, mandatory
    python -m benchmarks.bare consume URL QUEUE N     a coroutine per message, then its ack

Prints messages per second.
"""

from __future__ import annotations

import asyncio
import sys
import time

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

#: Unconfirmed publishes in flight; the bare client does not get faster beyond a few hundred.
WINDOW = 1000
PREFETCH = 200
BODY = b'{"n":123456}'
PROPERTIES = pika.BasicProperties(
    content_type="application/json",
    delivery_mode=2,
    priority=4,
    type="bench.noop",
    correlation_id="01a205ba-59b4-7324-9aaf-07cf6a656592",
)


async def open_channel(url: str) -> tuple[AsyncioConnection, Channel]:
    """Return an open connection with one open channel."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Channel] = loop.create_future()
    connection = AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=lambda c: c.channel(on_open_callback=ready.set_result),
        on_open_error_callback=lambda _, error: ready.set_exception(error),
    )
    return connection, await ready


async def publish(url: str, queue: str, number: int) -> float:
    """Publish `number` messages and return messages per second, the last confirm included."""
    connection, channel = await open_channel(url)
    confirmed = 0
    room = asyncio.Event()

    def on_confirm(frame: pika.frame.Method) -> None:
        nonlocal confirmed
        method = frame.method
        confirmed = max(confirmed, method.delivery_tag) if method.multiple else confirmed + 1
        room.set()

    selected: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    channel.confirm_delivery(on_confirm, callback=selected.set_result)
    await selected
    started = time.perf_counter()
    for sent in range(number):
        while sent - confirmed >= WINDOW:
            room.clear()
            await room.wait()
        channel.basic_publish("", queue, BODY, PROPERTIES, mandatory=True)
        if sent % 100 == 0:
            await asyncio.sleep(0)
    while confirmed < number:
        room.clear()
        await room.wait()
    elapsed = time.perf_counter() - started
    connection.close()
    return number / elapsed


async def consume(url: str, queue: str, number: int) -> float:
    """Consume `number` messages, one coroutine each, and return messages per second."""
    connection, channel = await open_channel(url)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[float] = loop.create_future()
    tasks: set[asyncio.Task[None]] = set()
    count = 0
    started = 0.0

    async def handle(tag: int) -> None:
        nonlocal count
        channel.basic_ack(tag)
        count += 1
        if count == number:
            done.set_result(time.perf_counter() - started)

    def on_message(_: Channel, method: pika.spec.Basic.Deliver, __: object, ___: bytes) -> None:
        nonlocal started
        if not started:
            started = time.perf_counter()
        task = loop.create_task(handle(method.delivery_tag))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, on_message)
    elapsed = await done
    connection.close()
    return number / elapsed


if __name__ == "__main__":
    verb, target, name, amount = sys.argv[1:5]
    act = {"publish": publish, "consume": consume}[verb]
    print(asyncio.run(act(target, name, int(amount))))
