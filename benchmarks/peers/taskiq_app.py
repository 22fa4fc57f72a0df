"""Taskiq with taskiq-aio-pika.

https://taskiq-python.github.io/guide/cli.html and the broker's README: one worker process, as many
tasks at once as are prefetched, acknowledged when executed, uvloop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import uvloop
from taskiq_aio_pika import AioPikaBroker

from benchmarks.meter import Meter
from benchmarks.publishing import Job, main

#: Sends under way at once: more are not faster.
WINDOW = 500

broker = AioPikaBroker(os.environ["BENCH_URL"], qos=int(os.environ.get("BENCH_PREFETCH", "200")))
meter = Meter()


@broker.task(task_name="noop")
async def noop(sent: int, data: str) -> None:
    del data
    meter.tick(sent)


@broker.task(task_name="blocking")
def blocking(sent: int, data: str) -> None:
    del data
    meter.tick(sent)


async def send(jobs: Sequence[Job], window: int, task: Any = noop) -> None:
    for start in range(0, len(jobs), window):
        await asyncio.gather(*(task.kiq(*job) for job in jobs[start : start + window]))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run
        main(
            {
                "one": lambda jobs: run(send(jobs, 1)),
                "many": lambda jobs: run(send(jobs, WINDOW)),
                "async": lambda jobs: run(send(jobs, WINDOW)),
                "sync-many": lambda jobs: run(send(jobs, WINDOW, blocking)),
            },
            ready=lambda: run(broker.startup()),
        )
        run(broker.shutdown())
