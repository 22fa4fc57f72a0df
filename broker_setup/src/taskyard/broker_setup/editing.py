"""Changing the arguments of a parked job.

The job keeps its id, its place among the attempts and why it is parked; its generation rises, and
a trail says what was changed, by whom and when. The new form is parked before the old one is given
up, in one settlement. Where that is cut short both are parked, and the older one is never run: a
release gives it up when it meets it, and so does the next edit.
"""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskyard.broker_setup.parking import find_parked, lots
from taskyard.shared.broker import Selection, Settlement, park_reason_of
from taskyard.shared.envelope import UNREADABLE, Parking
from taskyard.shared.errors import ConfigurationError, NotFound, PublishError
from taskyard.shared.naming import full_task_name
from taskyard.shared.sealing import sealed_arguments
from taskyard.shared.signature import encode_json
from taskyard.shared.wire import EDITED, ENCRYPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.envelope import Envelope

Arguments = dict[str, Any]

#: Longest JSON of the values that one edit replaced, in bytes: headers share one frame.
_WAS_LIMIT: Final = 4096
#: Edits that are remembered: the first, which knows the original, and the latest.
_REMEMBERED: Final = 8

_arguments: Final = msgspec.json.Decoder(Arguments)


class Edit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of a parked job's arguments.

    Attributes:
        by: who made it.
        at: when, in milliseconds since the epoch.
        generation: what the job's generation was before.
        digest: SHA-256 of the body before, in hexadecimal.
        was: the arguments that were replaced or removed, as they were; None where they are too
            long to travel along.
        added: names of arguments that were not there before.

    """

    by: str
    at: int
    generation: int
    digest: str
    was: Arguments | None = None
    added: tuple[str, ...] = ()


_trail: Final = msgspec.json.Decoder(tuple[Edit, ...])


def trail_of(envelope: Envelope) -> tuple[Edit, ...]:
    """Return the edits that a job has been through, the first one first."""
    text = (envelope.extra or {}).get(EDITED)
    if not isinstance(text, str):
        return ()
    try:
        return _trail.decode(text)
    except UNREADABLE:
        return ()  # another program's header must not keep the job from being edited


def check_open(envelope: Envelope) -> None:
    """Refuse a job whose arguments cannot be seen, and so cannot be changed, here.

    Raises:
        ConfigurationError: they are encrypted as a whole.

    """
    if envelope.content_type == ENCRYPTED:
        msg = (
            f"job {envelope.id}: its arguments are encrypted and cannot be edited here; discard it "
            "and send it anew from where they are known; nothing was changed"
        )
        raise ConfigurationError(msg)


def check_sealed(envelope: Envelope, arguments: Mapping[str, object]) -> None:
    """Refuse to change an argument that is encrypted by itself: its value would be readable then.

    Raises:
        ConfigurationError: one is not as it was.

    """
    sealed = sealed_arguments(envelope)
    if not sealed:
        return
    before = arguments_of(envelope)
    changed = sorted(name for name in sealed if arguments.get(name) != before[name])
    if changed:
        msg = (
            f"job {envelope.id}: {', '.join(changed)} is encrypted and stays as it is; change other "
            "arguments by KEY=VALUE, or discard the job and send it anew; nothing was changed"
        )
        raise ConfigurationError(msg)


def arguments_of(envelope: Envelope) -> Arguments:
    """Return a parked job's arguments, to be edited.

    Raises:
        ConfigurationError: they are no JSON object; the text says what helps.

    """
    try:
        return _arguments.decode(envelope.body)
    except UNREADABLE as error:
        msg = (
            f"job {envelope.id}: its {len(envelope.body)} bytes are no JSON object ({error}); "
            "give all arguments anew with --args"
        )
        raise ConfigurationError(msg) from error


def with_arguments(envelope: Envelope, arguments: Mapping[str, object]) -> Envelope:
    """Return a job with other arguments."""
    return msgspec.structs.replace(envelope, body=encode_json(arguments))


def edited(envelope: Envelope, arguments: Arguments, *, by: str, now_ms: int) -> Envelope:
    """Return a parked job with other arguments: its next generation, with a longer trail.

    A job without a parking header, which the broker itself set aside, gets one.
    """
    try:
        before = _arguments.decode(envelope.body)
    except UNREADABLE:
        before = {}
    was = {name: value for name, value in before.items() if arguments.get(name, _GONE) != value}
    edit = Edit(
        by=by,
        at=now_ms,
        generation=envelope.generation,
        digest=hashlib.sha256(envelope.body).hexdigest(),
        was=was if len(encode_json(was)) <= _WAS_LIMIT else None,
        added=tuple(sorted(arguments.keys() - before.keys()))[:_REMEMBERED],
    )
    trail = (*trail_of(envelope), edit)
    if len(trail) > _REMEMBERED:
        trail = (trail[0], *trail[1 - _REMEMBERED :])
    parking = envelope.parking or Parking(reason=park_reason_of(envelope), at_ms=now_ms)
    return msgspec.structs.replace(
        with_arguments(envelope, arguments),
        generation=envelope.generation + 1,
        parking=parking,
        extra={**(envelope.extra or {}), EDITED: encode_json(trail).decode()},
        message_id="",
    )


_GONE: Final = object()


async def edit(
    broker: Broker,
    queues: Sequence[str],
    job_id: str,
    change: Callable[[Envelope], Arguments],
    *,
    by: str,
    dry_run: bool = False,
    deadline_s: float = 10.0,
) -> tuple[str, Envelope]:
    """Change a parked job's arguments; it stays parked, behind those parked before.

    Args:
        broker: open.
        queues: whose lots; none means all.
        job_id: of the job.
        change: returns the new arguments, or raises to leave everything as it is.
        by: who asks.
        dry_run: only return what the job would be.
        deadline_s: for the settlement.

    Returns:
        The lot it is in, and the job as it is parked now.

    Raises:
        NotFound: it is not parked.
        ConfigurationError: its arguments are encrypted, all of them or one to be changed.
        PublishError: the new form was not confirmed; the job is parked as it was.

    """
    for queue in await lots(broker, queues):
        try:
            newest = (await find_parked(broker, [queue], job_id)).envelope
        except NotFound:
            continue
        check_open(newest)
        arguments = change(newest)
        check_sealed(newest, arguments)
        new = edited(newest, arguments, by=by, now_ms=broker.now_ms())
        if not dry_run:
            await _replace(broker, queue, newest, new, deadline_s)
        return queue, new
    msg = f"job {job_id} is not parked; nothing was changed"
    raise NotFound(msg)


async def _replace(
    broker: Broker, queue: str, old: Envelope, new: Envelope, deadline_s: float
) -> None:
    """Park the new form and give up the old one, and what an edit before left behind."""
    done = seen = False
    selection = Selection(ids=frozenset({old.id}))
    async with aclosing(broker.take_parked(queue, selection)) as batches:
        async for batch in batches:
            settlements: list[Settlement] = []
            for form in batch:
                if not seen and _same(form.envelope, old):
                    seen = True
                    settlements.append(Settlement(delivery=form, park=new))
                elif form.envelope.generation < old.generation:
                    settlements.append(Settlement(delivery=form))
            for settlement, status in zip(
                settlements,
                await broker.settle(settlements, deadline_s=deadline_s),
                strict=True,
            ):
                done |= settlement.park is new and status.done
    if not done:
        found = "the broker did not confirm it" if seen else "somebody else has it just now"
        msg = f"job {old.id} was not changed: {found}; look at it and try again"
        raise PublishError(msg, job_id=old.id, queue=queue)


def _same(form: Envelope, old: Envelope) -> bool:
    return (form.generation, form.attempt, form.body) == (old.generation, old.attempt, old.body)


def full_task(envelope: Envelope) -> str:
    """Return the full name of a job's task."""
    return full_task_name(envelope.queue, envelope.task)
