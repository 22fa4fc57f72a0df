"""Celery.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html: results ignored, a prefetch of many
for short tasks, threads for what does not compute; mingle, gossip, heartbeats and remote control off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from celery import Celery

from benchmarks.meter import Meter
from benchmarks.publishing import Job, in_threads, main

app = Celery(broker=os.environ["BENCH_URL"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_default_delivery_mode="persistent",
    worker_prefetch_multiplier=max(1, int(os.environ.get("BENCH_PREFETCH", "200")) // 16),
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=16,
    broker_connection_retry_on_startup=True,
)
meter = Meter()


@app.task(name="noop")
def noop(sent: int, data: str) -> None:
    del data
    meter.tick(sent)


def many(jobs: Sequence[Job]) -> None:
    with app.producer_pool.acquire() as producer:
        for sent, data in jobs:
            noop.apply_async((sent, data), producer=producer)


def some(jobs: Sequence[Job]) -> None:
    for job in jobs:
        noop.delay(*job)


def threads(jobs: Sequence[Job]) -> None:
    in_threads(some, jobs)


def ready() -> None:
    with app.producer_pool.acquire() as producer:
        producer.connection.ensure_connection()


if __name__ == "__main__":
    main({"one": many, "many": many, "threads": threads}, ready=ready)
