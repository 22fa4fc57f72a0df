"""What is measured: each part is rows of contestants, and goals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from benchmarks.arena import Arena
from benchmarks.contestants import (
    BARE,
    CELERY,
    DRAMATIQ,
    FASTSTREAM,
    HUEY,
    OURS,
    PEERS_ON_RABBITMQ,
    TASKIQ,
    UNRECORDED,
    Contestant,
    Demand,
)
from benchmarks.figures import Goal, percentile

#: What a measurement gives: figures by name.
Figures: TypeAlias = Mapping[str, float]
#: One measurement; `scale` multiplies its number of jobs.
Measure: TypeAlias = Callable[[Arena, float], Figures]

RATE: Final = "jobs/s"
CPU: Final = "CPU s per 100 000"
PSS: Final = "MiB"
MORE: Final = "MiB more"
P50, P99 = "p50 ms", "p99 ms"
#: Figures of which less is better.
LESS_IS_BETTER: Final = frozenset({CPU, PSS, P50, P99, "s", MORE})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a part's table."""

    label: str
    contestant: Contestant
    measure: Measure


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is measured."""

    name: str
    title: str
    rows: tuple[Row, ...]
    goals: tuple[Goal, ...] = ()


def _number(base: int, scale: float) -> int:
    return max(200, round(base * scale))


# ---------------------------------------------------------------- publishing


def publish(contestant: Contestant, mode: str, number: int, arena: Arena, scale: float) -> Figures:
    """Send jobs; the last confirm is included."""
    with arena.place(contestant) as place:
        return {RATE: place.publish(mode, _number(number, scale))}


def _publishing(contestant: Contestant, mode: str, number: int, label: str = "") -> Row:
    measure = partial(publish, contestant, mode, number)
    return Row(label or contestant.name, contestant, measure)


_PEERS = tuple(peer.name for peer in PEERS_ON_RABBITMQ)

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
        for against, factor in (((BARE.name,), 0.6), (_PEERS, 4.0))
    ),
)

# ---------------------------------------------------------------- consuming

_PLAIN = Demand()
_THREADS = Demand(threads=True)
_TWO = Demand(processes=2)


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
    amount = _number(number, scale)
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
    demand: Demand = _PLAIN,
) -> Row:
    measure = partial(consume, contestant, mode, number, size, demand)
    return Row(contestant.name, contestant, measure)


def _all(size: int) -> tuple[Row, ...]:
    return (
        _consuming(OURS, 60_000, size=size),
        _consuming(UNRECORDED, 60_000, size=size),
        _consuming(BARE, 60_000, size=size),
        _consuming(CELERY, 12_000, size=size),
        _consuming(DRAMATIQ, 12_000, size=size),
        _consuming(TASKIQ, 12_000, size=size),
        _consuming(FASTSTREAM, 12_000, size=size),
    )


CONSUME: Final = Part(
    "consume",
    "run async no-op jobs (Celery, Dramatiq: in threads)",
    _all(0),
    (
        Goal(row=OURS.name, figure=RATE, against=_PEERS, factor=3.5),
        Goal(row=OURS.name, figure=RATE, against=(BARE.name,), factor=0.55),
        Goal(row=UNRECORDED.name, figure=RATE, against=_PEERS, factor=4.0),
        Goal(row=UNRECORDED.name, figure=RATE, against=(BARE.name,), factor=0.65),
    ),
)
CONSUME_THREADS: Final = Part(
    "consume-threads",
    "run no-op functions in 16 threads",
    (
        _consuming(OURS, 40_000, mode="sync-many", demand=_THREADS),
        _consuming(CELERY, 12_000, demand=_THREADS),
        _consuming(DRAMATIQ, 12_000, demand=_THREADS),
        _consuming(TASKIQ, 12_000, mode="sync-many", demand=_THREADS),
        _consuming(FASTSTREAM, 12_000, mode="sync-many", demand=_THREADS),
    ),
    (Goal(row=OURS.name, figure=RATE, against=_PEERS, factor=2.0),),
)
CONSUME_1K: Final = Part("consume-1k", "the same, with 1 KiB of arguments", _all(1024))
CONSUME_16K: Final = Part(
    "consume-16k",
    "the same, with 16 KiB of arguments",
    tuple(_consuming(each.contestant, 8_000, size=16_384) for each in _all(0)),
)
CONSUME_TWO: Final = Part(
    "consume-two",
    "run async no-op jobs in two processes",
    (
        _consuming(OURS, 80_000, demand=_TWO),
        _consuming(DRAMATIQ, 15_000, demand=_TWO),
        _consuming(TASKIQ, 15_000, demand=_TWO),
        _consuming(FASTSTREAM, 15_000, demand=_TWO),
    ),
)

# ---------------------------------------------------------------- latency, start, memory


def latency(contestant: Contestant, per_second: float, arena: Arena, scale: float) -> Figures:
    """Send jobs at a pace to a worker that has nothing else to do; from the send to the handler."""
    warm, number = 50, _number(max(500, round(per_second * 8)), scale)
    with (
        arena.place(contestant) as place,
        place.worker(_PLAIN, samples=warm + number) as worker,
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
        Goal(row=OURS.name, figure=P50, against=_PEERS, factor=0.9),
        Goal(row=OURS.name, figure=P99, against=_PEERS, factor=1.1),
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
    (Goal(row=OURS.name, figure=P99, against=_PEERS, factor=0.5),),
)


def startup(contestant: Contestant, arena: Arena, _: float) -> Figures:
    """Start a worker where a job waits; from the start to the job."""
    with arena.place(contestant) as place:
        place.publish("many", 1)
        began_s = time.monotonic()
        with place.worker(_PLAIN) as worker:
            worker.wait(1)
            return {"s": worker.first_job_s() - began_s}


STARTUP: Final = Part(
    "startup",
    "from the start of a worker to its first job",
    tuple(Row(each.name, each, partial(startup, each)) for each in (OURS, *PEERS_ON_RABBITMQ)),
)

_SIXTEEN = Demand(slots=16)
#: How long a worker has to come to rest.
_REST_S = 3.0


def memory(contestant: Contestant, arena: Arena, _: float) -> Figures:
    """Let a worker of 16 slots run a few jobs, and look at it at rest."""
    with arena.place(contestant) as place, place.worker(_SIXTEEN) as worker:
        place.publish("many", 200)
        worker.wait(200)
        time.sleep(_REST_S)
        return {PSS: worker.pss_mib}


def memory_delayed(arena: Arena, scale: float) -> Figures:
    """See what a worker holds more while a million jobs are due tomorrow."""
    with arena.place(OURS, BENCH_DELAY_S="86400") as place, place.worker(_SIXTEEN) as worker:
        place.publish("many", 200)
        worker.wait(200)
        time.sleep(_REST_S)
        before = worker.pss_mib
        place.publish("delayed", _number(1_000_000, scale))
        time.sleep(_REST_S)
        return {MORE: worker.pss_mib - before}


MEMORY: Final = Part(
    "memory",
    "a worker at rest, 16 slots",
    tuple(Row(each.name, each, partial(memory, each)) for each in (OURS, *PEERS_ON_RABBITMQ)),
    (Goal(row=OURS.name, figure=PSS, against=_PEERS, factor=1.0),),
)
MEMORY_DELAYED: Final = Part(
    "memory-delayed",
    "a worker while 1 000 000 jobs are due tomorrow",
    (Row(OURS.name, OURS, memory_delayed),),
    (Goal(row=OURS.name, figure=MORE, factor=5.0),),
)

# ---------------------------------------------------------------- delays


def burst(arena: Arena, scale: float) -> Figures:
    """Many jobs due at the same instant: how fast they come."""
    number = _number(40_000, scale)
    delay_s = max(4.0, number / 8_000 + 2)
    with (
        arena.place(OURS, BENCH_DELAY_S=str(delay_s)) as place,
        place.worker(_PLAIN, samples=number) as worker,
    ):
        place.publish("delayed", number)
        effort = worker.wait(number)
    return {RATE: number / max(effort.latencies_s)}


def paced_delays(arena: Arena, scale: float) -> Figures:
    """Jobs that become due at 1 000 a second, for 20 s: how late each is."""
    number = _number(20_000, scale)
    with (
        arena.place(OURS, BENCH_DELAY_S="5", BENCH_PACE="delayed") as place,
        place.worker(_PLAIN, samples=number) as worker,
    ):
        place.pace(number, 1_000.0)
        late_ms = [1000 * late_s for late_s in worker.wait(number).latencies_s]
    return {P50: percentile(late_ms, 0.5), P99: percentile(late_ms, 0.99)}


DELAYS: Final = Part(
    "delays",
    "delayed jobs: 40 000 due at one instant, from that instant on; and 1 000 due each second",
    (
        Row("taskyard, at one instant", OURS, burst),
        Row("taskyard, 1 000 a second", OURS, paced_delays),
    ),
    (
        Goal(row="taskyard, at one instant", figure=RATE, factor=3_000.0),
        Goal(row="taskyard, 1 000 a second", figure=P99, factor=500.0),
    ),
)

# ---------------------------------------------------------------- embedded


def embedded_publish(
    contestant: Contestant, mode: str, number: int, arena: Arena, scale: float
) -> Figures:
    """Send jobs into a file."""
    with arena.embedded(contestant) as place:
        return {RATE: place.publish(mode, _number(number, scale))}


def embedded_consume(contestant: Contestant, number: int, arena: Arena, scale: float) -> Figures:
    """Let a worker empty a file."""
    amount = _number(number, scale)
    with arena.embedded(contestant) as place:
        place.publish("many", amount)
        with place.worker(_PLAIN) as worker:
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

PARTS: Final = (
    PUBLISH_ONE,
    PUBLISH_THREADS,
    PUBLISH_MANY,
    CONSUME,
    CONSUME_THREADS,
    CONSUME_1K,
    CONSUME_16K,
    CONSUME_TWO,
    LATENCY_IDLE,
    LATENCY_HALF,
    STARTUP,
    MEMORY,
    MEMORY_DELAYED,
    DELAYS,
    EMBEDDED_PUBLISH,
    EMBEDDED_CONSUME,
)
