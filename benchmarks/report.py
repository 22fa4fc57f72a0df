"""What was measured, as a value that JSON holds, and as text: a table to a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

import msgspec

from benchmarks.figures import Rows, Spread, judge, ratios
from benchmarks.parts import PARTS
from benchmarks.parts.part import LESS_IS_BETTER, RATE, Part


class Report(msgspec.Struct):
    """A run of the benchmark.

    Attributes:
        machine: what it ran on.
        versions: of RabbitMQ, Python, and who was measured.
        settings: of each contestant, in words.
        rounds: how many.
        scale: what numbers of jobs were multiplied with.
        parts: by part, row and figure: the value of each round.
        problems: what could not be measured, and why.

    """

    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    rounds: int
    scale: float
    parts: dict[str, dict[str, dict[str, list[float]]]] = {}
    problems: list[str] = []

    def add(self, part: str, row: str, figures: Mapping[str, float]) -> None:
        """Take the figures of one measurement."""
        rows = self.parts.setdefault(part, {}).setdefault(row, {})
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)


def markdown(report: Report) -> str:
    """Return all tables, with what they were measured on."""
    lines = [
        "Machine: " + "; ".join(f"{key} {text}" for key, text in report.machine.items()) + ".",
        "Versions: " + ", ".join(f"{key} {text}" for key, text in report.versions.items()) + ".",
        f"{report.rounds} interleaved rounds; each figure is the median, with least and most.",
        "",
    ]
    for part in PARTS:
        if rows := report.parts.get(part.name):
            lines += [f"### {part.title}", "", *table(part, rows), ""]
    lines += [f"- not measured: {problem}" for problem in report.problems]
    return "\n".join(lines)


def table(part: Part, rows: Rows) -> Iterator[str]:
    """Yield a part's table, and below it whether its goals are met."""
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    first = next(iter(rows))
    yield "| | " + " | ".join([*names, f"{first} is"]) + " |"
    yield "|---|" + "---|" * (len(names) + 1)
    for label, figures in rows.items():
        cells = [_cell(figures.get(name, ())) for name in names]
        yield f"| {label} | " + " | ".join([*cells, _ratio(rows, first, label)]) + " |"
    for goal in part.goals:
        verdict = judge(goal, rows, less_is_better=goal.figure in LESS_IS_BETTER)
        if verdict is None:
            continue
        sign = " ×" if verdict.rival else ""
        rival = f" {verdict.rival}" if verdict.rival else ""
        least = "at most" if goal.figure in LESS_IS_BETTER else "at least"
        yield ""
        yield (
            f"{'Met' if verdict.met else '**Not met**'}: {goal.row}, {goal.figure}: "
            f"{_short(verdict.ratio.median)}{sign}{rival} ({_short(verdict.ratio.least)} to "
            f"{_short(verdict.ratio.most)}); wanted {least} {goal.factor:g}{sign}."
        )


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = Spread.of(values)
    return f"{_short(spread.median)} ({_short(spread.least)} to {_short(spread.most)})"


def _ratio(rows: Rows, first: str, label: str) -> str:
    figure = RATE if RATE in rows[first] else next(iter(rows[first]))
    mine, theirs = rows[first].get(figure, ()), rows[label].get(figure, ())
    if label == first or len(mine) != len(theirs) or not median(theirs or [0.0]):
        return ""
    spread = ratios(mine, theirs)
    return f"{spread.median:.2f} × ({spread.least:.2f} to {spread.most:.2f})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def load(text: bytes) -> Report:
    """Read what `dump` wrote (msgspec.ValidationError when it is something else)."""
    return msgspec.json.decode(text, type=Report)


def dump(report: Report) -> bytes:
    """Return it as JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1)
