"""Parked jobs: which ones are meant, and what becomes of one that is sent back or given up."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from taskyard.broker_setup.intents import check_queues
from taskyard.shared.broker import ORPHANS, Selection, Settlement, park_reason_of
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.feed import (
    FINISHED,
    RELEASED as RELEASED_EVENT,
    FeedRecord,
    Reply,
    encode_reply,
)
from taskyard.shared.naming import full_task_name
from taskyard.shared.sealing import sealed_arguments
from taskyard.shared.states import DISCARD_KIND, FailureKind, ParkReason
from taskyard.shared.wire import ENCRYPTED, RELEASED, WATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker, Delivery, ParkedJob
    from taskyard.shared.envelope import Envelope


def select(
    ids: Sequence[str] = (),
    *,
    reason: str | None = None,
    limit: int | None = None,
    everything: bool = False,
    task: str | None = None,
    fingerprint: str | None = None,
) -> Selection:
    """Return the selection that a command's options mean; a fingerprint is resolved later.

    Raises:
        ConfigurationError: none of them is given, so that everything would be meant by accident.

    """
    if not (ids or reason or task or fingerprint or limit is not None or everything):
        msg = (
            "say which parked jobs: ids, -n N, --reason REASON, --fingerprint TEXT, --task TASK "
            "or --all"
        )
        raise ConfigurationError(msg)
    check_reason(reason)
    return Selection(
        ids=frozenset(ids) if ids else None,
        reason=reason,
        limit=limit,
        task=task,
        fingerprint=fingerprint,
    )


def check_reason(reason: str | None) -> None:
    """Raise ConfigurationError for what is no reason to park."""
    if reason is not None and reason not in set(ParkReason):
        msg = f"--reason {reason!r} is none of {', '.join(ParkReason)}"
        raise ConfigurationError(msg)


async def find_parked(broker: Broker, queues: Sequence[str], job_id: str) -> ParkedJob:
    """Return one parked job by its id (NotFound when no lot of `queues` holds it).

    Where an edit was cut short the lot holds the job as it was, too: the newest is meant.
    """
    found: ParkedJob | None = None
    for queue in queues:
        async with aclosing(broker.parked(queue)) as lot:
            async for parked in lot:
                envelope = parked.envelope
                if envelope.id == job_id and (
                    found is None or envelope.generation > found.envelope.generation
                ):
                    found = parked
        if found is not None:
            return found
    msg = f"job {job_id} is not parked in {', '.join(queues) or 'any queue'}"
    raise NotFound(msg)


def released(
    envelope: Envelope, now_ms: int, *, by: str, to: str | None = None, watch: str | None = None
) -> Envelope:
    """Return a parked job as it is sent back: a new attempt with a fresh retry budget, due now.

    An expiry that has passed is dropped: whoever releases the job wants it to run.

    Args:
        envelope: as it is parked.
        now_ms: when.
        by: who releases it.
        to: another queue that it goes to; its task there has the same short name.
        watch: an address that wants its outcome too; that of an earlier release is taken out.

    """
    expired = envelope.expires_ms is not None and envelope.expires_ms <= now_ms
    extra = dict(envelope.extra or {})
    earlier = extra.pop(WATCH, None)
    note: dict[str, object] = {"by": by, "at": now_ms}
    reply = tuple(address for address in envelope.reply if address != earlier)
    queue, task = envelope.queue, envelope.task
    if to is not None and to != queue:
        note["from"] = queue
        queue, task = to, full_task_name(to, task.removeprefix(f"{queue}."))
    if watch is not None:
        extra[WATCH] = watch
        reply = (*reply, watch)
    extra[RELEASED] = msgspec.json.encode(note).decode()
    return msgspec.structs.replace(
        envelope,
        queue=queue,
        task=task,
        attempt=envelope.attempt + 1,
        base=envelope.attempt,
        deliveries=1,
        not_before_ms=now_ms,
        expires_ms=None if expired else envelope.expires_ms,
        parking=None,
        message_id="",
        reply=reply,
        extra=extra,
    )


def released_record(copy: Envelope, *, by: str) -> FeedRecord:
    """Return the record that a job waits again: its copy may be of a queue that the feed leaves out."""
    at_ms = copy.not_before_ms or 0
    return FeedRecord.of(copy, RELEASED_EVENT, at_ms=at_ms, worker=by, due=copy.not_before_ms)


def is_sealed(envelope: Envelope) -> bool:
    """Tell whether arguments are encrypted, all of them or some: they are bound to their task."""
    return envelope.content_type == ENCRYPTED or bool(sealed_arguments(envelope))


def discarded(delivery: Delivery, *, by: str, now_ms: int) -> Settlement:
    """Return the settlement that ends a parked job."""
    envelope = delivery.envelope
    reason = park_reason_of(envelope)
    kind = DISCARD_KIND[ParkReason(reason)] if reason in set(ParkReason) else FailureKind.DISCARDED
    error = envelope.parking.error if envelope.parking else None
    record = FeedRecord.of(
        envelope, FINISHED, at_ms=now_ms, worker=by, outcome="failed", detail=kind, error=error
    )
    answer = Reply(
        job=envelope.id,
        attempt=envelope.attempt,
        outcome="failed",
        detail=kind,
        message=f"parked ({reason}) and discarded by {by}",
        error=error,
    )
    replies = tuple((address, encode_reply(answer)) for address in envelope.reply)
    return Settlement(delivery=delivery, record=record, replies=replies)


async def lots(broker: Broker, queues: Sequence[str]) -> Sequence[str]:
    """Return the queues whose lots are meant: those named, or all that the broker has.

    The jobs whose queue is gone have a lot too, where the broker has one for them.

    Raises:
        NotFound: one of those named does not exist.

    """
    if queues:
        await check_queues(broker, queues)
        return queues
    orphans = (await broker.stats([ORPHANS]))[ORPHANS]
    return [*(await broker.queues()), *([ORPHANS] if orphans.exists else [])]
