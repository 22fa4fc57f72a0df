"""How one attempt can end: a closed set of values, and what a handler raises to choose one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from taskyard.shared.states import FailureKind, ParkReason

if TYPE_CHECKING:
    from taskyard.shared.duration import Duration
    from taskyard.shared.priority import Priority


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An exception as it travels: in records, replies and parked jobs.

    Attributes:
        type: the exception's qualified class name.
        message: its text.
        traceback: the formatted traceback, the oldest frames cut first.
        fingerprint: class and call site, equal for failures of one cause.

    """

    type: str
    message: str = ""
    traceback: str = ""
    fingerprint: str = ""


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The handler returned; `ok` is what it said of its own success, None if it said nothing."""

    value: object = None
    ok: str | None = None


class Retried(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A further attempt follows after `delay_ms`, at `priority` (None keeps the job's own)."""

    delay_ms: int
    priority: int | None = None
    error: ErrorInfo | None = None


class Parked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job is set aside for a human."""

    reason: ParkReason
    detail: str = ""
    error: ErrorInfo | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job is over without success."""

    kind: FailureKind
    message: str = ""
    error: ErrorInfo | None = None


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An operator took the job back; `aborted` when it was running."""

    by: str = ""
    aborted: bool = False


class HandedBack(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker did not finish it and gives it to another.

    Attributes:
        reason: why, in words.
        charged: it counts as one delivery more, because the job's process died of it.

    """

    reason: str = "stopping"
    charged: bool = False


Outcome = Succeeded | Retried | Parked | Failed | Cancelled | HandedBack

#: The value of the label `outcome` and of a record's `outcome`, per class.
OUTCOME_NAMES: dict[type, str] = {
    Succeeded: "succeeded",
    Retried: "retried",
    Parked: "parked",
    Failed: "failed",
    Cancelled: "cancelled",
    HandedBack: "handed_back",
}


class Verdict(Exception):  # raised to say how a job ends, not because of a fault
    """What a handler raises to end its attempt in another way than by returning."""


class Retry(Verdict):
    """Run the job again; it counts as an attempt.

    Args:
        delay: seconds (or text such as `5m`); None takes the policy's gap.
        priority: of the next attempt; None keeps the job's.
        reason: kept with the attempt.

    """

    def __init__(
        self,
        reason: str = "",
        *,
        delay: Duration | None = None,
        priority: Priority | None = None,
    ) -> None:
        super().__init__(reason or "the handler asked for a retry")
        self.delay = delay
        self.priority = priority


class Hold(Verdict):
    """Park the job for a human, with this reason; it is not tried again by itself."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler put the job on hold")


class Fail(Verdict):
    """End the job as failed by its own logic (kind `logical`); it is not tried again."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or "the handler failed the job")
