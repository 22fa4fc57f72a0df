"""Which runs of a queue's jobs the feed is told of, by the queue's recording policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from taskyard.shared.outcomes import OUTCOME_NAMES, HandedBack, Outcome, Succeeded
from taskyard.shared.recording import EVERYTHING, Policy, is_owed, tells

if TYPE_CHECKING:
    from taskyard.shared.envelope import Envelope


class Told(NamedTuple):
    """How an end is told; see `settle.Run`."""

    recording: bool = False
    carrying: bool = False
    owed: bool = False


class Telling:
    """What a lane tells; while that is all, nothing else is asked of it.

    Attributes:
        policy: as far as the control log has been read.
        all: whether every job is told of.

    """

    __slots__ = ("all", "policy")

    def __init__(self) -> None:
        """Tell all."""
        self.set(EVERYTHING)

    def set(self, policy: Policy) -> None:
        """Tell by this policy from now on."""
        self.policy = policy
        self.all = policy.jobs == "all"

    def of_run(self, envelope: Envelope) -> bool:
        """Return whether it is told how a run goes while it is under way."""
        return self.all or tells(self.policy.jobs, envelope)

    def of_end(self, envelope: Envelope, outcome: Outcome | None) -> Told:
        """Return whether an end is told, and how."""
        if outcome is None:
            return Told()
        if is_owed(self.policy, envelope):
            return Told(recording=True, owed=True)
        if not tells(self.policy.jobs, envelope, OUTCOME_NAMES[type(outcome)]):
            return Told()
        return Told(recording=True, carrying=not isinstance(outcome, (Succeeded, HandedBack)))
