"""What becomes of a job that is to be changed or cancelled, given where it stands: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.broker_setup.editing import check_open, check_sealed, with_arguments
from taskyard.ledger.history import ENDED, SET_ASIDE, job_of_envelope, peek, rank_of, unpack
from taskyard.ledger.recording import NotRecorded
from taskyard.shared.changes import published_by
from taskyard.shared.envelope import UNREADABLE, Parking
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.intents import was_restarted
from taskyard.shared.states import FINAL, ParkReason, State
from taskyard.shared.wire import CHANGED

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

    from taskyard.ledger.rows import Job
    from taskyard.shared.changes import Asked
    from taskyard.shared.envelope import Envelope

UNKNOWN: Final = "the ledger knows no such job"


@dataclass(frozen=True, slots=True)
class Publish:
    """Send it to its queue, in its new form."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class SetAside:
    """Put it into its queue's parking lot, in its new form."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Take its old form out of the parking lot, and send the new one to its queue."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Replace:
    """Take its old form out of the parking lot, and put the new one there."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Done:
    """It is changed already: whoever did it died before it could say so."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Refuse:
    """Leave it as it is, because."""

    text: str


@dataclass(frozen=True, slots=True)
class End:
    """Say that it is cancelled; what is aside is taken out of its parking lot."""

    envelope: Envelope
    text: str
    aside: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """The intent is all that it takes: whoever meets the job acts on it."""

    text: str


Step = Publish | SetAside | TakeUp | Replace | Done | Refuse

#: What of a row these decisions look at.
COLUMNS: Final = (
    "id",
    "state",
    "attempt",
    "generation",
    "deliveries",
    "worker",
    "started_ms",
    "envelope",
)


def step_of(row: RowMapping | None, asked: Asked, *, by: str, now_ms: int) -> Step:
    """Return how a change is carried out.

    Args:
        row: the job's (`COLUMNS`); None where the ledger has none.
        asked: what was asked for.
        by: who asked.
        now_ms: the broker's instant, in milliseconds since the epoch.

    """
    if row is None:
        return Refuse(UNKNOWN)
    if row["envelope"] is None:
        return Refuse("the ledger does not hold what was asked of it")
    try:
        envelope = unpack(row["envelope"])
    except NotRecorded as error:
        return Refuse(str(error))
    except UNREADABLE as error:
        return Refuse(f"this version cannot read what was asked of it: {error}")
    if published_by(envelope) == asked.token:
        return Done(envelope)
    return _refusal(row, asked) or _step(row, envelope, asked, by=by, now_ms=now_ms)


def _refusal(row: RowMapping, asked: Asked) -> Refuse | None:
    state = State(row["state"])
    if state in FINAL:
        return Refuse(f"it is over: {state}")
    if state is State.RUNNING:
        return Refuse(f"it is running: attempt {row['attempt']} on {row['worker']}")
    if state is State.PARKED:
        return Refuse("it is parked: `taskyard parked edit` changes it, `parked release` sends it")
    if row["generation"] >= asked.generation:
        return Refuse("somebody else has changed it meanwhile: look at it and ask again")
    suspend = asked.change.suspend if asked.change else None
    if suspend is True and state is State.SUSPENDED:
        return Refuse("it is suspended already")
    if suspend is False and state is not State.SUSPENDED:
        return Refuse(f"it is {state}, not suspended")
    return None


def _step(row: RowMapping, envelope: Envelope, asked: Asked, *, by: str, now_ms: int) -> Step:
    try:
        changed = _changed(row, envelope, asked, by=by, now_ms=now_ms)
    except ConfigurationError as error:
        return Refuse(str(error))
    if changed.expires_ms is not None and changed.due_ms >= changed.expires_ms:
        return Refuse("it expires before it would be due")
    suspend = asked.change.suspend if asked.change else None
    suspended = row["state"] == State.SUSPENDED.value
    if suspend is False:
        return TakeUp(changed)
    if suspend is None and not suspended:
        return Publish(changed)
    parking = Parking(reason=ParkReason.SUSPENDED.value, at_ms=now_ms, detail=f"by {by}")
    aside = msgspec.structs.replace(changed, parking=parking)
    return Replace(aside) if suspended else SetAside(aside)


def _changed(
    row: RowMapping, envelope: Envelope, asked: Asked, *, by: str, now_ms: int
) -> Envelope:
    """Return a job in its new form (ConfigurationError: its arguments cannot be changed)."""
    change = asked.change
    if change is not None and change.arguments is not None:
        check_open(envelope)
        check_sealed(envelope, change.arguments)
        envelope = with_arguments(envelope, change.arguments)
    due_ms = envelope.not_before_ms
    if change is not None and change.due_ms is not None:
        due_ms = change.due_ms or now_ms
    note = {"by": by, "at": now_ms, "token": asked.token}
    return msgspec.structs.replace(
        envelope,
        generation=asked.generation,
        attempt=row["attempt"],
        deliveries=row["deliveries"],
        not_before_ms=due_ms,
        priority=envelope.priority
        if change is None or change.priority is None
        else change.priority,
        message_id="",
        parking=None,
        extra={**(envelope.extra or {}), CHANGED: msgspec.json.encode(note).decode()},
    )


def suspended(envelope: Envelope, now_ms: int) -> Job:
    """Return the row of a job that is put aside: no feed tells of it."""
    job = job_of_envelope(msgspec.structs.replace(envelope, parking=None))
    rank = rank_of(envelope.generation, envelope.attempt, envelope.deliveries, SET_ASIDE)
    return msgspec.structs.replace(
        job,
        changed_ms=now_ms,
        standing=msgspec.structs.replace(
            job.standing,
            rank=rank,
            moment=now_ms << 20,
            state=State.SUSPENDED.value,
            ended_ms=now_ms,
        ),
    )


def end_of(row: RowMapping | None, *, asked_ms: int) -> End | Leave | Refuse:
    """Return what becomes of a job that is to be cancelled.

    Args:
        row: the job's (`COLUMNS`); None where the ledger has none.
        asked_ms: when it was asked for, in milliseconds since the epoch.

    """
    if row is None:
        return Leave(f"{UNKNOWN}; no worker that meets it will start it")
    state, attempt = State(row["state"]), row["attempt"]
    if state is State.CANCELLED:  # by the worker that has met it meanwhile, or long ago
        if row["started_ms"] is None:
            return Leave(f"cancelled before attempt {attempt} started")
        return Leave(f"cancelled; attempt {attempt} had started")
    if state in FINAL:
        return Refuse(f"it is over: {state}")
    if state is State.RUNNING:
        return Leave(f"attempt {attempt} was running ({row['worker']}): no other starts")
    if state is State.PARKED:
        return Leave("it is parked, and stays so; released, it would not start")
    return _end(row, asked_ms)


def _end(row: RowMapping, asked_ms: int) -> End | Leave | Refuse:
    if row["envelope"] is None:
        return Leave("no worker that meets it will start it")
    try:
        envelope = peek(row["envelope"])
    except UNREADABLE:
        return Leave("no worker that meets it will start it")
    if was_restarted(envelope, asked_ms):
        return Refuse("it was restarted since")
    return End(
        envelope,
        f"cancelled before attempt {row['attempt']} started",
        aside=row["state"] == State.SUSPENDED.value,
    )


def cancelled(row: RowMapping, *, now_ms: int) -> Job:
    """Return the row of a job that is cancelled before it starts again.

    The worker that gets its message says the same, maybe much later: the job is due in a month. If
    it had started after all, what it says is of the same rank, and later.
    """
    job = job_of_envelope(peek(row["envelope"]))
    generation, attempt, deliveries = row["generation"], row["attempt"], row["deliveries"]
    return msgspec.structs.replace(
        job,
        changed_ms=now_ms,
        request=None,
        standing=msgspec.structs.replace(
            job.standing,
            rank=rank_of(generation, attempt, deliveries, ENDED),
            moment=now_ms << 20,
            state=State.CANCELLED.value,
            generation=generation,
            attempt=attempt,
            deliveries=deliveries,
            ended_ms=now_ms,
        ),
    )
