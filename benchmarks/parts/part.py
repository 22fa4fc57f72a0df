"""What is measured, as values: a part is rows of contestants, and goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from benchmarks.arena import Arena
from benchmarks.contestants import PEERS_ON_RABBITMQ, Contestant, Demand
from benchmarks.figures import Goal

PLAIN: Final = Demand()
PEER_NAMES: Final = tuple(peer.name for peer in PEERS_ON_RABBITMQ)

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


def number_of(base: int, scale: float) -> int:
    """Return a number of jobs at a scale: enough to measure."""
    return max(200, round(base * scale))
