"""Write operators' intents into the control log, and read them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.control import (
    ALL_QUEUES,
    GENESIS,
    cancel_record,
    concurrency_record,
    drain_record,
    pause_record,
    reset_concurrency_record,
    resume_record,
    undrain_record,
)
from taskyard.shared.envelope import mint_id
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.intents import MAX_SLOTS, Intents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord

#: How long a cancel is remembered unless told otherwise: longer than any retry or delay in use.
CANCEL_KEPT_MS = 90 * 86_400_000


async def read_intents(broker: Broker) -> Intents:
    """Return what the control log adds up to now (ControlUnavailable when it cannot be read)."""
    intents = Intents()
    async for batch in broker.follow_control():
        intents.apply(batch.records)
        if batch.caught_up:
            break
    return intents


async def check_queues(broker: Broker, queues: Sequence[str]) -> None:
    """Raise NotFound for a queue that the broker does not have; `*` stands for all."""
    named = [queue for queue in queues if queue != ALL_QUEUES]
    stats = await broker.stats(named)
    missing = [queue for queue in named if not stats[queue].exists]
    if missing:
        msg = f"the broker has no queue {', '.join(missing)}; nothing was changed"
        raise NotFound(msg)


async def pause(
    broker: Broker, queues: Sequence[str], *, by: str, for_s: float | None, reason: str
) -> None:
    """Have no job of these queues start, for a time or until they are resumed. Durable on return."""
    await check_queues(broker, queues)
    now_ms = broker.now_ms()
    until_ms = None if for_s is None else now_ms + round(for_s * 1000)
    await broker.append_control(
        [pause_record(q, by=by, at_ms=now_ms, until_ms=until_ms, reason=reason) for q in queues]
    )


async def resume(broker: Broker, queues: Sequence[str], *, by: str) -> list[str]:
    """Take pauses back and return the queues that were paused."""
    now_ms = broker.now_ms()
    paused = (await read_intents(broker)).paused(now_ms)
    found = [queue for queue in queues if queue in paused]
    if found:
        await broker.append_control([resume_record(q, by=by, at_ms=now_ms) for q in found])
    return found


async def set_concurrency(
    broker: Broker, queues: Sequence[str], slots: int | None, *, by: str
) -> None:
    """Have each worker process run so many jobs of these queues at once; None: as they declare.

    Durable on return; workers follow at once, and end nothing that runs.

    Raises:
        ConfigurationError: the number makes no sense.
        NotFound: the broker has no such queue.

    """
    if slots == 0:
        msg = (
            "0 slots would start nothing: that is `taskyard queues pause`, which says so to whoever "
            "looks; nothing was changed"
        )
        raise ConfigurationError(msg)
    if slots is not None and not 0 < slots <= MAX_SLOTS:
        msg = f"{slots} slots: give a number from 1 to {MAX_SLOTS}; nothing was changed"
        raise ConfigurationError(msg)
    await check_queues(broker, queues)
    now_ms = broker.now_ms()
    await broker.append_control(
        [
            reset_concurrency_record(queue, by=by, at_ms=now_ms)
            if slots is None
            else concurrency_record(queue, slots, by=by, at_ms=now_ms)
            for queue in queues
        ]
    )


async def drain(broker: Broker, *, by: str, for_s: float | None, reason: str) -> None:
    """Have producers send nothing new, for a time or until `undrain`. Durable on return."""
    now_ms = broker.now_ms()
    until_ms = None if for_s is None else now_ms + round(for_s * 1000)
    await broker.append_control(
        [drain_record(by=by, at_ms=now_ms, until_ms=until_ms, reason=reason)]
    )


async def undrain(broker: Broker, *, by: str) -> ControlRecord | None:
    """Have producers send again; return the drain that was in force, if one was."""
    now_ms = broker.now_ms()
    found = (await read_intents(broker)).drain(now_ms)
    await broker.append_control([undrain_record(by=by, at_ms=now_ms)])
    return found


def cancel_records(
    broker: Broker, job_ids: Sequence[str], *, by: str, abort: bool, answered: bool = True
) -> dict[str, tuple[str, ControlRecord]]:
    """Return the intents that these jobs start no further attempt: by token, job and record.

    Args:
        broker: open.
        job_ids: of the jobs.
        by: `user@host`.
        abort: also end running ones.
        answered: ask for an answer to each.

    """
    now_ms = broker.now_ms()
    found: dict[str, tuple[str, ControlRecord]] = {}
    for job_id in job_ids:
        token = mint_id()
        found[token] = (
            job_id,
            cancel_record(
                job_id,
                by=by,
                at_ms=now_ms,
                abort=abort,
                until_ms=now_ms + CANCEL_KEPT_MS,
                token=token if answered else "",
            ),
        )
    return found


async def compact(broker: Broker) -> int:
    """Write the intents in force again, before retention forgets them; returns how many."""
    intents = await read_intents(broker)
    live = [record for record in intents.live(broker.now_ms()) if record.op != GENESIS]
    await broker.append_control(live)
    return len(live)
