"""What the ledger is to know of a queue's jobs: a policy, and what follows from it.

A policy is declared with the queue. `taskyard broker apply` writes it into the control log, where
workers and coordinators find it, and takes a queue that is not recorded in full out of the feed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from taskyard.shared.control import ControlRecord
from taskyard.shared.topology import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.topology import Key, Value

#: Which jobs: all, those that fail, or none.
RecordedJobs = Literal["all", "failures", "none"]
#: What of their arguments: in full, their names without the values, or nothing.
RecordedArguments = Literal["full", "redacted", "none"]

_OP: Final = "record"
_PREFIX: Final = "recording:"
_SUFFIX: Final = ":policy"

#: Of a first attempt, what a queue that records failures does not tell.
_QUIET: Final = frozenset({"", "succeeded", "handed_back"})


@dataclass(frozen=True, slots=True)
class Policy:
    """What the ledger is to know of a queue's jobs.

    Attributes:
        jobs: which of them.
        arguments: what of their arguments.
        since_ms: when that was declared; the ledger knows jobs from before, and is told their ends.

    """

    jobs: RecordedJobs = "all"
    arguments: RecordedArguments = "full"
    since_ms: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"jobs: {self.jobs}, arguments: {self.arguments}"


EVERYTHING: Final = Policy()


def tells(jobs: RecordedJobs, about: Envelope | FeedRecord, outcome: str = "") -> bool:
    """Return whether a fact about a job is for the ledger.

    Where failures are recorded, a job whose first attempt went well is never heard of; once an
    attempt did not, all that comes after is told, so that the job does not look unfinished for ever.

    Args:
        jobs: which jobs are recorded.
        about: the job as it was published, or a record of its run.
        outcome: of the run, as records name it; empty while there is none.

    """
    if jobs == "all":
        return True
    known = about.attempt > 1 or about.generation > 1
    return jobs == "failures" and (known or outcome not in _QUIET)


def is_owed(policy: Policy, envelope: Envelope) -> bool:
    """Return whether a job is older than its queue's policy: what has begun is told to its end."""
    return envelope.enqueued_ms is not None and envelope.enqueued_ms < policy.since_ms


def policy_record(queue: str, policy: Policy, *, by: str, at_ms: int) -> ControlRecord:
    """Return the record that tells all of a queue's policy."""
    body: dict[str, object] = {"jobs": policy.jobs, "arguments": policy.arguments}
    return ControlRecord(key=f"{_PREFIX}{queue}{_SUFFIX}", op=_OP, by=by, at=at_ms, body=body)


def policies_of(records: Mapping[str, ControlRecord]) -> dict[str, Policy]:
    """Return the policies among control records, by queue."""
    return {
        key[len(_PREFIX) : -len(_SUFFIX)]: _read(record)
        for key, record in records.items()
        if key.startswith(_PREFIX) and key.endswith(_SUFFIX)
    }


def policy_of(records: Mapping[str, ControlRecord], queue: str) -> Policy:
    """Return the policy of a queue among control records; without one, everything is recorded."""
    record = records.get(f"{_PREFIX}{queue}{_SUFFIX}")
    return EVERYTHING if record is None else _read(record)


def _read(record: ControlRecord) -> Policy:
    """Read a policy of any origin: what this version does not know keeps arguments to itself."""
    body: dict[str, Any] = dict(record.body or {})
    jobs, arguments = body.get("jobs", "all"), body.get("arguments", "full")
    return Policy(
        cast("RecordedJobs", jobs) if jobs in get_args(RecordedJobs) else "all",
        cast("RecordedArguments", arguments)
        if arguments in get_args(RecordedArguments)
        else "none",
        record.at,
    )


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A queue whose published jobs are not in the feed, in a broker that has no bindings."""

    queue: str

    @property
    def key(self) -> Key:
        """It is known by the queue's name."""
        return ("left-out", self.queue)

    @property
    def stage(self) -> Stage:
        """It comes with the queue."""
        return Stage.QUEUE

    def facets(self) -> Mapping[str, Value]:
        """It has nothing but its name."""
        return {}

    def ends(self) -> Sequence[Key]:
        """It goes with the queue."""
        return (("work-queue", self.queue),)
