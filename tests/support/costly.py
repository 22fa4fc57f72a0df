"""Imported first, it makes each job that a worker runs cost more: calls, and allocations.

The guard of the counts must notice.
"""

from __future__ import annotations

from typing import Any

from taskyard.workers.execute import Executor

EXTRA = 40


def spend(kept: list[list[int]]) -> None:
    """Cost a call and an allocation or two."""
    kept.append([len(kept)])


_start = Executor.start


def start(self: Executor, *args: Any, **more: Any) -> Any:
    """Start an attempt, and waste something."""
    kept: list[list[int]] = []
    for _ in range(EXTRA):
        spend(kept)
    return _start(self, *args, **more)


Executor.start = start  # type: ignore[method-assign]  # that is the point
