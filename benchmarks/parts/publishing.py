"""How fast jobs are sent, the last confirm included.

Where recording is on, the broker keeps a second copy of each, for the feed. Nobody else's does:
what is like for like is without, and either is held to the goals.
"""

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
)
from benchmarks.figures import Goal
from benchmarks.parts.part import PEER_NAMES, RATE, Figures, Part, Row, number_of


def publish(contestant: Contestant, mode: str, number: int, arena: Arena, scale: float) -> Figures:
    """Send jobs; the last confirm is included."""
    with arena.place(contestant) as place:
        return {RATE: place.publish(mode, number_of(number, scale))}


def publish_window(arena: Arena, scale: float) -> Figures:
    """Send with the bare client as many at once as 16 threads can: what the broker allows."""
    with arena.place(BARE, BENCH_WINDOW="16") as place:
        return {RATE: place.publish("many", number_of(20_000, scale))}


def _publishing(contestant: Contestant, mode: str, number: int, label: str = "") -> Row:
    measure = partial(publish, contestant, mode, number)
    return Row(label or contestant.name, contestant, measure)


def _goals(factor: float) -> tuple[Goal, ...]:
    return tuple(
        Goal(row=ours.name, figure=RATE, against=(BARE.name,), factor=factor)
        for ours in (UNRECORDED, OURS)
    )


PUBLISH_ONE: Final = Part(
    "publish-one",
    "send, one at a time",
    tuple(
        _publishing(each, "one", 3_000)
        for each in (UNRECORDED, OURS, BARE, CELERY, DRAMATIQ, TASKIQ, FASTSTREAM)
    ),
    _goals(0.8),
)
PUBLISH_THREADS: Final = Part(
    "publish-threads",
    "send from 16 threads that share a producer (bare pika: one thread, 1 or 16 outstanding)",
    (
        _publishing(UNRECORDED, "threads", 30_000),
        _publishing(OURS, "threads", 30_000),
        _publishing(BARE, "one", 3_000),
        Row("bare pika, 16 outstanding", BARE, publish_window),
        _publishing(CELERY, "threads", 5_000),
        _publishing(DRAMATIQ, "threads", 5_000),
    ),
    _goals(5.0),
)
PUBLISH_MANY: Final = Part(
    "publish-many",
    "send many",
    (
        _publishing(UNRECORDED, "many", 50_000, "taskyard, sync, recording off"),
        _publishing(UNRECORDED, "async", 50_000, "taskyard, async, recording off"),
        _publishing(OURS, "many", 50_000, "taskyard, sync"),
        _publishing(OURS, "async", 50_000, "taskyard, async"),
        _publishing(BARE, "many", 50_000),
        _publishing(CELERY, "many", 5_000),
        _publishing(DRAMATIQ, "many", 5_000),
        _publishing(TASKIQ, "async", 10_000),
        _publishing(FASTSTREAM, "async", 10_000),
    ),
    tuple(
        Goal(row=f"taskyard, {sdk}{recording}", figure=RATE, against=against, factor=factor)
        for recording in (", recording off", "")
        for sdk in ("sync", "async")
        for against, factor in (((BARE.name,), 0.6), (PEER_NAMES, 4.0))
    ),
)
