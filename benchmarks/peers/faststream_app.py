"""FastStream on RabbitMQ.

https://faststream.ag2.ai/latest/rabbit/: a durable queue, a channel's prefetch, acknowledged after
the handler (its default), no argument validation (`apply_types=False`), its logger off, uvloop.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

import uvloop
from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks.meter import Meter
from benchmarks.publishing import Job, main

WINDOW = 500
PREFETCH = int(os.environ.get("BENCH_PREFETCH", "200"))

broker = RabbitBroker(
    os.environ["BENCH_URL"],
    apply_types=False,
    logger=None,
    default_channel=Channel(prefetch_count=PREFETCH),
)
app = FastStream(broker)
meter = Meter()


@broker.subscriber(RabbitQueue("bench", durable=True), no_reply=True)
async def noop(message: Any) -> None:
    body = message if isinstance(message, dict) else json.loads(message)
    meter.tick(body["sent"])


@broker.subscriber(RabbitQueue("bench-threads", durable=True), no_reply=True)
def blocking(message: Any) -> None:
    body = message if isinstance(message, dict) else json.loads(message)
    meter.tick(body["sent"])


async def send(jobs: Sequence[Job], window: int, queue: str = "bench") -> None:
    for start in range(0, len(jobs), window):
        await asyncio.gather(
            *(
                broker.publish({"sent": sent, "data": data}, queue, persist=True)
                for sent, data in jobs[start : start + window]
            )
        )


async def ready() -> None:
    await broker.connect()
    await broker.declare_queue(RabbitQueue("bench", durable=True))
    await broker.declare_queue(RabbitQueue("bench-threads", durable=True))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run
        main(
            {
                "one": lambda jobs: run(send(jobs, 1)),
                "many": lambda jobs: run(send(jobs, WINDOW)),
                "async": lambda jobs: run(send(jobs, WINDOW)),
                "sync-many": lambda jobs: run(send(jobs, WINDOW, "bench-threads")),
            },
            ready=lambda: run(ready()),
        )
        run(broker.stop())
