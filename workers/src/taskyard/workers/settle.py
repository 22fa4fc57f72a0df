"""From an outcome to what the broker has to do: one pure function per class of outcome."""

from __future__ import annotations

import math
from typing import Final, assert_never

import msgspec

from taskyard.shared.broker import Delivery, Settlement
from taskyard.shared.envelope import Envelope, Parking
from taskyard.shared.feed import (
    FINISHED,
    PROGRESSED,
    STARTED,
    FeedRecord,
    Progress,
    encode_reply,
)
from taskyard.shared.invoke import encode_result, reply_of
from taskyard.shared.outcomes import (
    OUTCOME_NAMES,
    Cancelled,
    ErrorInfo,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Retried,
    Succeeded,
)

#: Most characters of the note with a job's progress.
NOTE_MAX: Final = 200


class Run(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The facts of a run that ended, or of a delivery that will not be run.

    Attributes:
        delivery: what is settled.
        envelope: its job, with the deliveries as they are counted.
        at_ms: when it ended, in milliseconds since the epoch.
        started_ms: when it started; None when it never did.
        recording: whether the feed wants a record.
        carrying: the feed does not know the job, so the record has to carry it.
        owed: it is told because the job is older than what its queue records.
        output: what is kept of what it printed and logged.
        worker: `host:pid`.

    """

    delivery: Delivery
    envelope: Envelope
    at_ms: int
    started_ms: int | None = None
    recording: bool = False
    carrying: bool = False
    owed: bool = False
    output: str = ""
    worker: str = ""


def settle(outcome: Outcome, run: Run) -> Settlement:
    """Return how the delivery of a run ends whose outcome is known."""
    match outcome:
        case Succeeded():
            return _succeeded(outcome, run)
        case Retried():
            return _retried(outcome, run)
        case Parked():
            return _parked(outcome, run)
        case Failed():
            return _failed(outcome, run)
        case Cancelled():
            return _cancelled(outcome, run)
        case HandedBack():
            return _handed_back(outcome, run)
        case _:
            assert_never(outcome)


def started_record(envelope: Envelope, *, started_ms: int, worker: str) -> FeedRecord:
    """Return the record that an attempt has begun."""
    wait_ms = _wait_ms(envelope, started_ms)
    return FeedRecord.of(envelope, STARTED, at_ms=started_ms, worker=worker, wait_ms=wait_ms)


def progress_record(
    envelope: Envelope,
    progress: tuple[float, float | None, str],
    *,
    started_ms: int,
    now_ms: int,
    worker: str,
) -> FeedRecord | None:
    """Return the record of how far an attempt says that it is; None where that are no numbers."""
    done, of, note = progress
    if not _is_number(done) or not (of is None or _is_number(of)):
        return None
    return FeedRecord.of(
        envelope,
        PROGRESSED,
        at_ms=now_ms,
        worker=worker,
        run_ms=max(now_ms - started_ms, 0),
        progress=Progress(float(done), None if of is None else float(of), str(note)[:NOTE_MAX]),
    )


def _is_number(value: object) -> bool:
    """Tell whether a handler's number is one in JSON, which knows no infinity."""
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _succeeded(outcome: Succeeded, run: Run) -> Settlement:
    if not run.recording and not run.envelope.reply:
        return Settlement(delivery=run.delivery)
    value, problem = (None, "") if outcome.value is None else encode_result(outcome.value)
    return Settlement(
        delivery=run.delivery,
        record=_record(outcome, run, detail=problem, value=value, ok=outcome.ok),
        replies=_replies(outcome, run, value=value, problem=problem) if run.envelope.reply else (),
    )


def _retried(outcome: Retried, run: Run) -> Settlement:
    envelope = run.envelope
    due_ms = run.at_ms + outcome.delay_ms
    copy = msgspec.structs.replace(
        envelope,
        attempt=envelope.attempt + 1,
        deliveries=1,
        not_before_ms=due_ms,
        priority=envelope.priority if outcome.priority is None else outcome.priority,
        message_id="",
        parking=None,
    )
    return Settlement(
        delivery=run.delivery,
        copies=(copy,),
        record=_record(outcome, run, error=outcome.error, due=due_ms),
    )


def _parked(outcome: Parked, run: Run) -> Settlement:
    parking = Parking(
        reason=outcome.reason.value,
        at_ms=run.at_ms,
        detail=outcome.detail,
        error=outcome.error,
        worker=run.worker,
    )
    return Settlement(
        delivery=run.delivery,
        park=msgspec.structs.replace(run.envelope, parking=parking, message_id=""),
        record=_record(outcome, run, detail=outcome.reason.value, error=outcome.error),
        replies=_replies(outcome, run),
    )


def _failed(outcome: Failed, run: Run) -> Settlement:
    kind, error = outcome.kind.value, outcome.error
    return Settlement(
        delivery=run.delivery,
        record=_record(
            outcome, run, detail=kind, error=error or _message_only(kind, outcome.message)
        ),
        replies=_replies(outcome, run),
    )


def _cancelled(outcome: Cancelled, run: Run) -> Settlement:
    return Settlement(
        delivery=run.delivery,
        record=_record(outcome, run, detail="aborted" if outcome.aborted else ""),
        replies=_replies(outcome, run),
    )


def _handed_back(outcome: HandedBack, run: Run) -> Settlement:
    deliveries = run.envelope.deliveries + outcome.charged
    copy = msgspec.structs.replace(run.envelope, deliveries=deliveries, message_id="")
    return Settlement(
        delivery=run.delivery,
        copies=(copy,),
        record=_record(outcome, run, detail=outcome.reason),
    )


def _record(
    outcome: Outcome,
    run: Run,
    *,
    detail: str = "",
    error: ErrorInfo | None = None,
    value: msgspec.Raw | None = None,
    ok: str | None = None,
    due: int | None = None,
) -> FeedRecord | None:
    if not run.recording:
        return None
    envelope, at_ms, started_ms = run.envelope, run.at_ms, run.started_ms
    wait_ms: int | None = None
    run_ms: int | None = None
    if started_ms is not None:
        wait_ms = _wait_ms(envelope, started_ms)
        run_ms = at_ms - started_ms if at_ms > started_ms else 0
    # As `FeedRecord.of`, but made for each job: Python hands many names, and `**facts`, over in a
    # dictionary, which costs more than the record. Hence whose run it is goes by place, and what
    # few records have is added to these.
    record = FeedRecord(
        FINISHED,
        envelope.id,
        envelope.queue,
        envelope.task,
        envelope.attempt,
        envelope.deliveries,
        envelope.message_id,
        at_ms,
        envelope.generation,
        outcome=OUTCOME_NAMES[type(outcome)],
        detail=detail,
        due=due,
        wait_ms=wait_ms,
        run_ms=run_ms,
        error=error,
        value=value,
        ok=ok,
        worker=run.worker,
        output=run.output,
    )
    if run.carrying or run.owed:
        request = envelope if run.carrying else None
        return msgspec.structs.replace(record, request=request, owed=run.owed)
    return record


def _replies(
    outcome: Outcome, run: Run, *, value: msgspec.Raw | None = None, problem: str = ""
) -> tuple[tuple[str, bytes], ...]:
    if not run.envelope.reply:
        return ()
    reply = reply_of(run.envelope, outcome, value, problem)
    if reply is None:
        return ()
    body = encode_reply(reply)
    return tuple((address, body) for address in run.envelope.reply)


def _message_only(kind: str, message: str) -> ErrorInfo:
    return ErrorInfo(type=kind, message=message, fingerprint=kind)


def _wait_ms(envelope: Envelope, started_ms: int) -> int | None:
    due_ms = envelope.not_before_ms or envelope.enqueued_ms  # `due_ms`, in line
    if not due_ms:
        return None
    return started_ms - due_ms if started_ms > due_ms else 0
