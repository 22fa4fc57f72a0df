"""A bar chart for each figure of a part, as SVG: medians, with least and most as whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.figures import Spread
from benchmarks.parts import PARTS
from benchmarks.report import Report

_LEFT, _WIDTH, _BAR, _GAP = 250, 460, 18, 8


def write(report: Report, folder: Path) -> None:
    """Write `PART-FIGURE.svg` for each figure that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        rows = report.parts.get(part.name, {})
        for figure in dict.fromkeys(name for figures in rows.values() for name in figures):
            bars = [(label, rows[label][figure]) for label in rows if rows[label].get(figure)]
            name = f"{part.name}-{''.join(c if c.isalnum() else '-' for c in figure)}.svg"
            (folder / name).write_text(chart(f"{part.title}: {figure}", bars))


def chart(title: str, bars: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Return a chart of labelled values, a bar to each."""
    spreads = [(label, Spread.of(values)) for label, values in bars]
    top = max(spread.most for _, spread in spreads) or 1.0
    height = 40 + len(spreads) * (_BAR + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 110}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (label, spread) in enumerate(spreads):
        y = 34 + number * (_BAR + _GAP)
        least, middle, most = (
            _LEFT + value / top * _WIDTH for value in (spread.least, spread.median, spread.most)
        )
        whisker = f"M{least:.1f} {y + 9}H{most:.1f}M{least:.1f} {y + 5}v8M{most:.1f} {y + 5}v8"
        color = "#2f6f9f" if label.startswith("taskyard") else "#b0b7bd"
        lines += [
            f'<text x="{_LEFT - 6}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{middle - _LEFT:.1f}" height="{_BAR}" fill="{color}"/>',
            f'<path d="{whisker}" stroke="black" fill="none"/>',
            f'<text x="{most + 6:.1f}" y="{y + 13}">{spread.median:,.4g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
