"""Takes the lifecycle feed and writes it into the ledger: read, merge, commit, acknowledge.

A batch that was committed and not acknowledged comes again, and says nothing new. Any number of
recorders may share one feed.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.exc import DBAPIError

from taskyard.ledger.history import fold
from taskyard.ledger.policies import Policies
from taskyard.ledger.recording import recorded
from taskyard.ledger.writing import merge
from taskyard.shared.errors import Unavailable
from taskyard.shared.feed import FeedItem
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskyard.ledger.database import Database
    from taskyard.ledger.rows import Batch
    from taskyard.shared.broker import Broker
    from taskyard.shared.metrics import Metrics

_log = get_logger(__name__)

T = TypeVar("T")

#: Feed items taken and not yet acknowledged, and the most of one transaction.
CREDIT: Final = 4000
BATCH: Final = 2000

_KINDS: Final = ("job", "record", "skipped", "left_out")

#: Seconds before a database that does not answer is tried again; doubled up to the longest.
_FIRST_S: Final = 0.2
_LONGEST_S: Final = 10.0
#: Seconds between two looks at what is being written.
_LOOK_S: Final = 0.05


class Recorder:
    """Writes what the feed of one broker says into one database, until it is cancelled.

    Attributes:
        problem: why nothing can be written now, in words; empty while all is well.

    """

    def __init__(
        self,
        broker: Broker,
        database: Database,
        metrics: Metrics,
        *,
        policies: Policies | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare it; `run` does the work. Without `policies` those that change are not followed."""
        self._broker = broker
        self._database = database
        self._rng = rng or random.Random()
        self._policies = policies or Policies(broker)
        self._in_hand_ms: int | None = None
        self._is_writing = False
        self._written = 0
        self.problem = ""
        self._count = {kind: metrics.count("ledger_items", kind) for kind in _KINDS}
        lag = metrics.count("ledger_lag_seconds")
        connected = metrics.count("ledger_connected")

        def show() -> None:
            lag.set(self.lag_s())
            connected.set(float(not self.problem))

        metrics.on_scrape(show)

    def lag_s(self) -> float:
        """Return how long ago the newest of what is being written came about; 0 with nothing."""
        newest_ms = self._in_hand_ms
        return 0.0 if newest_ms is None else max(0, self._broker.now_ms() - newest_ms) / 1000

    async def run(self) -> None:
        """Record until cancelled.

        Raises:
            ConfigurationError: the broker has no feed.

        """
        flow = await self._patiently(lambda: self._broker.feed(credit=CREDIT))
        try:
            while items := await flow.take():
                self._is_writing = True
                for start in range(0, len(items), BATCH):
                    await self._record(items[start : start + BATCH])
                await flow.ack(items)
                self._in_hand_ms = None
                self._is_writing = False
                self._written += 1
        finally:
            await flow.stop()

    async def wait_written(self) -> None:
        """Wait until what this recorder has in its hands now is in the database.

        While the database is away, it holds what it took, and the feed looks empty.
        """
        # What it writes now, and what has arrived meanwhile.
        enough = self._written + 2
        while self._is_writing and self._written < enough:  # noqa: ASYNC110  # nobody waits often
            await asyncio.sleep(_LOOK_S)

    async def _record(self, items: Sequence[FeedItem]) -> None:
        """Write some items in one transaction; what the database refuses is looked for and skipped."""
        queues = _queues_of(items)
        await self._patiently(lambda: self._policies.look(queues))
        items, left_out = recorded(items, self._policies.of)
        self._count["left_out"].add(left_out)
        await self._write(items)

    async def _write(self, items: Sequence[FeedItem]) -> None:
        try:
            batch = fold(items)
            self._in_hand_ms = max((job.changed_ms for job in batch.jobs), default=None)
            await self._patiently(lambda: self._commit(batch))
        except (DBAPIError, OverflowError, ValueError) as error:
            await self._without_the_bad(items, error)
        else:
            self._count["job"].add(sum(item.envelope is not None for item in items))
            self._count["record"].add(sum(len(item.records) for item in items))
            self._count["skipped"].add(
                sum(item.envelope is None and not item.records for item in items)
            )

    async def _commit(self, batch: Batch) -> None:
        async with self._database.begin() as connection:
            await merge(connection, batch)

    async def _without_the_bad(self, items: Sequence[FeedItem], error: Exception) -> None:
        """Halve a batch until what is wrong with it is alone: it must not stop the feed.

        An item may hold the records of hundreds of jobs: it is divided as well.
        """
        if len(items) == 1 and len(items[0].records) > 1:
            items = [FeedItem(records=(record,)) for record in items[0].records]
        if len(items) > 1:
            half = len(items) // 2
            await self._write(items[:half])
            await self._write(items[half:])
            return
        self._count["skipped"].add()
        envelope, records = items[0].envelope, items[0].records
        _log.error(
            "a feed item cannot be written, and is left out of the ledger",
            jobs=[record.job for record in records] if envelope is None else [envelope.id],
            why=str(getattr(error, "orig", None) or error)[:500],
        )

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do what needs the broker or the database, again and again while it is away."""
        delay_s = _FIRST_S
        while True:
            try:
                result = await act()
            except Unavailable as error:
                if not self.problem:
                    _log.error("the ledger is behind: what it needs is away", problem=str(error))
                self.problem = str(error)
            else:
                if self.problem:
                    _log.info("the ledger goes on")
                    self.problem = ""
                return result
            await asyncio.sleep(delay_s * self._rng.uniform(0.5, 1))
            delay_s = min(delay_s * 2, _LONGEST_S)


def _queues_of(items: Sequence[FeedItem]) -> set[str]:
    found = {item.envelope.queue for item in items if item.envelope is not None}
    return found.union(record.queue for item in items for record in item.records)
