"""How long a job waits for a worker that has time, and for one that starts."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import BARE, CELERY, OURS, PEERS_ON_RABBITMQ, Contestant
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


def _latency(per_second: float) -> tuple[Row, ...]:
    return tuple(
        Row(each.name, each, partial(latency, each, per_second))
        for each in (OURS, BARE, *PEERS_ON_RABBITMQ)
    )


LATENCY_IDLE: Final = Part(
    "latency-idle",
    "from send to handler, 50 jobs a second",
    tuple(row for row in _latency(50.0) if row.contestant is not BARE),
    (
        Goal(row=OURS.name, figure=P50, against=PEER_NAMES, factor=0.9),
        Goal(row=OURS.name, figure=P99, against=PEER_NAMES, factor=1.1),
    ),
)
#: About half of what the peers can do, so that each has the same work.
HALF_LOAD: Final = 1_500.0
LATENCY_HALF: Final = Part(
    "latency-half",
    f"from send to handler, {HALF_LOAD:,.0f} jobs a second: half of what the peers can do",
    tuple(
        row
        for row in _latency(HALF_LOAD)
        if row.label not in {BARE.name, CELERY.name}  # Celery cannot send so many
    ),
    (Goal(row=OURS.name, figure=P99, against=PEER_NAMES, factor=0.5),),
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
