"""The states of a job and the one table of transitions between them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from taskyard.shared.errors import TaskyardError


class State(StrEnum):
    """Where a job stands."""

    PENDING_PUBLISH = "pending_publish"
    """Kept by the producer (spool or outbox) until the broker takes it."""
    SCHEDULED = "scheduled"
    """Due later."""
    WAITING = "waiting"
    """Its predecessors have not all succeeded."""
    QUEUED = "queued"
    """Ready: the next free slot takes it."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Final; the failure kind says why."""
    PARKED = "parked"
    """Set aside for a human; the park reason says why."""
    SUSPENDED = "suspended"
    """Set aside by an operator, without any fault."""
    CANCELLED = "cancelled"


class FailureKind(StrEnum):
    """Why a job is `failed`."""

    ERROR = "error"
    LOGICAL = "logical"
    TIMEOUT = "timeout"
    PREDECESSOR = "predecessor"
    DISCARDED = "discarded"


class ParkReason(StrEnum):
    """Why a job is `parked`."""

    HELD = "held"
    EXHAUSTED = "exhausted"
    POISON = "poison"
    INVALID = "invalid"
    UNKNOWN_TASK = "unknown_task"
    UNDECRYPTABLE = "undecryptable"
    EXPIRED = "expired"
    UNROUTABLE = "unroutable"
    SUSPENDED = "suspended"


class IllegalTransition(TaskyardError):
    """A job was asked to go from one state to another that cannot follow it."""


_S = State
#: Final states have no row in it but those from which an operator may restart a job.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    _S.PENDING_PUBLISH: frozenset({_S.SCHEDULED, _S.WAITING, _S.QUEUED, _S.CANCELLED}),
    _S.SCHEDULED: frozenset({_S.QUEUED, _S.PARKED, _S.SUSPENDED, _S.CANCELLED, _S.SCHEDULED}),
    _S.WAITING: frozenset({_S.QUEUED, _S.SCHEDULED, _S.SUSPENDED, _S.CANCELLED, _S.FAILED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.SCHEDULED, _S.PARKED, _S.SUSPENDED, _S.CANCELLED}),
    _S.RUNNING: frozenset(
        {_S.SUCCEEDED, _S.FAILED, _S.PARKED, _S.SCHEDULED, _S.QUEUED, _S.CANCELLED, _S.SUSPENDED}
    ),
    _S.PARKED: frozenset({_S.QUEUED, _S.SCHEDULED, _S.FAILED, _S.CANCELLED}),
    _S.SUSPENDED: frozenset({_S.QUEUED, _S.SCHEDULED, _S.WAITING, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset({_S.QUEUED, _S.WAITING}),
    _S.FAILED: frozenset({_S.QUEUED, _S.WAITING, _S.SCHEDULED}),
    _S.CANCELLED: frozenset({_S.QUEUED, _S.WAITING}),
}

FINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


def advance(current: State, following: State) -> State:
    """Return the following state.

    Raises:
        IllegalTransition: it cannot follow the current one.

    """
    if following not in TRANSITIONS[current]:
        msg = f"a job that is {current} cannot become {following}"
        raise IllegalTransition(msg)
    return following


#: What a discarded parked job is recorded as: its cause's kind.
DISCARD_KIND: Final[dict[ParkReason, FailureKind]] = {
    ParkReason.HELD: FailureKind.DISCARDED,
    ParkReason.EXHAUSTED: FailureKind.ERROR,
    ParkReason.POISON: FailureKind.ERROR,
    ParkReason.INVALID: FailureKind.DISCARDED,
    ParkReason.UNKNOWN_TASK: FailureKind.DISCARDED,
    ParkReason.UNDECRYPTABLE: FailureKind.DISCARDED,
    ParkReason.EXPIRED: FailureKind.TIMEOUT,
    ParkReason.UNROUTABLE: FailureKind.ERROR,
    ParkReason.SUSPENDED: FailureKind.DISCARDED,
}
