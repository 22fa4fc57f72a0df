"""How fast a worker empties a queue, and what that costs it."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import (
    BARE,
    CELERY,
    DRAMATIQ,
    FASTSTREAM,
    OURS,
    TASKIQ,
    UNRECORDED,
    Contestant,
    Demand,
)
from benchmarks.figures import Goal
from benchmarks.parts.part import CPU, PEER_NAMES, PLAIN, PSS, RATE, Figures, Part, Row, number_of

#: Of us and the bare client in the most jobs at once: the peers are not faster with more than 200,
#: whose own code is what bounds them.
_MANY = 1000


def consume(
    contestant: Contestant,
    mode: str,
    number: int,
    size: int,
    demand: Demand,
    arena: Arena,
    scale: float,
) -> Figures:
    """Let a worker empty a queue that was filled before."""
    amount = number_of(number, scale)
    with arena.place(contestant) as place:
        place.publish(mode, amount, size)
        with place.worker(demand) as worker:
            effort = worker.wait(amount)
    return {RATE: effort.rate, CPU: effort.cpu_s, PSS: effort.pss_mib}


def _consuming(
    contestant: Contestant,
    number: int,
    *,
    mode: str = "many",
    size: int = 0,
    threads: bool = False,
    processes: int = 1,
) -> Row:
    prefetch = PLAIN.prefetch if contestant.peer else _MANY
    demand = Demand(prefetch=prefetch, threads=threads, processes=processes)
    measure = partial(consume, contestant, mode, number, size, demand)
    return Row(contestant.name, contestant, measure)


def _all(size: int) -> tuple[Row, ...]:
    return (
        _consuming(OURS, 80_000, size=size),
        _consuming(UNRECORDED, 80_000, size=size),
        _consuming(BARE, 80_000, size=size),
        _consuming(CELERY, 20_000, size=size),
        _consuming(DRAMATIQ, 20_000, size=size),
        _consuming(TASKIQ, 20_000, size=size),
        _consuming(FASTSTREAM, 20_000, size=size),
    )


CONSUME: Final = Part(
    "consume",
    "run async no-op jobs (Celery, Dramatiq: in threads)",
    _all(0),
    (
        Goal(row=OURS.name, figure=RATE, against=PEER_NAMES, factor=3.5),
        Goal(row=OURS.name, figure=RATE, against=(BARE.name,), factor=0.55),
        Goal(row=UNRECORDED.name, figure=RATE, against=PEER_NAMES, factor=4.0),
        Goal(row=UNRECORDED.name, figure=RATE, against=(BARE.name,), factor=0.65),
    ),
)
CONSUME_THREADS: Final = Part(
    "consume-threads",
    "run no-op functions in 16 threads",
    (
        _consuming(OURS, 40_000, mode="sync-many", threads=True),
        _consuming(CELERY, 12_000, threads=True),
        _consuming(DRAMATIQ, 12_000, threads=True),
        _consuming(TASKIQ, 12_000, mode="sync-many", threads=True),
        _consuming(FASTSTREAM, 12_000, mode="sync-many", threads=True),
    ),
    (Goal(row=OURS.name, figure=RATE, against=PEER_NAMES, factor=2.0),),
)
CONSUME_1K: Final = Part("consume-1k", "the same, with 1 KiB of arguments", _all(1024))
CONSUME_16K: Final = Part(
    "consume-16k",
    "the same, with 16 KiB of arguments",
    tuple(_consuming(each.contestant, 12_000, size=16_384) for each in _all(0)),
)
CONSUME_TWO: Final = Part(
    "consume-two",
    "run async no-op jobs in two processes",
    (
        _consuming(OURS, 80_000, processes=2),
        _consuming(DRAMATIQ, 15_000, processes=2),
        _consuming(TASKIQ, 15_000, processes=2),
        _consuming(FASTSTREAM, 15_000, processes=2),
    ),
)
