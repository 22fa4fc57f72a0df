"""A queue whose jobs do nothing, in all the ways in which a job can end; made to be run by millions.

Run as a program it is the other side: `python -m support.soak_tasks URL KIND BACKLOG` sends jobs of
one `KIND` for ever, one by one and many at once, and never lets more than about `BACKLOG` wait.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

from support.eventually import eventually
from support.process import Program
from taskyard.producer import Producer
from taskyard.shared import Context, Fail, Hold, Job, Queue, Retry, RetryPolicy
from taskyard.shared.brokers import connect

QUEUE: Final = "soak"
#: Jobs between two looks at how many wait, and how many of these are sent one by one.
_PORTION: Final = 2500
_SINGLE: Final = 25
#: Seconds that a broker on a busy machine gets for a confirm: it is memory that is watched here.
PATIENCE_S: Final = 300.0

soak = Queue(
    QUEUE, concurrency=100, retry=RetryPolicy(attempts=2, first=0.1, factor=1, jitter="none")
)


@soak.task
async def noop(n: int) -> None:
    """Do nothing."""


@soak.task
def threaded(n: int) -> None:
    """Do nothing, in a thread."""


@soak.task
async def again(ctx: Context, n: int) -> None:
    """Ask for one retry."""
    if ctx.attempt == 1:
        raise Retry("once more", delay=0.1)


@soak.task
async def breaks(ctx: Context, n: int) -> None:
    """Raise at the first attempt, from a depth, an error that its own traceback leads back to."""
    if ctx.attempt > 1:
        return
    try:
        _fall(n % 20, ctx)
    except ValueError as error:
        kept = RuntimeError(f"number {n} is broken")
        kept.__context__ = error
        raise kept from error  # `kept` is a local of the frame that its traceback holds: a cycle


@soak.task
def breaks_in_thread(ctx: Context, n: int) -> None:
    """Raise at the first attempt, in a thread."""
    if ctx.attempt == 1:
        _fall(n % 20, ctx)


@soak.task
async def holds(n: int) -> None:
    """Have the job parked."""
    raise Hold(f"number {n}")


@soak.task
async def fails(n: int) -> None:
    """Fail for good."""
    raise Fail(f"number {n}")


#: Which task runs at each place of a hundred.
MIXES: Final[dict[str, list[str]]] = {
    "noop": ["noop"] * 100,
    "threaded": ["threaded"] * 100,
    "mixed": [
        *["noop"] * 58,
        *["threaded"] * 20,
        *["again"] * 10,
        *["breaks"] * 5,
        *["breaks_in_thread"] * 5,
        "holds",
        "fails",
    ],
}


def _fall(depth: int, ctx: Context) -> None:
    if depth:
        _fall(depth - 1, ctx)
    raise ValueError(f"job {ctx.job_id} fell")


def start(log: Path, *arguments: str) -> Program:
    """Start this module as a program."""
    argv = [sys.executable, "-m", "support.soak_tasks", *arguments]
    return Program(argv, log=log, env={"PYTHONPATH": str(Path(__file__).parents[1])})


# ---------------------------------------------------------------- as a program


def _jobs(kind: str) -> Iterator[Job[Any]]:
    mix = MIXES[kind]
    # A step without a common factor, so that the kinds of a mix come interleaved.
    return (Job(queue=QUEUE, task=mix[n * 37 % 100], args={"n": n}) for n in count())


async def _feed(url: str, kind: str, backlog: str) -> None:
    jobs = _jobs(kind)
    broker = connect(url)
    await broker.open()

    async def room() -> bool:
        return (await broker.stats([QUEUE]))[QUEUE].ready < int(backlog)

    def send(producer: Producer) -> None:
        for job in islice(jobs, _SINGLE):
            producer.send(job, deadline=PATIENCE_S)
        producer.send_many(islice(jobs, _PORTION - _SINGLE), deadline=PATIENCE_S)

    with Producer(url) as producer:
        while True:
            await eventually(room, within=PATIENCE_S, every=0.05)
            await asyncio.to_thread(send, producer)


if __name__ == "__main__":
    asyncio.run(_feed(*sys.argv[1:]))
