"""Figures of several rounds, and what they say: medians, ratios within a round, goals. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """What is to hold of a figure: `row` against another row, or the best of several.

    Attributes:
        row: ours.
        figure: of the row.
        against: the rows to compare with; the best of them counts.
        factor: what the ratio is to be, at least, or at most where less is better.
        against_figure: where theirs has another name.

    """

    row: str
    figure: str
    against: tuple[str, ...]
    factor: float
    against_figure: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal is met, and by whom it was measured."""

    ratio: Spread
    rival: str
    met: bool


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours by theirs, round by round: what the machine did meanwhile befell both."""
    return Spread.of(one / other for one, other in zip(mine, theirs, strict=True) if other)


def judge(goal: Goal, rows: Rows, *, less_is_better: bool) -> Verdict | None:
    """Say whether a goal is met; None where a row of it was not measured."""
    figure = goal.against_figure or goal.figure
    rivals = {name: rows[name][figure] for name in goal.against if rows.get(name, {}).get(figure)}
    mine = rows.get(goal.row, {}).get(goal.figure)
    if not mine or not rivals:
        return None
    best = (min if less_is_better else max)(rivals, key=lambda name: median(rivals[name]))
    ratio = ratios(mine, rivals[best])
    met = ratio.median <= goal.factor if less_is_better else ratio.median >= goal.factor
    return Verdict(ratio, best, met)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed (nearest rank)."""
    some = sorted(values)
    return some[min(len(some) - 1, max(0, -(-len(some) * share // 1).__int__() - 1))]
