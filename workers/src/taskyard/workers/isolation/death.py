"""What is known of a child process that died, and what that means for its job: pure."""

from __future__ import annotations

import signal

import msgspec

from taskyard.shared.envelope import Envelope
from taskyard.shared.outcomes import HandedBack, Parked
from taskyard.shared.states import ParkReason


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How a child process ended that was running a job.

    Attributes:
        code: its exit code; negative for the signal that ended it.
        out_of_memory: whether the kernel killed a process for want of memory meanwhile; None
            where it does not say.

    """

    code: int
    out_of_memory: bool | None = None

    def __str__(self) -> str:
        """Say it in words."""
        if self.code >= 0:
            said = f"its process ended by itself with exit code {self.code}"
        else:
            said = f"its process was killed by signal {-self.code} ({_name(-self.code)})"
        if self.out_of_memory:
            said += "; the kernel's out-of-memory counter rose meanwhile"
        return said


def outcome_of_death(death: Death, envelope: Envelope, max_deliveries: int) -> HandedBack | Parked:
    """Return how an attempt ends whose process died: charged with a delivery, or as poison."""
    if envelope.deliveries < max_deliveries:
        return HandedBack(reason=str(death), charged=True)
    return Parked(
        reason=ParkReason.POISON,
        detail=(
            f"{death}; that was delivery {envelope.deliveries} of attempt {envelope.attempt} "
            f"(max_deliveries is {max_deliveries})"
        ),
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
