"""What this process remembers of runs whose delivery died before it could be settled.

The broker hands such a job over again, flagged as redelivered, though no worker died. Where it
comes back to the worker that had it, the end of its run is known: it is settled, not run again, and
nobody is charged.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from taskyard.shared.broker import Delivery, Settlement
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
    """The settlements that were lost, by run; the oldest are forgotten first."""

    def __init__(self, limit: int = LIMIT, limit_bytes: int = LIMIT_BYTES) -> None:
        """Remember nothing yet, and at most `limit` runs of `limit_bytes` in all."""
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lost: OrderedDict[RunKey, tuple[Settlement, bool]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many runs are remembered."""
        return len(self._lost)

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

    def settle_again(self, delivery: Delivery) -> Settlement | None:
        """Return how a run ended whose delivery has come back; None when it has to run."""
        key = key_of(delivery.envelope)
        found = self._lost.get(key)
        if found is None or not found[1]:
            return None
        self._forget(key)
        return msgspec.structs.replace(found[0], delivery=delivery)

    def losses(self, delivery: Delivery) -> int:
        """Return how many redeliveries of this publish are known to be nobody's fault."""
        found = self._lost.get(key_of(delivery.envelope))
        return int(found is not None and not _recounted(found[0]))


def _recounted(settlement: Settlement) -> bool:
    """Tell whether it was to charge a delivery, somebody else's: that is still owed."""
    deliveries = settlement.delivery.envelope.deliveries
    return any(copy.deliveries > deliveries for copy in settlement.copies)

    def _forget(self, key: RunKey) -> None:
        self._bytes -= _bytes_of(self._lost.pop(key)[0])


def _without_body(delivery: Delivery) -> Delivery:
    envelope = msgspec.structs.replace(delivery.envelope, body=b"")
    return msgspec.structs.replace(delivery, envelope=envelope)


def _bytes_of(settlement: Settlement) -> int:
    """Return how much of a settlement may be large: the bodies of jobs, and replies."""
    published = [*settlement.copies, *([settlement.park] if settlement.park is not None else [])]
    bodies = sum(len(envelope.body) for envelope in published)
    return bodies + sum(len(body) for _, body in settlement.replies)


def _ran(settlement: Settlement) -> bool:
    """Tell whether a run ended, so that its outcome stands; a hand-back did not end one."""
    if settlement.record is not None and settlement.record.outcome == "handed_back":
        return False
    return not any(
        copy.attempt == settlement.delivery.envelope.attempt for copy in settlement.copies
    )
