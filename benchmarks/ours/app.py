"""The queue that is measured, and its publishing side.

The same module serves RabbitMQ and the embedded broker; TASKYARD_BROKER_URL says which.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import uvloop

from benchmarks.meter import Meter
from benchmarks.publishing import Job as Sent, in_threads, main
from taskyard.producer import AsyncProducer, Producer
from taskyard.shared import Queue

bench = Queue(
    "bench",
    concurrency=int(os.environ.get("BENCH_SLOTS", "200")),
    lookahead=int(os.environ.get("BENCH_LOOKAHEAD", "0")),
    type=os.environ.get("BENCH_QUEUE", "auto"),  # type: ignore[arg-type]
)
meter = Meter()


@bench.task
async def noop(sent: int, data: str) -> None:
    """Do nothing but be counted."""
    del data
    meter.tick(sent)


@bench.task
def blocking(sent: int, data: str) -> None:
    """Do the same in a thread."""
    del data
    meter.tick(sent)


for number in range(1, int(os.environ.get("BENCH_QUEUES", "1"))):
    # Further ones, which nobody sends to: what they cost at rest. A queue is found by its variable.
    globals()[f"bench_{number}"] = queue = Queue(f"bench-{number}", concurrency=bench.concurrency)
    queue.add(blocking.function, name="blocking")


class Sync:
    """Sends with `Producer`."""

    def __init__(self) -> None:
        self.producer = Producer()

    def ready(self) -> None:
        self.producer.send_many([])

    def one(self, load: Sequence[Sent]) -> None:
        for sent, data in load:
            self.producer.send(noop.job(sent=sent, data=data))

    def many(self, load: Sequence[Sent]) -> None:
        self.producer.send_many(noop.job(sent=sent, data=data) for sent, data in load)

    def many_blocking(self, load: Sequence[Sent]) -> None:
        self.producer.send_many(blocking.job(sent=sent, data=data) for sent, data in load)

    def delayed(self, load: Sequence[Sent]) -> None:
        """Send jobs that are due in BENCH_DELAY_S seconds, and say so."""
        delay_s = float(os.environ["BENCH_DELAY_S"])
        due_ns = time.time_ns() + round(delay_s * 1e9)
        at = datetime.fromtimestamp(due_ns / 1e9, UTC)
        self.producer.send_many(noop.job(sent=due_ns, data=data).options(at=at) for _, data in load)

    def threads(self, load: Sequence[Sent]) -> None:
        in_threads(self.one, load)


class Async:
    """Sends with `AsyncProducer`."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.producer = AsyncProducer()

    def ready(self) -> None:
        self._run(self.producer.send_many([]))

    def many(self, load: Sequence[Sent]) -> None:
        self._run(self.producer.send_many(noop.job(sent=sent, data=data) for sent, data in load))

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        self._runner.run(work)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sync, concurrent = Sync(), Async(runner)

        def ready() -> None:
            sync.ready()
            concurrent.ready()

        main(
            {
                "one": sync.one,
                "many": sync.many,
                "async": concurrent.many,
                "threads": sync.threads,
                "sync-many": sync.many_blocking,
                "delayed": sync.delayed,
            },
            pace=os.environ.get("BENCH_PACE", "many"),
            ready=ready,
        )
        sync.producer.close()
        runner.run(concurrent.producer.close())
