"""Delayed jobs: how many fire, and how late."""

from __future__ import annotations

from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import OURS
from benchmarks.figures import Goal, percentile
from benchmarks.parts.part import P50, P99, PLAIN, RATE, Figures, Part, Row, number_of


def burst(arena: Arena, scale: float) -> Figures:
    """Many jobs due at the same instant: how fast they come."""
    number = number_of(40_000, scale)
    delay_s = max(4.0, number / 8_000 + 2)
    with (
        arena.place(OURS, BENCH_DELAY_S=str(delay_s)) as place,
        place.worker(PLAIN, samples=number) as worker,
    ):
        place.publish("delayed", number)
        effort = worker.wait(number)
    return {RATE: number / max(effort.latencies_s)}


def paced_delays(arena: Arena, scale: float) -> Figures:
    """Jobs that become due at 1 000 a second, for 20 s: how late each is."""
    number = number_of(20_000, scale)
    with (
        arena.place(OURS, BENCH_DELAY_S="5", BENCH_PACE="delayed") as place,
        place.worker(PLAIN, samples=number) as worker,
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
