"""What the log says of attempts: one line for each that did not succeed, never a payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskyard.shared.logs import get_logger
from taskyard.shared.outcomes import Cancelled, HandedBack, Outcome, Parked, Retried

if TYPE_CHECKING:
    from taskyard.shared.envelope import Envelope

_log = get_logger(__name__)

#: Longest error text in a log line, in characters; the whole of it travels with the job.
_MESSAGE_LIMIT = 500


def fields_of(envelope: Envelope) -> dict[str, Any]:
    """Return what a log line says of an attempt."""
    return {
        "job_id": envelope.id,
        "task": envelope.task,
        "queue": envelope.queue,
        "attempt": envelope.attempt,
        "deliveries": envelope.deliveries,
    }


def report_success(envelope: Envelope) -> None:
    """Say at level debug that an attempt succeeded."""
    _log.debug("attempt succeeded", **fields_of(envelope))


def report_end(envelope: Envelope, outcome: Outcome) -> None:
    """Say how an attempt ended that did not succeed."""
    if isinstance(outcome, HandedBack) and outcome.charged:
        _log.warning("a job's process died", **fields_of(envelope), reason=outcome.reason)
        return
    if isinstance(outcome, HandedBack):
        _log.info("attempt handed back", **fields_of(envelope), reason=outcome.reason)
        return
    if isinstance(outcome, Cancelled):
        _log.info("job cancelled", **fields_of(envelope), by=outcome.by, aborted=outcome.aborted)
        return
    error = getattr(outcome, "error", None)
    _log.warning(
        "attempt failed",
        **fields_of(envelope),
        outcome=type(outcome).__name__.lower(),
        detail=_detail(outcome),
        error=error.type if error else None,
        message=error.message[:_MESSAGE_LIMIT] if error else None,
    )


def report_refusal(envelope: Envelope, outcome: Outcome) -> None:
    """Say what became of a delivery that was not run."""
    if isinstance(outcome, Parked):
        _log.warning(
            "job parked", **fields_of(envelope), reason=outcome.reason.value, detail=outcome.detail
        )
    elif isinstance(outcome, Cancelled):
        _log.info("job cancelled", **fields_of(envelope), by=outcome.by, aborted=False)


def report_superseded(envelope: Envelope) -> None:
    """Say that a message was given up because its job was changed since."""
    _log.info(
        "a message was given up: its job was changed since",
        **fields_of(envelope),
        generation=envelope.generation,
    )


def _detail(outcome: Outcome) -> str:
    if isinstance(outcome, Retried):
        return f"next attempt in {outcome.delay_ms / 1000:g} s"
    if isinstance(outcome, Parked):
        return f"{outcome.reason.value}: {outcome.detail}"
    return str(getattr(outcome, "message", ""))
