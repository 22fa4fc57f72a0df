"""From an admission that is not to run to what the broker has to do: pure, as `settle` is."""

from __future__ import annotations

from typing import Final, assert_never

import msgspec

from taskyard.shared.broker import Settlement
from taskyard.shared.envelope import Envelope
from taskyard.shared.outcomes import Cancelled, HandedBack, Outcome, Parked
from taskyard.workers.admit import (
    Admission,
    Cancel,
    Defer,
    Drop,
    Mint,
    Park,
    Recount,
    Requeue,
    Run,
)
from taskyard.workers.settle import Run as Facts, settle

#: How long a job that is about to be changed is put off at a time, in milliseconds: a change takes
#: a little more than a second where a coordinator runs.
DEFERRED_MS: Final = 1000
#: Where none runs it takes until there is one, and each time costs a publish, which the feed holds
#: too. So after a while a job is put off for this part of the time since it was asked for, to this.
_PART: Final = 4
DEFERRED_MOST_MS: Final = 30_000


def outcome_of(admission: Admission) -> Outcome | None:
    """Return the outcome that an unrun delivery has; None when it only changes its form."""
    match admission:
        case Park(reason, detail):
            return Parked(reason=reason, detail=detail)
        case Cancel(by):
            return Cancelled(by=by)
        case Run():
            return HandedBack(reason="not started")
        case Recount() | Mint() | Requeue() | Drop() | Defer():
            return None
        case _:
            assert_never(admission)


def refuse(admission: Admission, facts: Facts) -> Settlement:
    """Return how a delivery ends that is not run here; one that could run is handed back."""
    outcome = outcome_of(admission)
    if outcome is not None:
        return settle(outcome, facts)
    if isinstance(admission, Drop):
        return Settlement(delivery=facts.delivery)
    copy = facts.envelope
    if isinstance(admission, Recount):
        copy = recounted(copy)
    elif isinstance(admission, Defer):
        due_ms = facts.at_ms + _deferred_ms(admission.asked_ms, facts.at_ms)
        # If nothing comes of the change, it is due when it was.
        copy = msgspec.structs.replace(copy, not_before_ms=max(due_ms, copy.not_before_ms or 0))
    return Settlement(
        delivery=facts.delivery, copies=(msgspec.structs.replace(copy, message_id=""),)
    )


def _deferred_ms(asked_ms: int | None, now_ms: int) -> int:
    if asked_ms is None:
        return DEFERRED_MS
    return min(max((now_ms - asked_ms) // _PART, DEFERRED_MS), DEFERRED_MOST_MS)


def recounted(envelope: Envelope) -> Envelope:
    """Return the envelope with one delivery more."""
    return msgspec.structs.replace(envelope, deliveries=envelope.deliveries + 1)
