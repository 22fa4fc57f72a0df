"""The lifecycle feed as a table: bounded in bytes, the oldest dropped first and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.session import json_list
from taskyard.shared.adapters.sql.watch import FEED
from taskyard.shared.feed import encode_feed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.feed import FeedRecord

#: Bytes that the feed may hold before it drops its oldest items.
LIMIT_BYTES: Final = 256 * 1024 * 1024

#: What an item costs beside its contents.
_OVERHEAD_BYTES: Final = 64


def write_envelopes(session: Session, payloads: Sequence[tuple[bytes, bytes]], limit: int) -> None:
    """Add publishes (blob and body) to the feed."""
    _write(session, payloads, limit)


def write_records(session: Session, records: Sequence[FeedRecord]) -> bool:
    """Add records to the feed as one item; returns whether there is a feed."""
    limit = session.catalogue().feed_limit
    if limit is None:
        return False
    _write(session, [(b"", encode_feed(records))], limit)
    return True


def _write(session: Session, items: Sequence[tuple[bytes, bytes]], limit: int) -> None:
    rows = [(len(blob) + len(body) + _OVERHEAD_BYTES, blob, body) for blob, body in items]
    session.insert(queries.FEED_COLUMNS, rows)
    session.run(queries.FEED_GROW, (sum(row[0] for row in rows),))
    session.effects.topics.add(FEED)
    (held,) = session.one(queries.FEED_BYTES)
    if cast("int", held) > limit:
        # A little more than needed goes, so that a full feed is not trimmed at every publish.
        _trim(session, cast("int", held) - limit + limit // 50)


def _trim(session: Session, excess: int) -> None:
    while excess > 0:
        found = session.packed(
            queries.FEED_EXCESS_ROWS, {"excess": excess}, numbers=("seq", "size")
        )
        if not found:
            return  # all that is left is in a reader's hands
        seqs, sizes = found.numbers
        session.run(queries.FEED_DROP, (json_list(seqs),))
        session.run(queries.FEED_GROW, (-sum(sizes),))
        session.run(queries.FEED_DROPPED, (len(seqs),))
        excess -= sum(sizes)
