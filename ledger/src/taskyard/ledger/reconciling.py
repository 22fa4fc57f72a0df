"""Has what the broker lost of some queues published again: one at a time, and written in the audit."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import or_

from taskyard.ledger.audit import audited
from taskyard.ledger.evidence import REBUILT, seen_of, subject_of
from taskyard.ledger.missing import is_doubtful
from taskyard.ledger.rebuilding import Rebuilder, Tally
from taskyard.shared.broker import Held, Owner
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import AlreadyRunning, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from taskyard.ledger.database import Database
    from taskyard.ledger.drift import Drift
    from taskyard.ledger.surveying import Surveyor
    from taskyard.shared.broker import Broker

#: The lock of whoever rebuilds.
LOCK: Final = "reconcile"


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Rebuilds queues from the ledger.

    Attributes:
        broker: open.
        database: of the ledger.
        surveyor: what found out what is missing.
        by: `user@host`.
        deadline_s: for each page's publish.
        force: also publish what may be missing and may not: workers give up what is older.

    """

    broker: Broker
    database: Database
    surveyor: Surveyor
    by: str
    deadline_s: float
    force: bool = False

    async def rebuild(self, drifts: Sequence[Drift], tally: Tally) -> None:
        """Publish again what is missing of each queue that exists.

        Raises:
            PublishError: the broker took nothing of a page; what was published before stays so.
            Unavailable: broker or database do not answer.

        """
        for drift in drifts:
            if drift.evidence.exists and (
                drift.missing or drift.parked or (self.force and drift.doubtful)
            ):
                await self._queue(drift, tally)

    async def _queue(self, drift: Drift, tally: Tally) -> None:
        evidence, surveyor = drift.evidence, self.surveyor
        rebuilder = Rebuilder(
            broker=self.broker,
            database=self.database,
            by=self.by,
            deadline_s=self.deadline_s,
            supersede=self.force,
            tally=tally,
        )
        missing = surveyor.gone(evidence)
        if self.force:
            missing = or_(missing, is_doubtful(evidence, surveyor.margin_ms))
        before = (tally.done, tally.refused)
        details: dict[str, object] = msgspec.to_builtins(seen_of(drift))
        async with audited(
            self.database,
            SystemClock(),
            by=self.by,
            action=REBUILT,
            subject=subject_of(drift.queue),
            **details,
        ) as entry:
            try:
                await rebuilder.rebuild(missing)
                if drift.parked:
                    await rebuilder.park(await surveyor.lost_from_lot(evidence))
            finally:
                entry.details["done"] = tally.done - before[0]
                entry.details["refused"] = tally.refused - before[1]


@asynccontextmanager
async def alone(broker: Broker) -> AsyncGenerator[None]:
    """Be the only one who rebuilds, as far as the broker has locks; rows are locked as well.

    Raises:
        AlreadyRunning: another does.

    """
    if not broker.capabilities.lock:
        yield
        return
    owner = Owner(host=socket.gethostname(), pid=os.getpid(), since_ms=broker.now_ms())
    got = await broker.lock(LOCK, owner)
    if isinstance(got, Held):
        who = got.owner
        named = f" ({who.host}, process {who.pid})" if who is not None else ""
        raise AlreadyRunning(
            f"another process rebuilds queues from the ledger{named}; nothing was changed"
        )
    try:
        yield
    finally:
        with suppress(Unavailable):
            await got.release()
