"""Why a job is not running: the one cause that has to go first, with what shows it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskyard.shared.clock import to_datetime
from taskyard.shared.states import FINAL, State

if TYPE_CHECKING:
    from taskyard.ledger.lookup import History
    from taskyard.shared.broker import QueueStats
    from taskyard.shared.control import ControlRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a job and of what it waits for.

    Attributes:
        history: of the job, as the ledger has it.
        now_ms: the broker's instant.
        queue: in numbers, as the broker has it.
        pause: the intent that pauses its queue, if one does.
        cancel: the intent that cancels it, if one does.
        ahead: jobs that are due in its queue and go before it; `more`: at least so many.
        more: see `ahead`.
        running: jobs of its queue that run, as the ledger has it.

    """

    history: History
    now_ms: int
    queue: QueueStats
    pause: ControlRecord | None = None
    cancel: ControlRecord | None = None
    ahead: int = 0
    more: bool = False
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why, in a word for programs, in a sentence for people, and what shows it."""

    cause: str
    text: str
    evidence: dict[str, object]


def explain(facts: Facts) -> Explanation:
    """Return why a job is not running, or that it is, or how it ended."""
    state = State(facts.history.job.state)
    if state in FINAL:
        return _over(facts)
    if state is State.PARKED:
        return _parked(facts)
    if state is State.RUNNING:
        return _running(facts)
    if state is State.SUSPENDED:
        return _suspended(facts)
    return _held_up(facts) or _in_line(facts)


def _over(facts: Facts) -> Explanation:
    job = facts.history.job
    why = f" ({job.detail})" if job.detail else ""
    return Explanation(
        cause=job.state,
        text=f"it is over: {job.state}{why} at {_at(job.ended_ms)}, in attempt {job.attempt}",
        evidence={"ended_at": _at(job.ended_ms), "worker": job.worker, "error": _error(facts)},
    )


def _parked(facts: Facts) -> Explanation:
    job = facts.history.job
    error = _error(facts)
    return Explanation(
        cause="parked",
        text=f"it waits for a human: parked as {job.detail} at {_at(job.ended_ms)}"
        + (f", {error}" if error else "")
        + f"; `taskyard parked release {job.id}` lets it go on",
        evidence={"reason": job.detail, "parked_at": _at(job.ended_ms), "error": error},
    )


def _suspended(facts: Facts) -> Explanation:
    job = facts.history.job
    return Explanation(
        cause="suspended",
        text=f"an operator has suspended it at {_at(job.ended_ms)}; `taskyard jobs resume {job.id}` "
        f"lets it go on, and `taskyard audit --subject job:{job.id}` says who",
        evidence={"suspended_at": _at(job.ended_ms)},
    )


def _running(facts: Facts) -> Explanation:
    job = facts.history.job
    since_ms = job.started_ms or facts.now_ms
    overdue = job.ttr_ms is not None and facts.now_ms - since_ms > job.ttr_ms
    return Explanation(
        cause="running",
        text=f"it runs: since {_at(since_ms)} on {job.worker}, attempt {job.attempt}"
        + (
            "; that is longer than its time to run: either it touches it, or its worker is gone and "
            "it comes again"
            if overdue
            else ""
        ),
        evidence={"started_at": _at(since_ms), "worker": job.worker, "ttr_ms": job.ttr_ms},
    )


def _held_up(facts: Facts) -> Explanation | None:
    """Return what keeps a job from starting, whoever else is in its queue."""
    job, queue, pause = facts.history.job, facts.queue, facts.pause
    if facts.cancel is not None:
        return Explanation(
            cause="cancelled",
            text=f"{facts.cancel.by} has cancelled it at {_at(facts.cancel.at)}: it will not start, "
            "and is given up when a worker gets it",
            evidence={"by": facts.cancel.by, "at": _at(facts.cancel.at)},
        )
    if not queue.exists:
        return Explanation(
            cause="no_queue",
            text=f"the broker has no queue {job.queue}: `taskyard broker apply` makes it",
            evidence={"queue": job.queue},
        )
    if job.due_ms is not None and job.due_ms > facts.now_ms:
        return _not_due(facts, job.due_ms)
    if pause is not None:
        until = f" until {_at(pause.expires)}" if pause.expires is not None else ""
        reason = (pause.body or {}).get("reason")
        return Explanation(
            cause="paused",
            text=f"queue {job.queue} is paused by {pause.by} since {_at(pause.at)}{until}"
            + (f": {reason}" if reason else ""),
            evidence={"by": pause.by, "at": _at(pause.at), "until": _at(pause.expires)},
        )
    if queue.consumers == 0:
        return Explanation(
            cause="no_worker",
            text=f"no worker consumes queue {job.queue}",
            evidence={"queue": job.queue, "consumers": 0, "ready": queue.ready},
        )
    return None


def _not_due(facts: Facts, due_ms: int) -> Explanation:
    last = facts.history.runs[-1] if facts.history.runs else None
    if last is not None and last.outcome == "retried" and last.due_ms == due_ms:
        error = f"{last.error_type}: {last.error_message}" if last.error_type else "asked for"
        return Explanation(
            cause="retry",
            text=f"attempt {last.attempt} is to be tried again at {_at(due_ms)}: {error}",
            evidence={"due_at": _at(due_ms), "attempt": last.attempt, "error": error},
        )
    return Explanation(
        cause="scheduled",
        text=f"it is due at {_at(due_ms)}",
        evidence={"due_at": _at(due_ms), "in_ms": due_ms - facts.now_ms},
    )


def _in_line(facts: Facts) -> Explanation:
    """Return what a job waits for that nothing holds up: its turn, or the broker has lost it."""
    job, queue = facts.history.job, facts.queue
    shown: dict[str, object] = {
        "ahead": facts.ahead,
        "priority": job.priority,
        "ready": queue.ready,
        "unsettled": queue.unsettled,
        "consumers": queue.consumers,
        "running": facts.running,
    }
    if not queue.ready and not queue.unsettled:
        return Explanation(
            cause="missing",
            text=f"queue {job.queue} of the broker is empty: the job is on its way, or its end is "
            "not in the ledger yet; if this stays so, `taskyard reconcile` tells whether it was lost",
            evidence=shown,
        )
    if facts.ahead:
        number = f"{facts.ahead}{' or more' if facts.more else ''}"
        return Explanation(
            cause="behind",
            text=f"{number} jobs of queue {job.queue} go before it, at priority {job.priority} or "
            f"higher; {facts.running} are running",
            evidence=shown,
        )
    return Explanation(
        cause="next",
        text=f"it is next in queue {job.queue}: all slots are taken, or a worker has it in hand "
        f"({queue.unsettled if queue.unsettled is not None else facts.running} are)",
        evidence=shown,
    )


def _error(facts: Facts) -> str | None:
    job = facts.history.job
    return f"{job.error_type}: {job.error_message}" if job.error_type else None


def _at(instant_ms: int | None) -> str | None:
    """Return an instant as ISO text in UTC, to the second."""
    return None if instant_ms is None else to_datetime(instant_ms).strftime("%Y-%m-%dT%H:%M:%SZ")
