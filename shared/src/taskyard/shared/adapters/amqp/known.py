"""Which queues exist, as far as is known: asked for before a job is sent where nobody returns it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.fields import properties
from taskyard.shared.adapters.amqp.outgoing import Raw
from taskyard.shared.broker import PublishStatus, Receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.clock import Clock

#: How long a queue that was seen is taken to exist.
KNOWN_S: Final = 60.0


class KnownQueues:
    """Remembers for a while which queues were seen."""

    def __init__(self, names: Names, clock: Clock) -> None:
        """Know nothing yet."""
        self._names = names
        self._clock = clock
        self._until_s: dict[str, float] = {}

    def doubtful(self, queue: str, now_s: float) -> bool:
        """Tell whether a queue was not seen for a while before `now_s` (monotonic)."""
        return self._until_s.get(queue, now_s) <= now_s

    def forget(self, queue: str) -> None:
        """Ask about a queue the next time."""
        self._until_s.pop(queue, None)

    def clear(self) -> None:
        """Ask about every queue the next time."""
        self._until_s.clear()

    async def ask(
        self,
        queues: Collection[str],
        publish: Callable[[Sequence[Raw]], Awaitable[Sequence[Receipt]]],
    ) -> dict[str, Receipt]:
        """Ask the broker, and return what a job becomes for each queue that is not there.

        Args:
            queues: to ask about.
            publish: hands the questions over, each an empty message that a queue's absence returns.

        """
        asked_s, names = self._clock.monotonic_s(), sorted(queues)
        receipts = await publish(
            [Raw(self._names.known, queue, properties(delivery_mode=1), b"") for queue in names]
        )
        absent: dict[str, Receipt] = {}
        for queue, receipt in zip(names, receipts, strict=True):
            if receipt.status is PublishStatus.CONFIRMED:
                self._until_s[queue] = asked_s + KNOWN_S
            elif receipt.status is PublishStatus.TIMEOUT:
                text = f"whether queue {queue!r} exists was not answered in time; nothing was sent"
                absent[queue] = Receipt(PublishStatus.UNAVAILABLE, "", text)
            else:
                absent[queue] = Receipt(receipt.status, "", receipt.detail)
        return absent
