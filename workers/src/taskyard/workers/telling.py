"""Which runs of a queue's jobs the feed is told of, by the queue's recording policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.outcomes import OUTCOME_NAMES, HandedBack, Outcome, Succeeded
from taskyard.shared.recording import tells

if TYPE_CHECKING:
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.recording import RecordedJobs


class Telling:
    """What a lane tells; while that is all, nothing else is asked of it.

    Attributes:
        jobs: which jobs are recorded, as far as the control log has been read.
        all: whether that is every job.

    """

    __slots__ = ("all", "jobs")

    def __init__(self) -> None:
        """Tell all."""
        self.jobs: RecordedJobs = "all"
        self.all = True

    def set(self, jobs: RecordedJobs) -> None:
        """Tell of these jobs from now on."""
        self.jobs = jobs
        self.all = jobs == "all"

    def of_run(self, envelope: Envelope) -> bool:
        """Return whether it is told how a run goes while it is under way."""
        return self.all or tells(self.jobs, envelope)

    def of_end(self, envelope: Envelope, outcome: Outcome | None) -> tuple[bool, bool]:
        """Return whether an end is told, and whether the record carries the job.

        It does where something is wrong with it: the feed may not know the job before.
        """
        if outcome is None:
            return False, False
        told = tells(self.jobs, envelope, OUTCOME_NAMES[type(outcome)])
        return told, told and not isinstance(outcome, (Succeeded, HandedBack))
