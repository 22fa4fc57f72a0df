"""Whether the broker has the queues that a worker is to consume; set-up may still be running."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock

#: Seconds that a queue may be missing when the worker starts.
PATIENCE_S: Final = 5.0
#: Seconds between two looks.
LOOK_S: Final = 0.25


async def wait_for_queues(broker: Broker, queues: Sequence[str], clock: Clock) -> None:
    """Return once the broker has every one of `queues`.

    Raises:
        ConfigurationError: one does not appear; the text says what creates it.

    """
    until_s = clock.monotonic_s() + PATIENCE_S
    while True:
        missing = await _missing(broker, queues)
        if missing is not None and not missing:
            return
        if missing and clock.monotonic_s() > until_s:
            msg = (
                f"queue {', '.join(missing)} does not exist on the broker; create it with "
                "`taskyard broker apply`, followed by the modules given to the worker"
            )
            raise ConfigurationError(msg)
        await asyncio.sleep(LOOK_S)


async def _missing(broker: Broker, queues: Sequence[str]) -> list[str] | None:
    """Return the queues that do not exist; None when the broker cannot be asked."""
    try:
        stats = await broker.stats(queues)
    except Unavailable:
        return None
    return [queue for queue in queues if queue not in stats or not stats[queue].exists]
