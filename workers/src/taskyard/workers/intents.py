"""Follows the control log: what operators want, known before the first job and kept up to date."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from taskyard.shared.control import GENESIS, ControlUnavailable
from taskyard.shared.errors import Unavailable
from taskyard.shared.intents import Intents
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.broker import Broker, ControlBatch
    from taskyard.shared.control import ControlRecord

_log = get_logger(__name__)

#: Seconds before a log that cannot be read is tried again; doubled up to the longest.
_FIRST_S: Final = 0.2
_LONGEST_S: Final = 5.0
#: Longest pause before a log that was made anew gets what it lacks, in seconds.
_RESEED_S: Final = 2.0


class ControlFollower:
    """Reads the control log from its start, then as it grows.

    Attributes:
        intents: what it adds up to; the last known state while the log cannot be read.
        ready: set once everything that was in the log when following began is known.
        problem: why it cannot be read now, in words.

    """

    def __init__(
        self,
        broker: Broker,
        on_change: Callable[[Sequence[ControlRecord]], None],
        rng: random.Random | None = None,
    ) -> None:
        """Follow the log of `broker`; `on_change` is told of each batch once `ready` is set."""
        self._rng = rng or random.Random()
        self._broker = broker
        self._on_change = on_change
        self._after: int | None = None
        self._reseeding: asyncio.Task[None] | None = None
        # The keys in a log that was made anew while this process knew another one.
        self._keys: set[str] | None = None
        self.intents = Intents()
        self.ready = asyncio.Event()
        self.problem = ""

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            await self._follow()
        finally:
            if self._reseeding is not None:
                self._reseeding.cancel()

    async def _follow(self) -> None:
        if not self._broker.capabilities.control:
            _log.warning(
                "this broker has no control log: pauses and cancels are not honoured",
                reason=self._broker.capabilities.control.note,
            )
            self.ready.set()
            return
        delay_s = _FIRST_S
        while True:
            try:
                async for batch in self._broker.follow_control(self._after):
                    delay_s = _FIRST_S
                    self._take(batch)
                problem = "it ended"
            except (ControlUnavailable, Unavailable) as error:
                problem = str(error) or type(error).__name__
            if not self.problem:
                _log.error(
                    "the control log cannot be read; the last known intents hold", problem=problem
                )
            self.problem = problem
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _LONGEST_S)

    def prune(self) -> None:
        """Forget intents that have ended by themselves."""
        self.intents.prune(self._broker.now_ms())

    def _take(self, batch: ControlBatch) -> None:
        if batch.anew:
            self._keys = set()
        if self._keys is not None:
            self._keys.update(record.key for record in batch.records)
            if batch.caught_up and self._reseeding is None:
                self._reseeding = asyncio.create_task(self._reseed(), name="re-seed")
        self.intents.apply(batch.records)
        self._after = batch.position
        if self.problem:
            _log.info("the control log can be read again")
            self.problem = ""
        if batch.caught_up and not self.ready.is_set():
            self.ready.set()
        if self.ready.is_set():
            self._on_change(batch.records)

    async def _reseed(self) -> None:
        """Write into a log that was made anew what is known of the old one and not in it.

        Each worker waits a moment of its own, so that most find it done by the first.
        """
        try:
            while self._keys is not None:
                await asyncio.sleep(self._rng.uniform(0, _RESEED_S))
                await self._write_lost(self._keys)
        finally:
            self._reseeding = None

    async def _write_lost(self, keys: set[str]) -> None:
        live = self.intents.live(self._broker.now_ms())
        lost = [record for record in live if record.key not in keys and record.op != GENESIS]
        try:
            if lost:
                await self._broker.append_control(lost)
                _log.warning(
                    "the control log was made anew: intents that it has lost are written again",
                    intents=len(lost),
                )
        except (ControlUnavailable, Unavailable) as error:
            _log.error(
                "intents that the control log has lost are not written yet", problem=str(error)
            )
        else:
            self._keys = None
