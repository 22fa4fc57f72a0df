"""What one coordinator of all does: forget old jobs, write down what operators intend, write live
intents again in time, carry out changes of jobs, and notice jobs that the broker has lost.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from taskyard.broker_setup.intents import compact
from taskyard.ledger.driving import Driver
from taskyard.ledger.noticing import Noticer
from taskyard.ledger.noting import note_intents
from taskyard.ledger.retention import CHUNK, prune, rules_of
from taskyard.ledger.surveying import Surveyor
from taskyard.shared.broker import Held, Owner
from taskyard.shared.control import ControlUnavailable
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskyard.ledger.database import Database
    from taskyard.ledger.retention import Rule
    from taskyard.shared.broker import Broker, Lease
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.metrics import Metrics
    from taskyard.shared.settings import Settings

_log = get_logger(__name__)

#: The lock of the coordinator that does it.
LOCK: Final = "coordinator"
#: Seconds between two tries to become that, between two rounds of forgetting, and between two
#: writings of the intents (a stream keeps them for days).
_TRY_S: Final = 5.0
PRUNE_EVERY_S: Final = 30.0
COMPACT_EVERY_S: Final = 3600.0
#: Of a key, or an error, what a line of the log has room for.
_SHOWN: Final = 500


class Housekeeper:
    """Waits until it is the one, and then does what is to be done, until it is cancelled."""

    def __init__(
        self,
        broker: Broker,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        *,
        wait_written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Prepare it; `run` does the work.

        Args:
            broker: open.
            database: of the ledger.
            settings: of the process.
            metrics: of the process.
            wait_written: see `Driver`.

        """
        self._broker = broker
        self._database = database
        self._rules: Sequence[Rule] = rules_of(settings)
        self._metrics = metrics
        self._noticer = Noticer(broker, database, Surveyor(broker, database), metrics)
        self._wait_written = wait_written

    async def run(self) -> None:
        """Do it whenever the lock is ours."""
        owner = Owner(host=socket.gethostname(), pid=os.getpid(), since_ms=self._broker.now_ms())
        while True:
            try:
                got = await self._broker.lock(LOCK, owner)
                if not isinstance(got, Held):
                    await self._keep_house(got)
            except Unavailable as error:
                _log.debug("the lock of the coordinators is out of reach", problem=str(error))
            await asyncio.sleep(_TRY_S)

    async def _keep_house(self, lease: Lease) -> None:
        _log.info("this coordinator prunes and compacts from now on")
        try:
            async with asyncio.TaskGroup() as group:
                duties = [
                    group.create_task(self._prune_for_ever(), name="prune"),
                    group.create_task(self._compact_for_ever(), name="compact"),
                    group.create_task(self._note_for_ever(), name="audit"),
                    group.create_task(self._drive_for_ever(), name="changes"),
                    group.create_task(self._noticer.run(), name="missing jobs"),
                ]
                await lease.wait_lost()
                for duty in duties:
                    duty.cancel()
        finally:
            with suppress(Unavailable):
                await lease.release()

    async def _prune_for_ever(self) -> None:
        while True:
            for rule in self._rules:
                with suppress(Unavailable):  # the recorder says so
                    await self._prune(rule)
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _prune(self, rule: Rule) -> None:
        gone = CHUNK
        while gone == CHUNK:
            async with self._database.begin() as connection:
                gone = await prune(connection, rule, now_ms=self._broker.now_ms())
            self._metrics.count("ledger_pruned", rule.states[0].value).add(gone)

    async def _compact_for_ever(self) -> None:
        if not self._broker.capabilities.control:
            return
        while True:
            try:
                number = await compact(self._broker)
            except (ControlUnavailable, Unavailable, ConfigurationError) as error:
                _log.warning("live intents could not be written again; later", problem=str(error))
            else:
                _log.debug("live intents are written again", intents=number)
            await asyncio.sleep(COMPACT_EVERY_S)

    async def _drive_for_ever(self) -> None:
        if self._broker.capabilities.control:
            driver = Driver(self._broker, self._database, wait_written=self._wait_written)
            await driver.run()

    async def _note_for_ever(self) -> None:
        """Take the control log into the audit, from its start: what is there already stays."""
        if not self._broker.capabilities.control:
            return
        after: int | None = None
        while True:
            try:
                async for batch in self._broker.follow_control(after):
                    await self._note(batch.records)
                    after = batch.position
            except (ControlUnavailable, Unavailable, ConfigurationError) as error:
                _log.debug("the control log is not taken into the audit now", problem=str(error))
            await asyncio.sleep(_TRY_S)

    async def _note(self, records: Sequence[ControlRecord]) -> None:
        """Write intents down; one that the database refuses stops neither the others nor us."""
        try:
            async with self._database.begin() as connection:
                await note_intents(connection, records)
        except (DBAPIError, OverflowError, ValueError) as error:
            if len(records) > 1:
                half = len(records) // 2
                await self._note(records[:half])
                await self._note(records[half:])
                return
            _log.error(
                "an intent cannot be written, and is left out of the audit",
                key=records[0].key[:_SHOWN],
                why=str(getattr(error, "orig", None) or error)[:_SHOWN],
            )
