"""From envelopes to transactions and receipts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.gate import ByteGate
from taskyard.shared.adapters.sql.rows import job_row, known, parked_row
from taskyard.shared.adapters.sql.transactions import insert_jobs, insert_parked
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.envelope import mint_id
from taskyard.shared.errors import TaskyardError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from typing import TypeAlias

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.transactions import Unplaced
    from taskyard.shared.envelope import Envelope

    #: Stores a chunk within so many seconds.
    _Store: TypeAlias = Callable[[Sequence[Envelope], float], Awaitable[list[Receipt]]]

R = TypeVar("R")

#: Most jobs and most bytes of one transaction of ours, so that others get their turn.
_CHUNK_JOBS: Final = 4096
_CHUNK_BYTES: Final = 4 * 1024 * 1024


class Publisher:
    """Publishes for one handle."""

    def __init__(self, engine: Engine, where: str, namespace: str, cap_bytes: int) -> None:
        """Belong to a handle.

        Args:
            engine: of the handle.
            where: the database, for messages.
            namespace: for messages.
            cap_bytes: most bytes of bodies under way at once.

        """
        self._engine = engine
        self._where = f"namespace {namespace} of {where}"
        self._gate = ByteGate(cap_bytes)

    async def publish(self, jobs: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        """See `Broker.publish`."""
        return await self._in_chunks(jobs, deadline_s, self._store)

    async def park(self, jobs: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        """See `Broker.park`."""
        minted = [msgspec.structs.replace(job, message_id=mint_id()) for job in jobs]
        return await self._in_chunks(minted, deadline_s, self._set_aside)

    async def _in_chunks(
        self, jobs: Sequence[Envelope], deadline_s: float, store: _Store
    ) -> list[Receipt]:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline_s
        receipts: list[Receipt] = []
        for chunk in _chunks(jobs):
            left_s = max(until_s - loop.time(), 0.0)
            receipts += await self._publish_chunk(chunk, left_s, store)
        return receipts

    async def _publish_chunk(
        self, chunk: Sequence[Envelope], left_s: float, store: _Store
    ) -> list[Receipt]:
        size = sum(len(job.body) for job in chunk)
        if left_s <= 0 or not await self._gate.enter(size, left_s):
            text = "too much is waiting for the database; nothing was stored"
            return [Receipt(PublishStatus.UNAVAILABLE, detail=text)] * len(chunk)
        try:
            return await store(chunk, left_s)
        finally:
            self._gate.leave(size)

    async def _store(self, chunk: Sequence[Envelope], left_s: float) -> list[Receipt]:
        rows, refused = _rows(chunk, job_row)
        try:
            unplaced = await self._engine.write(
                lambda s: insert_jobs(s, rows), deadline_s=left_s, weight=len(rows)
            )
        except TaskyardError as error:  # the database's state, or that of the handle
            return [Receipt(_status(error), detail=str(error))] * len(chunk)
        receipts = [Receipt(PublishStatus.CONFIRMED, row.message_id) for row in rows]
        return self._with_the_others(receipts, [row.queue for row in rows], unplaced, refused)

    async def _set_aside(self, chunk: Sequence[Envelope], left_s: float) -> list[Receipt]:
        rows, refused = _rows(chunk, parked_row)
        try:
            unplaced = await self._engine.write(
                lambda s: insert_parked(s, rows), deadline_s=left_s, weight=len(rows)
            )
        except TaskyardError as error:
            return [Receipt(_status(error), detail=str(error))] * len(chunk)
        places = {place for place, _ in refused}
        stored = [job for place, job in enumerate(chunk) if place not in places]
        receipts = [Receipt(PublishStatus.CONFIRMED, job.message_id) for job in stored]
        return self._with_the_others(receipts, [row.queue for row in rows], unplaced, refused)

    def _with_the_others(
        self,
        receipts: list[Receipt],
        queues: Sequence[str],
        unplaced: Unplaced,
        refused: Sequence[tuple[int, Receipt]],
    ) -> list[Receipt]:
        """Return the receipts of a chunk, those included that are not stored."""
        for index in unplaced.indexes:
            text = (
                f"queue {queues[index]!r} does not exist in {self._where} "
                f"(it has: {known(unplaced.known)})"
            )
            receipts[index] = Receipt(PublishStatus.UNROUTABLE, detail=text)
        for index, receipt in refused:
            receipts.insert(index, receipt)
        return receipts


def _chunks(jobs: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
    if len(jobs) == 1:
        yield jobs
        return
    start, size = 0, 0
    for index, job in enumerate(jobs):
        if index > start and (index - start >= _CHUNK_JOBS or size + len(job.body) > _CHUNK_BYTES):
            yield jobs[start:index]
            start, size = index, 0
        size += len(job.body)
    if start < len(jobs):
        yield jobs[start:]


def _rows(
    chunk: Sequence[Envelope], make: Callable[[Envelope], R]
) -> tuple[list[R], list[tuple[int, Receipt]]]:
    """Return the rows, and the receipts of envelopes that cannot be stored, by their place."""
    rows: list[R] = []
    refused: list[tuple[int, Receipt]] = []
    for index, job in enumerate(chunk):
        try:
            rows.append(make(job))
        except (TypeError, ValueError, OverflowError) as error:
            text = f"a header of job {job.id} cannot be stored: {error}"
            refused.append((index, Receipt(PublishStatus.REJECTED, detail=text)))
    return rows, refused


def _status(error: TaskyardError) -> PublishStatus:
    if isinstance(error, StoreError):
        if error.refused:
            return PublishStatus.REJECTED
        if error.started:
            return PublishStatus.TIMEOUT
    return PublishStatus.UNAVAILABLE
