"""Parked jobs: look at them, send them back, give them up.

Taking a job out of its lot and publishing its copy is one settlement, so an interrupted release
loses nothing: at worst a job is both released and still parked, and says so by its attempt.
"""

from __future__ import annotations

import dataclasses
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.broker_setup.intents import check_queues
from taskyard.shared.broker import ORPHANS, Selection, Settlement, SettleStatus
from taskyard.shared.errors import ConfigurationError, NotFound, PublishError
from taskyard.shared.feed import FINISHED, FeedRecord, Reply, encode_reply
from taskyard.shared.states import DISCARD_KIND, FailureKind, ParkReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskyard.shared.broker import Broker, Delivery, ParkedJob
    from taskyard.shared.envelope import Envelope

#: What a job without a parking header is: the broker itself set it aside at its delivery limit.
UNMARKED_REASON: Final = ParkReason.POISON


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a release or discard did.

    Attributes:
        done: ids, in the order of the lot.
        failed: ids whose settlement was not confirmed; they are still parked.

    """

    done: tuple[str, ...]
    failed: tuple[str, ...]


def reason_of(envelope: Envelope) -> str:
    """Return why a job is parked."""
    return envelope.parking.reason if envelope.parking else UNMARKED_REASON


def select(
    ids: Sequence[str], *, reason: str | None, limit: int | None, everything: bool
) -> Selection:
    """Return the selection that a command's options mean.

    Raises:
        ConfigurationError: none of them is given, so that everything would be meant by accident.

    """
    if not (ids or reason or limit is not None or everything):
        msg = "say which parked jobs: ids, -n N, --reason REASON or --all"
        raise ConfigurationError(msg)
    if reason is not None and reason not in set(ParkReason):
        msg = f"--reason {reason!r} is none of {', '.join(ParkReason)}"
        raise ConfigurationError(msg)
    return Selection(ids=frozenset(ids) if ids else None, reason=reason, limit=limit)


async def find_parked(broker: Broker, queues: Sequence[str], job_id: str) -> ParkedJob:
    """Return one parked job by its id (NotFound when no lot of `queues` holds it)."""
    for queue in queues:
        async with aclosing(broker.parked(queue)) as lot:
            async for parked in lot:
                if parked.envelope.id == job_id:
                    return parked
    msg = f"job {job_id} is not parked in {', '.join(queues) or 'any queue'}"
    raise NotFound(msg)


def released(envelope: Envelope, now_ms: int) -> Envelope:
    """Return a parked job as it is sent back: a new attempt with a fresh retry budget, due now.

    An expiry that has passed is dropped: whoever releases the job wants it to run.
    """
    expired = envelope.expires_ms is not None and envelope.expires_ms <= now_ms
    return msgspec.structs.replace(
        envelope,
        attempt=envelope.attempt + 1,
        base=envelope.attempt,
        deliveries=1,
        not_before_ms=now_ms,
        expires_ms=None if expired else envelope.expires_ms,
        parking=None,
        message_id="",
    )


async def release(
    broker: Broker, queue: str, selection: Selection, *, deadline_s: float = 10.0
) -> Moved:
    """Send parked jobs back to their queue, in the order of the lot."""

    def settlement(delivery: Delivery) -> Settlement:
        return Settlement(delivery=delivery, copies=(released(delivery.envelope, broker.now_ms()),))

    return await _settle_all(broker, queue, selection, settlement, deadline_s)


async def discard(
    broker: Broker, queue: str, selection: Selection, *, by: str, deadline_s: float = 10.0
) -> Moved:
    """Give parked jobs up: each ends as failed, with the kind of its cause."""

    def settlement(delivery: Delivery) -> Settlement:
        return discarded(delivery, by=by, now_ms=broker.now_ms())

    return await _settle_all(broker, queue, selection, settlement, deadline_s)


def discarded(delivery: Delivery, *, by: str, now_ms: int) -> Settlement:
    """Return the settlement that ends a parked job."""
    envelope = delivery.envelope
    reason = reason_of(envelope)
    kind = DISCARD_KIND[ParkReason(reason)] if reason in set(ParkReason) else FailureKind.DISCARDED
    error = envelope.parking.error if envelope.parking else None
    record = FeedRecord(
        event=FINISHED,
        job=envelope.id,
        queue=envelope.queue,
        task=envelope.task,
        attempt=envelope.attempt,
        deliveries=envelope.deliveries,
        message=envelope.message_id,
        generation=envelope.generation,
        at=now_ms,
        outcome="failed",
        detail=kind,
        error=error,
        worker=by,
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


async def _settle_all(
    broker: Broker,
    queue: str,
    selection: Selection,
    settlement: Callable[[Delivery], Settlement],
    deadline_s: float,
) -> Moved:
    done: list[str] = []
    failed: list[str] = []
    async with aclosing(broker.take_parked(queue, selection)) as batches:
        async for batch in batches:
            statuses = await broker.settle([settlement(d) for d in batch], deadline_s=deadline_s)
            for delivery, status in zip(batch, statuses, strict=True):
                (done if status is SettleStatus.SETTLED else failed).append(delivery.envelope.id)
            if failed:
                break
    return Moved(done=tuple(done), failed=tuple(failed))


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


async def move_in_each(
    broker: Broker,
    queues: Sequence[str],
    selection: Selection,
    move: Callable[[Broker, str, Selection], Awaitable[Moved]],
    verb: str,
) -> list[str]:
    """Apply one move to the lots of several queues, the limit counted over all of them.

    Args:
        broker: open.
        queues: their names; none means all that the broker has.
        selection: which jobs.
        move: `release` or `discard` of one lot.
        verb: what it does, for errors.

    Returns:
        The ids moved.

    Raises:
        PublishError: some settlements were not confirmed; those jobs are still parked.
        NotFound: nothing matched.

    """
    done: list[str] = []
    for queue in await lots(broker, queues):
        left = None if selection.limit is None else selection.limit - len(done)
        if left == 0:
            break
        moved = await move(broker, queue, dataclasses.replace(selection, limit=left))
        done += moved.done
        if moved.failed:
            msg = (
                f"{len(done)} {verb}, but {moved.failed[0]} was not confirmed by the broker; "
                "it and what follows are still parked; run the command again"
            )
            raise PublishError(msg, job_id=moved.failed[0], queue=queue)
    if not done:
        msg = f"no parked job matches; nothing was {verb}"
        raise NotFound(msg)
    return done
