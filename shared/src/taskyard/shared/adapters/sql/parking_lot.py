"""Parking lots: browsing leaves everything as it is; taking marks rows until they are settled."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.rows import Token, delivery, known, parked_job
from taskyard.shared.adapters.sql.session import Named, Packed, json_list
from taskyard.shared.broker import PARKED_BATCH
from taskyard.shared.errors import Unavailable, UnknownQueue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.presence import Presence
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.broker import Delivery, ParkedJob, Selection


async def browse(engine: Engine, queue: str) -> AsyncGenerator[ParkedJob, None]:
    """Yield what is parked, page by page, so that a slow reader blocks nobody."""
    after = 0
    while True:
        page = await engine.read(lambda s: _page(s, queue, after))  # noqa: B023  # awaited at once
        if not page:
            return
        for seq, blob, body in zip(page.numbers[0], *page.blobs, strict=True):
            yield parked_job(seq, blob, body, queue)
        after = page.numbers[0][-1]


async def take(
    engine: Engine, presence: Presence, queue: str, select: Selection
) -> AsyncGenerator[Sequence[Delivery], None]:
    """Yield matching jobs as ours, a page at a time; what is not settled at the end goes back."""
    fence = presence.next_fence()
    after, left = 0, select.limit
    try:
        while left is None or left > 0:
            limit = select.batch if left is None else min(left, select.batch)
            want = _Want(
                queue=queue,
                select=select,
                after=after,
                limit=limit,
                owner=presence.id,
                fence=fence,
            )
            page, seen = await engine.write(want.take, weight=limit)
            if seen is None:
                return
            if page:
                yield [
                    delivery(blob, body, Token(seq, presence.id, fence), queue=queue, failures=0)
                    for seq, blob, body in zip(page.numbers[0], *page.blobs, strict=True)
                ]
            after = seen
            left = None if left is None else left - len(page)
    finally:
        # A handle that has ended took its marks with it.
        with contextlib.suppress(StoreError, Unavailable):
            parameters: Named = {"owner": presence.id, "fence": fence}
            await engine.write(lambda s: s.run(queries.PARKED_PUT_BACK, parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Want:
    """A page of jobs to be taken, as a transaction."""

    queue: str
    select: Selection
    after: int
    limit: int
    owner: int
    fence: int

    def take(self, session: Session) -> tuple[Packed, int | None]:
        """Mark rows as ours; return them, and the last one looked at (None: there are no more)."""
        _check(session, self.queue)
        # What a group or a task is stands in the envelope: there a page is looked through.
        inside = self.select.fingerprint is not None or self.select.task is not None
        parameters: Named = {
            "queue": self.queue,
            "after": self.after,
            "limit": PARKED_BATCH if inside else self.limit,
            "reason": self.select.reason,
        }
        sql = queries.PARKED_FREE
        if self.select.ids is not None:
            sql = queries.PARKED_FREE_IDS
            parameters["ids"] = json_list(sorted(self.select.ids))
        page = _packed(session, sql, parameters)
        if not page:
            return page, None
        seen = page.numbers[0][-1]
        if inside:
            page, seen = self._matching(page)
        if page:
            mark: Named = {
                "owner": self.owner,
                "fence": self.fence,
                "seqs": json_list(page.numbers[0]),
            }
            session.run(queries.PARKED_TAKE, mark)
        return page, seen

    def _matching(self, page: Packed) -> tuple[Packed, int]:
        """Return the rows that are meant, and the last one looked at."""
        found = Packed([[]], [[], []])
        seen = self.after
        for seq, blob, body in zip(page.numbers[0], *page.blobs, strict=True):
            if len(found) == self.limit:
                break
            seen = seq
            if self.select.matches(parked_job(seq, blob, body, self.queue).envelope):
                found.numbers[0].append(seq)
                found.blobs[0].append(blob)
                found.blobs[1].append(body)
        return found, seen


def _page(session: Session, queue: str, after: int) -> Packed:
    _check(session, queue)
    parameters: Named = {"queue": queue, "after": after, "limit": PARKED_BATCH}
    return _packed(session, queries.PARKED_PAGE, parameters)


def _packed(session: Session, sql: str, parameters: Named) -> Packed:
    return session.packed(sql, parameters, numbers=("seq",), blobs=("envelope", "body"))


def _check(session: Session, queue: str) -> None:
    queues = session.catalogue().queues
    if queue not in queues:
        msg = f"queue {queue!r} does not exist in this database (it has: {known(queues)})"
        raise UnknownQueue(msg, queue=queue)
