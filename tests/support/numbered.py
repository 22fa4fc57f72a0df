"""Numbered jobs for attacks: the task that notes each run's start and end, and the program that sends.

    taskyard worker support.numbered
    python -m support.numbered FIRST LAST PER_SECOND

Notes go to the folder `TASKYARD_TEST_NOTES`, one file a process, one write a line: what a process
has noted outlives its SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskyard.producer import AsyncProducer
from taskyard.shared import Context, Job, PartialSendError, Queue, RetryPolicy

FOLDER = "TASKYARD_TEST_NOTES"
#: Jobs that are sent together, as a service would that answers a few requests at a time.
BATCH = 20

default = Queue("default", concurrency=40, retry=RetryPolicy(attempts=3, first=0.1), ttr=30)


class _Notes:
    """The file of this process, opened with the first note."""

    def __init__(self) -> None:
        self._file = -1

    def write(self, *words: object) -> None:
        if self._file < 0:
            folder = Path(os.environ[FOLDER])
            kind = "sent" if __name__ == "__main__" else "runs"
            path = folder / f"{kind}-{os.getpid()}-{time.time_ns()}"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


_notes = _Notes()


@contextmanager
def _noted(ctx: Context, number: int) -> Iterator[None]:
    run = (number, ctx.job_id, ctx.attempt, ctx.deliveries, os.getpid())
    _notes.write("start", time.time(), *run)
    yield
    _notes.write("end", time.time(), *run)


@default.task
async def record(ctx: Context, number: int, seconds: float = 0.0) -> None:
    """Note the start, wait, note the end."""
    with _noted(ctx, number):
        await asyncio.sleep(seconds)


async def send(first: int, last: int, per_second: float) -> None:
    """Send the numbers from `first` to before `last`, at a pace; note what is tried and confirmed.

    A job that could not be confirmed is sent again, the same one, until it is.
    """
    began = time.monotonic()
    async with AsyncProducer() as producer:
        for start in range(first, last, BATCH):
            numbers = range(start, min(start + BATCH, last))
            due = began + (start - first) / per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            _notes.write("trying", time.time(), numbers.start, numbers.stop)
            await _confirm(producer, {_job(number): number for number in numbers})
            _notes.write("confirmed", time.time(), numbers.start, numbers.stop)


def _job(number: int) -> Job[None]:
    args = {"number": number, "seconds": number % 10 / 50}
    return Job(queue="default", task="record", args=args)


async def _confirm(producer: AsyncProducer, jobs: dict[Job[None], int]) -> None:
    while True:
        try:
            await producer.send_many(jobs)
        except PartialSendError as error:
            jobs = {job: number for job, number in jobs.items() if job.id in error.failed}
        else:
            return
        _notes.write("again", time.time(), *jobs.values())
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
