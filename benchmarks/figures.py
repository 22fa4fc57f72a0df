"""Figures of several rounds, and what they say: medians, ratios within a round, goals. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TypeAlias

#: Of one part: row, figure, and its value in each round.
Rows: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of some values (ValueError when there is none)."""
        some = sorted(values)
        if not some:
            raise ValueError("no value")
        return cls(median(some), some[0], some[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to hold of a figure: against the best of other rows, or by itself.

    Attributes:
        row: ours.
        figure: of the row.
        factor: what the ratio is to be, or the figure itself: at least, or at most where less is
            better.
        against: the rows to compare with; the best of them counts. None: the figure itself.

    """

    row: str
    figure: str
    factor: float
    against: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal is met, and against whom; `ratio` is the figure itself where there is no rival."""

    ratio: Spread
    rival: str
    met: bool


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours by theirs, round by round: what the machine did meanwhile befell both."""
    return Spread.of(one / other for one, other in zip(mine, theirs, strict=True) if other)


def judge(goal: Goal, rows: Rows, *, less_is_better: bool) -> Verdict | None:
    """Say whether a goal is met; None where a row of it was not measured."""
    rivals = {
        name: rows[name][goal.figure]
        for name in goal.against
        if rows.get(name, {}).get(goal.figure)
    }
    mine = rows.get(goal.row, {}).get(goal.figure)
    if not mine or (goal.against and not rivals):
        return None
    best, ratio = "", Spread.of(mine)
    if rivals:
        best = (min if less_is_better else max)(rivals, key=lambda name: median(rivals[name]))
        ratio = ratios(mine, rivals[best])
    met = ratio.median <= goal.factor if less_is_better else ratio.median >= goal.factor
    return Verdict(ratio, best, met)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed (nearest rank)."""
    some = sorted(values)
    return some[max(0, ceil(len(some) * share) - 1)]
