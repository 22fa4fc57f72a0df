"""From a receipt to the error that the sender sees: pure, and in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from taskyard.shared.broker import PublishStatus
from taskyard.shared.clock import to_datetime
from taskyard.shared.errors import (
    Draining,
    PublishError,
    PublishTimeout,
    Rejected,
    SpoolFull,
    Unavailable,
    UnknownQueue,
)
from taskyard.shared.task import declared_queues

if TYPE_CHECKING:
    from taskyard.shared.broker import Receipt
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope


#: Durable somewhere: nothing is left for the sender to do.
DONE: Final = frozenset({PublishStatus.CONFIRMED, PublishStatus.SPOOLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where jobs are sent to, as errors name it.

    Attributes:
        host: of the broker, with its port, or the path of its file; never a password.
        namespace: the prefix of everything that is ours there.

    """

    host: str
    namespace: str

    def __str__(self) -> str:
        """Return both for a sentence."""
        return f"namespace {self.namespace!r} on {self.host}"


def host_of(url: str) -> str:
    """Return the host and port (or path) of each broker of a URL, without user and password."""
    hosts: list[str] = []
    for one in url.split(","):
        parts = urlsplit(one if "://" in one else f"//{one}")
        hosts.append(parts.netloc.rpartition("@")[2] or parts.path[1:] or parts.scheme)
    return ", ".join(hosts)


def error_of(
    receipt: Receipt, envelope: Envelope, place: Place, deadline_s: float
) -> PublishError | None:
    """Return the error that stands for a receipt; None for a confirmed job."""
    if receipt.status in DONE:
        return None
    if receipt.drain is not None:
        what = f"job {envelope.id} ({envelope.task}) was not sent to {place}"
        return draining(receipt.drain, what, job_id=envelope.id, queue=envelope.queue)
    kind, text = _explain(receipt, envelope, place, deadline_s)
    if receipt.detail:
        text += f" ({receipt.detail})"
    return kind(text, job_id=envelope.id, queue=envelope.queue)


def draining(drain: ControlRecord, what: str, *, job_id: str = "", queue: str = "") -> Draining:
    """Return the error that says by whose intent nothing new is sent.

    Args:
        drain: the intent.
        what: became of what was to be sent, in words.
        job_id: of the job, if it is about one.
        queue: of the job.

    """
    reason = (drain.body or {}).get("reason")
    by = f" by {drain.by}" if drain.by else ""
    since = f" since {_time(drain.at)}" if drain.at else ""
    until = f" until {_time(drain.expires)}" if drain.expires is not None else ""
    error = Draining(
        f"{what}: operators want no new jobs now (drained{by}{since}{until}"
        + (f": {reason}" if reason else "")
        + "); send it again "
        + ("then" if until else "when `taskyard drain off` has ended that"),
        job_id=job_id,
        queue=queue,
    )
    error.by, error.reason = drain.by, str(reason or "")
    error.since_ms, error.until_ms = drain.at, drain.expires
    return error


def _time(instant_ms: int) -> str:
    return to_datetime(instant_ms).strftime("%Y-%m-%dT%H:%M:%SZ")


def _explain(
    receipt: Receipt, envelope: Envelope, place: Place, deadline_s: float
) -> tuple[type[PublishError], str]:
    job = f"job {envelope.id} ({envelope.task})"
    match receipt.status:
        case PublishStatus.UNROUTABLE:
            return UnknownQueue, (
                f"queue {envelope.queue!r} does not exist in {place}; {job} was not sent. "
                + _hint(envelope.queue)
            )
        case PublishStatus.REJECTED:
            return Rejected, f"{job} was refused by the broker, {place}; nothing was stored"
        case PublishStatus.TIMEOUT:
            # The detail says what else ended the wait before its time, such as a lost connection.
            when = "" if receipt.detail else f" within {deadline_s:g} s"
            return PublishTimeout, (
                f"{job} was not confirmed{when} by {place}; it may have been stored. "
                "Sending the same job again keeps its id"
            )
        case PublishStatus.SPOOL_FULL:
            return SpoolFull, (
                f"{job} was not sent: no connection to the broker, {place}, and no room in the "
                "spool; nothing was stored. Send it again later, or raise TASKYARD_SPOOL_LIMIT"
            )
        case _:
            return Unavailable, (
                f"{job} was not sent: no connection to the broker, {place}, took it "
                f"within {deadline_s:g} s"
            )


def _hint(queue: str) -> str:
    declared = declared_queues()
    if queue in declared:
        return (
            "It is declared in this process: create it with `taskyard broker apply MODULE`. "
            f"Declared here: {', '.join(declared)}"
        )
    from difflib import get_close_matches

    near = get_close_matches(queue, declared, n=1)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    return f"{meant}Queues declared in this process: {', '.join(declared) or 'none'}"
