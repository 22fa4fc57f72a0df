"""Follows the control log: what operators want, known before the first job and kept up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.control import ControlUnavailable, Intents
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord

_log = get_logger(__name__)

#: Seconds before a log that cannot be read is tried again; doubled up to the longest.
_FIRST_S: Final = 0.2
_LONGEST_S: Final = 5.0


class ControlFollower:
    """Reads the control log from its start, then as it grows.

    Attributes:
        intents: what it adds up to; the last known state while the log cannot be read.
        ready: set once everything that was in the log when following began is known.
        problem: why it cannot be read now, in words.

    """

    def __init__(
        self, broker: Broker, on_change: Callable[[Sequence[ControlRecord]], None]
    ) -> None:
        """Follow the log of `broker`; `on_change` is told of each batch once `ready` is set."""
        self._broker = broker
        self._on_change = on_change
        self._after: int | None = None
        self.intents = Intents()
        self.ready = asyncio.Event()
        self.problem = ""

    async def run(self) -> None:
        """Follow until cancelled."""
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
                    self._take(batch.records, batch.position, caught_up=batch.caught_up)
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

    def _take(self, records: Sequence[ControlRecord], position: int, *, caught_up: bool) -> None:
        self.intents.apply(records)
        self._after = position
        if self.problem:
            _log.info("the control log can be read again")
            self.problem = ""
        if caught_up and not self.ready.is_set():
            self.ready.set()
        if self.ready.is_set():
            self._on_change(records)
