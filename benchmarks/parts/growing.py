"""How what is at rest grows: with queues, with workers, with delayed jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from benchmarks.arena import PATIENCE_S, Arena, Place, Stalled, Worker
from benchmarks.contestants import UNRECORDED, Demand
from benchmarks.parts.part import PSS, RATE, Figures, Part, Row, number_of

_TEN = Demand(slots=10, prefetch=10)
#: How long everybody has to come to rest, and how long the processors are watched then.
_REST_S, _WATCH_S = 4.0, 8.0

BROKER_MORE, DISK_MORE = "broker, MiB more", "disk, MiB more"
BROKER_CPU, WORKER_CPU = "broker, % of a core", "a worker, % of a core"
SETUP: Final = "broker apply, s"


def queues(number: int, arena: Arena, _: float) -> Figures:
    """Set queues up, and let one worker consume them all, with nothing in them."""
    before = arena.broker_mib
    began_s = time.monotonic()
    with arena.place(UNRECORDED, BENCH_QUEUES=str(number)) as place:
        setup_s = time.monotonic() - began_s
        with place.worker(_TEN) as worker:
            _come_to_rest(place, [worker])
            return {SETUP: setup_s, **_at_rest(arena, [worker], before)}


def workers(number: int, arena: Arena, _: float) -> Figures:
    """Let several workers consume one queue, with nothing in it."""
    with arena.place(UNRECORDED) as place, ExitStack() as stack:
        before = arena.broker_mib
        crew = [stack.enter_context(place.worker(_TEN)) for _ in range(number)]
        _come_to_rest(place, crew)
        return _at_rest(arena, crew, before)


def delayed(number: int, arena: Arena, scale: float) -> Figures:
    """Send jobs that are due tomorrow; see what the broker holds for them."""
    amount = number_of(number, scale)
    with arena.place(UNRECORDED, BENCH_DELAY_S="86400") as place:
        memory_mib, disk_mib = arena.broker_mib, arena.disk_mib
        rate = place.publish("delayed", amount)
        time.sleep(_REST_S)
        return {
            RATE: rate,
            BROKER_MORE: arena.broker_mib - memory_mib,
            DISK_MORE: arena.disk_mib - disk_mib,
        }


def _come_to_rest(place: Place, crew: list[Worker]) -> None:
    """Have each worker run something, so that it is surely there, and wait."""
    until_s = time.monotonic() + PATIENCE_S
    while not all(worker.count for worker in crew):
        if time.monotonic() > until_s:
            raise Stalled(f"one of {len(crew)} workers ran nothing within {PATIENCE_S:g} s")
        place.publish("many", 10 * len(crew))
    time.sleep(_REST_S)


def _at_rest(arena: Arena, crew: list[Worker], broker_before_mib: float) -> Figures:
    broker_s, crew_s = arena.broker_cpu_s(), sum(worker.cpu_s() for worker in crew)
    time.sleep(_WATCH_S)
    return {
        PSS: sum(worker.pss_mib for worker in crew) / len(crew),
        WORKER_CPU: (sum(worker.cpu_s() for worker in crew) - crew_s) / len(crew) / _WATCH_S * 100,
        BROKER_CPU: (arena.broker_cpu_s() - broker_s) / _WATCH_S * 100,
        BROKER_MORE: arena.broker_mib - broker_before_mib,
    }


def _rows(
    measure: Callable[[int, Arena, float], Figures], what: str, numbers: tuple[int, ...]
) -> tuple[Row, ...]:
    return tuple(
        Row(f"{number:,} {what}", UNRECORDED, partial(measure, number)) for number in numbers
    )


GROWING_QUEUES: Final = Part(
    "growing-queues",
    "queues at rest, consumed by one worker of 10 slots each",
    _rows(queues, "queues", (1, 10, 100)),
)
GROWING_WORKERS: Final = Part(
    "growing-workers",
    "workers at rest on one queue",
    _rows(workers, "workers", (1, 4, 16)),
)
GROWING_DELAYED: Final = Part(
    "growing-delayed",
    "jobs that are due tomorrow",
    _rows(delayed, "jobs", (10_000, 100_000, 1_000_000)),
)
