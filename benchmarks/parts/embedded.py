"""The embedded broker beside Huey, both on SQLite."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import HUEY, OURS, Contestant
from benchmarks.figures import Goal
from benchmarks.parts.part import CPU, PLAIN, PSS, RATE, Figures, Part, Row, number_of


def embedded_publish(
    contestant: Contestant, mode: str, number: int, arena: Arena, scale: float
) -> Figures:
    """Send jobs into a file."""
    with arena.embedded(contestant) as place:
        return {RATE: place.publish(mode, number_of(number, scale))}


def embedded_consume(contestant: Contestant, number: int, arena: Arena, scale: float) -> Figures:
    """Let a worker empty a file."""
    amount = number_of(number, scale)
    with arena.embedded(contestant) as place:
        place.publish("many", amount)
        with place.worker(PLAIN) as worker:
            effort = worker.wait(amount)
    return {RATE: effort.rate, CPU: effort.cpu_s, PSS: effort.pss_mib}


EMBEDDED_PUBLISH: Final = Part(
    "embedded-publish",
    "send into SQLite (Huey has no way to send many)",
    (
        Row("taskyard, many", OURS, partial(embedded_publish, OURS, "many", 20_000)),
        Row("taskyard, one at a time", OURS, partial(embedded_publish, OURS, "one", 3_000)),
        Row(HUEY.name, HUEY, partial(embedded_publish, HUEY, "one", 3_000)),
    ),
    (Goal(row="taskyard, many", figure=RATE, against=(HUEY.name,), factor=3.0),),
)
EMBEDDED_CONSUME: Final = Part(
    "embedded-consume",
    "run no-op jobs out of SQLite",
    (
        Row(OURS.name, OURS, partial(embedded_consume, OURS, 20_000)),
        Row(HUEY.name, HUEY, partial(embedded_consume, HUEY, 5_000)),
    ),
    (Goal(row=OURS.name, figure=RATE, against=(HUEY.name,), factor=3.0),),
)
