"""How a worker lives with its broker's outages: lost connections and alarms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskyard.shared.broker import Blocked, BrokerEvent, Connected, Lost, Unblocked
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.metrics import Count
    from taskyard.workers.backlog import Backlog
    from taskyard.workers.commit import Committer
    from taskyard.workers.lane import Lane

_log = get_logger(__name__)


class Outages:
    """Watches the broker, tells the lanes, and hands over what it would not take."""

    def __init__(
        self,
        broker: Broker,
        *,
        lanes: Iterable[Lane],
        committer: Committer,
        backlog: Backlog,
        reconnects: Count,
        deadline_s: float,
    ) -> None:
        """Watch `broker`; records from the backlog are given `deadline_s` seconds a chunk."""
        self._broker = broker
        self._lanes = lanes
        self._committer = committer
        self._backlog = backlog
        self._reconnects = reconnects
        self._deadline_s = deadline_s
        self._lost = False
        self._flushing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Watch until cancelled, or until the broker is closed."""
        try:
            async for event in self._broker.events():
                self._note(event)
                self._committer.look_again()
                self.flush_backlog()
        finally:
            if self._flushing is not None:
                self._flushing.cancel()

    def flush_backlog(self) -> None:
        """Hand over the records that are kept on disk, where the broker takes them again."""
        if self._backlog.empty or self._broker.blocked or not self._broker.recording:
            return
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="backlog")

    async def _flush(self) -> None:
        await self._backlog.flush(self._record)

    async def _record(self, records: Sequence[FeedRecord]) -> bool:
        try:
            return await self._broker.record(records, deadline_s=self._deadline_s)
        except Unavailable:
            return False

    def _note(self, event: BrokerEvent) -> None:
        match event:
            case Lost(reason):
                self._lost = True
                _log.warning("broker connection lost; running jobs go on", reason=reason)
                for lane in self._lanes:
                    lane.connection_lost()
            case Connected() if self._lost:
                self._lost = False
                self._reconnects.add()
                _log.info("broker connection is back")
            case Connected():
                pass
            case Blocked(reason):
                _log.warning(
                    "the broker takes no publishes: jobs go on, retries and parks wait",
                    reason=reason,
                )
            case Unblocked():
                _log.info("the broker takes publishes again")
