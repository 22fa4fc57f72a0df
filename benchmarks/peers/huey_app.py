"""Huey on SQLite: the embedded peer. WAL, as is its default; it takes a job off before it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from huey import SqliteHuey

from benchmarks.meter import Meter
from benchmarks.publishing import Job, main

huey = SqliteHuey("bench", filename=os.environ["BENCH_FILE"], results=False)
meter = Meter()


def noop(sent: int, data: str) -> None:
    del data
    meter.tick(sent)


# Huey names a task by its module, which is `__main__` where this file sends and not where it works.
noop.__module__ = "benchmarks.peers.huey_app"
send = huey.task()(noop)


def many(jobs: Sequence[Job]) -> None:
    for sent, data in jobs:
        send(sent, data)


if __name__ == "__main__":
    main({"one": many, "many": many}, ready=lambda: None)
