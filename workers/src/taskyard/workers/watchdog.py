"""Opens consumers anew that get nothing though jobs are ready for them (see `starved`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import get_logger
from taskyard.workers.starved import Hunger, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.metrics import Metrics
    from taskyard.workers.lane import Lane

_log = get_logger(__name__)

#: Seconds between two looks, which cost nothing; the broker is asked far less often.
LOOK_S: Final = 1.0


class Watchdog:
    """Watches the consumers of a worker's lanes."""

    def __init__(
        self, broker: Broker, lanes: Mapping[str, Lane], *, clock: Clock, metrics: Metrics
    ) -> None:
        """Watch `lanes`, by the names of their queues."""
        self._broker = broker
        self._lanes = lanes
        self._clock = clock
        self._hungers = {name: Hunger() for name in lanes}
        self._renewed = {name: metrics.count("consumers_renewed", name) for name in lanes}

    def starved_s(self, queue: str, now_s: float) -> float:
        """Return for how long a queue's consumer has been found to starve, in seconds."""
        since_s = self._hungers[queue].since_s
        return 0.0 if since_s is None else now_s - since_s

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look()

    async def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        # A consumer that is missing or blocked is others' concern.
        asked = [
            name
            for name, lane in self._lanes.items()
            if self._broker.connected
            and not self._broker.blocked
            and lane.intake.present
            and self._hungers[name].look(now_s, taken=lane.taken, hungry=lane.hungry)
        ]
        if not asked:
            return
        try:
            stats = await self._broker.stats(asked)
        except (Unavailable, ConfigurationError):
            return  # it is asked again; whether it can be reached shows elsewhere
        now_s = self._clock.monotonic_s()
        for name in asked:
            lane = self._lanes[name]
            ready = stats[name].ready if name in stats else 0
            verdict = self._hungers[name].judge(now_s, taken=lane.taken, ready=ready)
            if verdict is Verdict.STARVED and lane.intake.opened:
                _log.warning(
                    "jobs are ready and none is delivered; the consumer is opened anew",
                    queue=name,
                    ready=ready,
                    starved_s=round(self.starved_s(name, now_s), 1),
                )
                self._renewed[name].add()
                lane.intake.renew()
