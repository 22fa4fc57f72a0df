"""Jobs as the feed would tell of them, with everything that the ledger can be asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from taskyard.ledger.database import Database
from taskyard.ledger.history import fold
from taskyard.ledger.migrate import prepare
from taskyard.ledger.writing import merge
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FINISHED, STARTED, FeedItem, FeedRecord
from taskyard.shared.outcomes import ErrorInfo


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to an empty ledger, on SQLite and on PostgreSQL."""
    database = Database(ledger_url)
    await prepare(database)
    async with database.begin() as connection:
        yield connection
    await database.close()


def error(name: str, message: str) -> ErrorInfo:
    """Return an exception as it travels."""
    return ErrorInfo(
        type=name, message=message, traceback=f"Traceback of {name}", fingerprint=f"{name} at x:f"
    )


class Told:
    """What is told of one job, each fact as an item of the feed.

    Args:
        envelope: as it was published first.
        wait_ms: how long each run waits from its due time on.
        run_ms: how long each run takes.

    """

    def __init__(self, envelope: Envelope, *, wait_ms: int = 100, run_ms: int = 50) -> None:
        self.items: list[FeedItem] = []
        self._wait_ms = wait_ms
        self._run_ms = run_ms
        self.envelope = envelope
        self._publish(envelope)

    def start(self) -> Told:
        """A worker begins with it."""
        at_ms = self.envelope.due_ms + self._wait_ms
        return self._tell(STARTED, at_ms, wait_ms=self._wait_ms)

    def end(self, outcome: str, **facts: Any) -> Told:
        """A worker has run it."""
        facts = {"wait_ms": self._wait_ms, "run_ms": self._run_ms, "outcome": outcome, **facts}
        ended_ms = self.envelope.due_ms + self._wait_ms + self._run_ms
        return self._tell(FINISHED, ended_ms, **facts)

    def set_aside(self, outcome: str, **facts: Any) -> Told:
        """It is judged without having run."""
        return self._tell(FINISHED, self.envelope.due_ms, outcome=outcome, **facts)

    def publish(self, **changes: Any) -> Told:
        """It is published anew, by default as the next attempt."""
        return self._publish(
            msgspec.structs.replace(
                self.envelope, **{"attempt": self.envelope.attempt + 1, **changes}
            )
        )

    def _publish(self, envelope: Envelope) -> Told:
        message = f"{envelope.id}-{len(self.items)}"
        self.envelope = msgspec.structs.replace(envelope, message_id=message)
        self.items.append(FeedItem(envelope=self.envelope))
        return self

    def _tell(self, event: str, at_ms: int, **facts: Any) -> Told:
        record = FeedRecord.of(self.envelope, event, at_ms=at_ms, worker="host:1", **facts)
        self.items.append(FeedItem(records=(record,)))
        return self


async def write(connection: AsyncConnection, told: Sequence[Told]) -> None:
    """Have the ledger know of jobs as the coordinator would, in batches."""
    items = [item for each in told for item in each.items]
    for start in range(0, len(items), 500):
        await merge(connection, fold(items[start : start + 500]))
