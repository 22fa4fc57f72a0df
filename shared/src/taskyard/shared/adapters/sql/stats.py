"""Queues in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.adapters.sql import queries
from taskyard.shared.broker import FEED, QueueStats

if TYPE_CHECKING:
    from collections.abc import Collection

    from taskyard.shared.adapters.sql.session import Session, Value


def stats_of(session: Session, names: Collection[str]) -> dict[str, QueueStats]:
    """Return the numbers of each queue that is asked for."""
    queues = session.catalogue().queues
    now_ms = session.now_ms()
    return {
        name: _feed(session) if name == FEED else _one(session, name, queues.get(name), now_ms)
        for name in names
    }


def _feed(session: Session) -> QueueStats:
    if session.catalogue().feed_limit is None:
        return QueueStats(exists=False)
    ready, unsettled = session.one(queries.FEED_HELD)
    return QueueStats(ready=_count(ready), unsettled=_count(unsettled), type="sqlite")


def _one(session: Session, name: str, id: int | None, now_ms: int) -> QueueStats:
    if id is None:
        return QueueStats(exists=False)
    row = session.one(queries.STATS, {"id": id, "name": name, "now": now_ms})
    ready, due, scheduled, unsettled, parked, consumers = (_count(value) for value in row[:6])
    oldest = [value for value in row[6:] if isinstance(value, int)]
    return QueueStats(
        ready=ready + due,
        unsettled=unsettled,
        scheduled=scheduled,
        parked=parked,
        consumers=consumers,
        oldest_ms=min(oldest, default=None),
        type="sqlite",
    )


def _count(value: Value) -> int:
    return value if isinstance(value, int) else 0
