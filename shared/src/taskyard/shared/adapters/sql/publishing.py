"""From envelopes to transactions and receipts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.gate import ByteGate
from taskyard.shared.adapters.sql.rows import JobRow, job_row, known
from taskyard.shared.adapters.sql.transactions import insert_jobs
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import TaskyardError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.envelope import Envelope

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
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline_s
        receipts: list[Receipt] = []
        for chunk in _chunks(jobs):
            receipts += await self._publish_chunk(chunk, max(until_s - loop.time(), 0.0))
        return receipts

    async def _publish_chunk(self, chunk: Sequence[Envelope], left_s: float) -> list[Receipt]:
        size = sum(len(job.body) for job in chunk)
        if left_s <= 0 or not await self._gate.enter(size, left_s):
            text = "too much is waiting for the database; nothing was stored"
            return [Receipt(PublishStatus.UNAVAILABLE, detail=text)] * len(chunk)
        try:
            return await self._store(chunk, left_s)
        finally:
            self._gate.leave(size)

    async def _store(self, chunk: Sequence[Envelope], left_s: float) -> list[Receipt]:
        rows, refused = _rows(chunk)
        try:
            unplaced = await self._engine.write(
                lambda s: insert_jobs(s, rows), deadline_s=left_s, weight=len(rows)
            )
        except TaskyardError as error:  # the database's state, or that of the handle
            return [Receipt(_status(error), detail=str(error))] * len(chunk)
        receipts = [Receipt(PublishStatus.CONFIRMED, row.message_id) for row in rows]
        for index in unplaced.indexes:
            text = (
                f"queue {rows[index].queue!r} does not exist in {self._where} "
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


def _rows(chunk: Sequence[Envelope]) -> tuple[list[JobRow], list[tuple[int, Receipt]]]:
    """Return the rows, and the receipts of envelopes that cannot be stored, by their place."""
    rows: list[JobRow] = []
    refused: list[tuple[int, Receipt]] = []
    for index, job in enumerate(chunk):
        try:
            rows.append(job_row(job))
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
