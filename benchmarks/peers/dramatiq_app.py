"""Dramatiq.

https://dramatiq.io/advanced.html and its source: confirms on, the default middleware without
Prometheus, one process, threads; the prefetch of a queue by its environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.meter import Meter
from benchmarks.publishing import Job, in_threads, main

broker = RabbitmqBroker(url=os.environ["BENCH_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)
meter = Meter()


@dramatiq.actor(queue_name="bench")
def noop(sent: int, data: str) -> None:
    del data
    meter.tick(sent)


def many(jobs: Sequence[Job]) -> None:
    for sent, data in jobs:
        noop.send(sent, data)


def some(jobs: Sequence[Job]) -> None:
    for job in jobs:
        noop.send(*job)


def threads(jobs: Sequence[Job]) -> None:
    in_threads(some, jobs)


def ready() -> None:
    broker.declare_queue("bench", ensure=True)


if __name__ == "__main__":
    main({"one": many, "many": many, "threads": threads}, ready=ready)
