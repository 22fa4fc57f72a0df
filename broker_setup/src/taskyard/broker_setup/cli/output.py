"""How the operator's commands print: aligned columns for people, JSON for programs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click
import msgspec

from taskyard.shared.clock import to_datetime

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_json(value: object) -> None:
    """Print one JSON document."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; None is shown as `-`."""
    texts = [[("-" if cell is None else str(cell)) for cell in row] for row in rows]
    widths = [
        max(len(column), *(len(row[i]) for row in texts), 0) for i, column in enumerate(columns)
    ]
    for line in ([column.upper() for column in columns], *texts):
        click.echo(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def instant(instant_ms: int | None) -> str | None:
    """Return an instant as ISO text in UTC, to the second."""
    return None if not instant_ms else to_datetime(instant_ms).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(since_ms: int | None, now_ms: int) -> str | None:
    """Return how long ago an instant was."""
    if since_ms is None:
        return None
    return str(timedelta(seconds=max(0, now_ms - since_ms) // 1000))
