"""What this process remembers of runs whose delivery comes again though their end is known.

The broker hands a job over again, flagged as redelivered, when the connection dies before the
acknowledgement has reached it, though no worker died. Where it comes back to the worker that had
it, it is not run again, and nobody is charged: what could not be settled is settled, and what was
settled is only acknowledged. The latter has to be remembered because an acknowledgement is never
confirmed: one that was written to a dying socket looks like any other.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.broker import Settlement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Delivery
    from taskyard.shared.envelope import Envelope

#: Most runs remembered: a connection holds at most its credit, and a few may be lost in a row.
LIMIT: Final = 4096

RunKey = tuple[str, int, str]


def key_of(envelope: Envelope) -> RunKey:
    """Return what stays the same when one publish is delivered again."""
    return (envelope.id, envelope.attempt, envelope.message_id)


class Recall:
    """The settlements that were lost, and the runs settled last; the oldest are forgotten first.

    Of what was settled keys are kept, not bodies, in batches as they were settled: they are looked
    through only when something is redelivered.
    """

    def __init__(self, limit: int = LIMIT, *, settled_limit: int = LIMIT) -> None:
        """Remember nothing yet.

        Args:
            limit: most lost settlements.
            settled_limit: how many of the last settled runs are remembered at least. A broker
                hands over no more than its credit without having seen acknowledgements, so the
                credit of all consumers is enough.

        """
        self._limit = limit
        self._settled_limit = settled_limit
        self._settled: deque[list[RunKey]] = deque()
        self._settled_number = 0
        self._known: set[RunKey] | None = None
        self._lost: OrderedDict[RunKey, tuple[Settlement, bool]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many runs are remembered."""
        return len(self._lost)

    def lost(self, settlement: Settlement) -> None:
        """Remember a settlement that came too late for its delivery."""
        envelope = settlement.delivery.envelope
        self._lost[key_of(envelope)] = (settlement, _ran(settlement))
        self._lost.move_to_end(key_of(envelope))
        if len(self._lost) > self._limit:
            self._lost.popitem(last=False)

    def settled(self, batch: Sequence[Settlement]) -> None:
        """Remember runs whose outcomes stand, although their acknowledgements may be lost."""
        self._settled.append([key_of(settlement.delivery.envelope) for settlement in batch])
        self._settled_number += len(batch)
        self._known = None
        while self._settled_number - len(self._settled[0]) >= self._settled_limit:
            self._settled_number -= len(self._settled.popleft())

    def settle_again(self, delivery: Delivery) -> Settlement | None:
        """Return how to settle a delivery that has come back; None when it has to run."""
        key = key_of(delivery.envelope)
        found = self._lost.get(key)
        if found is not None and found[1]:
            del self._lost[key]
            return msgspec.structs.replace(found[0], delivery=delivery)
        return Settlement(delivery=delivery) if self._has_settled(key) else None

    def _has_settled(self, key: RunKey) -> bool:
        if not key[2]:
            return False  # a foreign publish without a message id cannot be told from another
        if self._known is None:
            self._known = {each for batch in self._settled for each in batch}
        return key in self._known

    def losses(self, delivery: Delivery) -> int:
        """Return how many redeliveries of this publish are known to be nobody's fault."""
        return int(key_of(delivery.envelope) in self._lost)


def _ran(settlement: Settlement) -> bool:
    """Tell whether a run ended, so that its outcome stands; a hand-back did not end one."""
    if settlement.record is not None and settlement.record.outcome == "handed_back":
        return False
    return not any(
        copy.attempt == settlement.delivery.envelope.attempt for copy in settlement.copies
    )
