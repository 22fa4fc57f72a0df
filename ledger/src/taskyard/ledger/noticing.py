"""Notices, round by round, that the broker has lost jobs: a metric, a line in the log, the audit.

It publishes nothing: whether jobs were lost, or emptied on purpose, is for a human to say.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from taskyard.ledger.evidence import remember
from taskyard.ledger.surveying import LedgerBehind
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from taskyard.ledger.database import Database
    from taskyard.ledger.drift import Drift
    from taskyard.ledger.surveying import Surveyor
    from taskyard.shared.broker import Broker
    from taskyard.shared.metrics import Metrics

_log = get_logger(__name__)

#: Seconds between two rounds.
EVERY_S: Final = 60.0
_METRIC: Final = "ledger_missing_jobs"


class Noticer:
    """Looks for jobs that the broker has lost, until it is cancelled."""

    def __init__(
        self, broker: Broker, database: Database, surveyor: Surveyor, metrics: Metrics
    ) -> None:
        """Prepare it; `run` does the work."""
        self._broker = broker
        self._database = database
        self._surveyor = surveyor
        self._metrics = metrics
        self._noticed: dict[str, int] = {}

    async def run(self) -> None:
        """Look every minute."""
        while True:
            await asyncio.sleep(EVERY_S)
            with suppress(Unavailable):  # the recorder says so
                await self.round()

    async def round(self) -> None:
        """Look once, a second time where something seems to be missing, and tell.

        Raises:
            Unavailable: broker or database do not answer.

        """
        try:
            found = await self._missing()
        except (LedgerBehind, ConfigurationError) as error:
            _log.debug("what is missing cannot be told now", problem=str(error))
            return
        for queue in self._noticed.keys() - {drift.queue for drift in found}:
            self._metrics.count(_METRIC, queue).set(0)
            del self._noticed[queue]
        for drift in found:
            await self._tell(drift)

    async def _missing(self) -> list[Drift]:
        suspects = await self._surveyor.suspects()
        if not suspects:
            return []
        first = await self._surveyor.look(suspects)
        once = await self._surveyor.drifts(suspects, first, first, quick=True)
        seeming = [drift.queue for drift in once if drift.found]
        if not seeming:
            return []
        second = await self._surveyor.again(seeming)
        await self._surveyor.read_lots(seeming, second)
        await self._surveyor.wait_caught_up(first.at_ms)
        twice = await self._surveyor.drifts(seeming, first, second, quick=True)
        return [drift for drift in twice if drift.found]

    async def _tell(self, drift: Drift) -> None:
        queue, number = drift.queue, drift.found
        self._metrics.count(_METRIC, queue).set(number)
        if number == self._noticed.get(queue):
            return
        self._noticed[queue] = number
        _log.warning(
            "the broker has lost jobs of a queue; `taskyard reconcile` says more, and with "
            "--rebuild has them back",
            queue=queue,
            missing=number,
            what=str(drift),
            command=f"taskyard reconcile --queue {queue} --rebuild",
        )
        who = f"coordinator@{socket.gethostname()}:{os.getpid()}"
        async with self._database.begin() as connection:
            await remember(connection, drift, by=who, now_ms=self._broker.now_ms())
