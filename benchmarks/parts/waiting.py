"""How long a job waits for a worker that has time, and for one that starts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import (
    BARE,
    BARE_CLASSIC,
    CLASSIC,
    DRAMATIQ,
    FASTSTREAM,
    OURS,
    PEERS_ON_RABBITMQ,
    TASKIQ,
    UNRECORDED,
    Contestant,
)
from benchmarks.figures import Goal, percentile
from benchmarks.parts.part import P50, P99, PEER_NAMES, PLAIN, Figures, Part, Row, number_of


def latency(contestant: Contestant, per_second: float, arena: Arena, scale: float) -> Figures:
    """Send jobs at a pace to a worker that has nothing else to do; from the send to the handler."""
    warm, number = 50, number_of(max(500, round(per_second * 8)), scale)
    with (
        arena.place(contestant) as place,
        place.worker(PLAIN, samples=warm + number) as worker,
    ):
        place.publish("many", warm)
        worker.wait(warm)
        place.pace(number, per_second)
        effort = worker.wait(warm + number)
    late_ms = [1000 * late_s for late_s in effort.latencies_s if late_s]
    return {P50: percentile(late_ms, 0.5), P99: percentile(late_ms, 0.99)}


#: The default queue of ours waits for the disk before it hands a job over, as it is replicated; the
#: peers' does not. So we and the bare client are measured on either.
_OURS_AND_BARE: Final = (CLASSIC, UNRECORDED, OURS, BARE_CLASSIC, BARE)


def _latency(per_second: float, contestants: Iterable[Contestant]) -> tuple[Row, ...]:
    return tuple(Row(each.name, each, partial(latency, each, per_second)) for each in contestants)


def _goals(factors: Mapping[str, float]) -> tuple[Goal, ...]:
    return tuple(
        Goal(row=ours.name, figure=figure, against=PEER_NAMES, factor=factor)
        for ours in (CLASSIC, UNRECORDED, OURS)
        for figure, factor in factors.items()
    )


LATENCY_IDLE: Final = Part(
    "latency-idle",
    "from send to handler, 50 jobs a second",
    _latency(50.0, (*_OURS_AND_BARE, *PEERS_ON_RABBITMQ)),
    _goals({P50: 0.9, P99: 1.1}),
)
#: What every peer's worker bears. Celery cannot send so many from one process.
LOW_LOAD: Final = 1_500.0
LATENCY_LOW: Final = Part(
    "latency-low",
    f"from send to handler, {LOW_LOAD:,.0f} jobs a second",
    _latency(LOW_LOAD, (*_OURS_AND_BARE, DRAMATIQ, TASKIQ, FASTSTREAM)),
    _goals({P99: 0.5}),
)
#: Half of what the fastest peer's worker does (8 600 a second where this was measured). Dramatiq
#: cannot send so many from one process either.
HALF_LOAD: Final = 4_000.0
LATENCY_HALF: Final = Part(
    "latency-half",
    f"from send to handler, {HALF_LOAD:,.0f} jobs a second: half of what the fastest peer can do",
    _latency(HALF_LOAD, (*_OURS_AND_BARE, TASKIQ, FASTSTREAM)),
    _goals({P99: 0.5}),
)


def startup(contestant: Contestant, arena: Arena, _: float) -> Figures:
    """Start a worker where a job waits; from the start to the job."""
    with arena.place(contestant) as place:
        place.publish("many", 1)
        began_s = time.monotonic()
        with place.worker(PLAIN) as worker:
            worker.wait(1)
            return {"s": worker.first_job_s() - began_s}


STARTUP: Final = Part(
    "startup",
    "from the start of a worker to its first job",
    tuple(Row(each.name, each, partial(startup, each)) for each in (OURS, *PEERS_ON_RABBITMQ)),
)
