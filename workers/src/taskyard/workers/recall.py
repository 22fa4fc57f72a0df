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
#: Most bytes of what is to be published for them, so that large jobs do not add up to gigabytes.
LIMIT_BYTES: Final = 16 * 1024 * 1024

RunKey = tuple[str, int, str]


def key_of(envelope: Envelope) -> RunKey:
    """Return what stays the same when one publish is delivered again."""
    return (envelope.id, envelope.attempt, envelope.message_id)


class Recall:
    """The settlements that were lost, and the runs settled last; the oldest are forgotten first.

    Of what was settled keys are kept, not bodies, in batches as they were settled: they are looked
    through only when something is redelivered.
    """

    def __init__(
        self,
        limit: int = LIMIT,
        *,
        limit_bytes: int = LIMIT_BYTES,
        settled_limit: int = LIMIT,
    ) -> None:
        """Remember nothing yet.

        Args:
            limit: most lost settlements.
            limit_bytes: most that these are to publish, in bytes of bodies, values and outputs.
            settled_limit: how many of the last settled runs are remembered at least. A broker
                hands over no more than its credit without having seen acknowledgements, so the
                credit of all consumers is enough.

        """
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._settled_limit = settled_limit
        self._settled: deque[list[RunKey]] = deque()
        self._settled_number = 0
        self._known: set[RunKey] | None = None
        self._lost: OrderedDict[RunKey, tuple[Settlement, bool]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many runs are remembered."""
        return len(self._lost)

    def remember(self, settled_limit: int) -> None:
        """Remember at least so many of the last settled runs, if that is more than so far."""
        self._settled_limit = max(self._settled_limit, settled_limit)

    def lost(self, settlement: Settlement) -> None:
        """Remember a settlement that came too late for its delivery."""
        key = key_of(settlement.delivery.envelope)
        if key in self._lost:
            self._forget(key)
        # Its delivery is worth nothing any more, and holds the job's body; another will come.
        kept = msgspec.structs.replace(settlement, delivery=_without_body(settlement.delivery))
        self._lost[key] = (kept, _ran(settlement))
        self._bytes += _bytes_of(kept)
        while len(self._lost) > self._limit or self._bytes > self._limit_bytes:
            self._forget(next(iter(self._lost)))

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
            self._forget(key)
            lost = found[0]
            return msgspec.structs.replace(lost, delivery=delivery, after=lost.delivery)
        return Settlement(delivery=delivery) if self._has_settled(key) else None

    def _has_settled(self, key: RunKey) -> bool:
        if not key[2]:
            return False  # a foreign publish without a message id cannot be told from another
        if self._known is None:
            self._known = {each for batch in self._settled for each in batch}
        return key in self._known

    def losses(self, delivery: Delivery) -> int:
        """Return how many redeliveries of this publish are known to be nobody's fault."""
        found = self._lost.get(key_of(delivery.envelope))
        return int(found is not None and not _recounted(found[0]))

    def _forget(self, key: RunKey) -> None:
        self._bytes -= _bytes_of(self._lost.pop(key)[0])


def _recounted(settlement: Settlement) -> bool:
    """Tell whether it was to charge a delivery, somebody else's: that is still owed."""
    deliveries = settlement.delivery.envelope.deliveries
    return any(copy.deliveries > deliveries for copy in settlement.copies)


def _without_body(delivery: Delivery) -> Delivery:
    envelope = msgspec.structs.replace(delivery.envelope, body=b"")
    return msgspec.structs.replace(delivery, envelope=envelope)


def _bytes_of(settlement: Settlement) -> int:
    """Return how much of a settlement may be large: bodies of jobs, replies, what is recorded."""
    published = [*settlement.copies, *([settlement.park] if settlement.park is not None else [])]
    bodies = sum(len(envelope.body) for envelope in published)
    recorded = 0 if settlement.record is None else settlement.record.bulk
    return bodies + recorded + sum(len(body) for _, body in settlement.replies)


def _ran(settlement: Settlement) -> bool:
    """Tell whether a run ended, so that its outcome stands; a hand-back did not end one."""
    if settlement.record is not None and settlement.record.outcome == "handed_back":
        return False
    return not any(
        copy.attempt == settlement.delivery.envelope.attempt for copy in settlement.copies
    )
