"""How fast jobs are sent, the last confirm included."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import BARE, CELERY, DRAMATIQ, FASTSTREAM, OURS, TASKIQ, Contestant
from benchmarks.figures import Goal
from benchmarks.parts.part import PEER_NAMES, RATE, Figures, Part, Row, number_of


def publish(contestant: Contestant, mode: str, number: int, arena: Arena, scale: float) -> Figures:
    """Send jobs; the last confirm is included."""
    with arena.place(contestant) as place:
        return {RATE: place.publish(mode, number_of(number, scale))}


def _publishing(contestant: Contestant, mode: str, number: int, label: str = "") -> Row:
    measure = partial(publish, contestant, mode, number)
    return Row(label or contestant.name, contestant, measure)


PUBLISH_ONE: Final = Part(
    "publish-one",
    "send, one at a time",
    tuple(
        _publishing(each, "one", 3_000)
        for each in (OURS, BARE, CELERY, DRAMATIQ, TASKIQ, FASTSTREAM)
    ),
    (Goal(row=OURS.name, figure=RATE, against=(BARE.name,), factor=0.8),),
)
PUBLISH_THREADS: Final = Part(
    "publish-threads",
    "send from 16 threads that share a producer (bare pika: one thread)",
    (
        _publishing(OURS, "threads", 30_000),
        _publishing(BARE, "one", 3_000),
        _publishing(CELERY, "threads", 5_000),
        _publishing(DRAMATIQ, "threads", 5_000),
    ),
    (Goal(row=OURS.name, figure=RATE, against=(BARE.name,), factor=5.0),),
)
PUBLISH_MANY: Final = Part(
    "publish-many",
    "send many",
    (
        _publishing(OURS, "many", 50_000, "taskyard, sync"),
        _publishing(OURS, "async", 50_000, "taskyard, async"),
        _publishing(BARE, "many", 50_000),
        _publishing(CELERY, "many", 5_000),
        _publishing(DRAMATIQ, "many", 5_000),
        _publishing(TASKIQ, "async", 10_000),
        _publishing(FASTSTREAM, "async", 10_000),
    ),
    tuple(
        Goal(row=f"taskyard, {sdk}", figure=RATE, against=against, factor=factor)
        for sdk in ("sync", "async")
        for against, factor in (((BARE.name,), 0.6), (PEER_NAMES, 4.0))
    ),
)
