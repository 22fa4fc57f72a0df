"""A queue whose jobs keep a processor busy in child processes, and whose worker's loop is watched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from support.loop_watch import LoopWatch, waited_s
from taskyard.shared import Context, Queue, RetryPolicy


class Watching:
    """What the lifespan yields: the watch that runs now."""

    def __init__(self) -> None:
        self.watch = LoopWatch()


@asynccontextmanager
async def watching() -> AsyncGenerator[Watching]:
    yield Watching()


default = Queue("default", lifespan=watching, retry=RetryPolicy(attempts=1), concurrency=9)


@default.task
async def watch(ctx: Context[Watching], path: str) -> None:
    """Note the worst that the worker's loop did since the last time, and begin anew."""
    worst_s = ctx.resources.watch.stop()
    Path(path).write_text(str(worst_s))
    ctx.resources.watch = LoopWatch()


@default.task(mode="process", ttr=2)
def overrun(path: str) -> None:
    """Note the process and when it began, and never end."""
    Path(path).write_text(json.dumps([os.getpid(), time.time()]))
    while True:
        pass


@default.task(mode="process", ttr=600)
def hold(path: str) -> None:
    """Do the same, with an hour to spare."""
    overrun.__wrapped__(path)


@default.task(mode="process")
def compute(path: str, seconds: float) -> None:
    """Compute, and note from when to when, and how much of that was spent on a processor or in line."""
    begun, used, waited = time.time(), time.thread_time(), waited_s()
    while time.time() < begun + seconds:
        pass
    busy = time.thread_time() - used + waited_s() - waited
    with Path(path).open("a") as file:
        file.write(json.dumps([os.getpid(), begun, time.time(), busy]) + "\n")
