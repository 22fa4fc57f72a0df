"""Queues in numbers. What is ready comes fresh from AMQP; the rest lags by up to five seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp import ladder
from taskyard.shared.adapters.amqp.channel import ChannelClosed
from taskyard.shared.adapters.amqp.survey import Questions
from taskyard.shared.broker import DELAYED, FEED, ORPHANS, QueueStats
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.management import QueueInfo

#: From so many queues on the management API is asked for all at once.
_MANY: Final = 8


async def read_stats(core: Core, queues: Collection[str]) -> Mapping[str, QueueStats]:
    """Return numbers per queue.

    Raises:
        ConfigurationError: this user may not look.
        Unavailable: there is no connection.

    """
    seen: dict[str, tuple[tuple[int, int] | None, int]] = {}
    others: dict[str, QueueStats] = {}
    try:
        async with Questions(await core.reader()) as questions:
            # A job goes from the ladder into its queue: looked for in this order, it is found.
            if DELAYED in queues:
                others[DELAYED] = await _delayed(core, questions)
            if FEED in queues:
                others[FEED] = await _feed(core, questions)
            for queue in queues:
                if queue in others:
                    continue
                if queue == ORPHANS:
                    lot = await questions.depth(core.names.orphaned)
                    seen[queue] = ((0, 0) if lot else None, lot[0] if lot else 0)
                    continue
                depth = await questions.depth(core.names.work_queue(queue))
                lot = await questions.depth(core.names.parked_queue(queue)) if depth else None
                seen[queue] = (depth, lot[0] if lot else 0)
    except ChannelClosed as refusal:
        raise ConfigurationError(f"the queues cannot be looked at: {refusal}") from refusal
    infos = await _infos(core, [queue for queue, (depth, _) in seen.items() if depth])
    return others | {
        queue: QueueStats(exists=False)
        if depth is None
        else _stats(depth, parked, infos.get(queue))
        for queue, (depth, parked) in seen.items()
    }


async def _delayed(core: Core, questions: Questions) -> QueueStats:
    """Count what is on the ladder, from its top down as jobs go: none is overlooked on its way."""
    found = [
        await questions.depth(core.names.delay_hold(level, digit))
        for level in reversed(range(ladder.LEVELS))
        for digit in reversed(range(1, ladder.RADIX))
    ]
    held = [depth[0] for depth in found if depth is not None]
    return QueueStats(exists=bool(held), scheduled=sum(held))


async def _feed(core: Core, questions: Questions) -> QueueStats:
    depth = await questions.depth(core.names.ledger)
    if depth is None:
        return QueueStats(exists=False)
    return _stats(depth, 0, await core.management.queue(core.names.ledger))


def _stats(depth: tuple[int, int], parked: int, info: QueueInfo | None) -> QueueStats:
    ready, consumers = depth
    return QueueStats(
        ready=ready,
        unsettled=info.messages_unacknowledged if info else None,
        parked=parked,
        consumers=consumers,
        type=info.type if info else "",
    )


async def _infos(core: Core, queues: Sequence[str]) -> dict[str, QueueInfo]:
    names = core.names
    if len(queues) >= _MANY:
        listed = await core.management.queues(names.work_queue(""))
        return {names.queue_of(info.name) or "": info for info in listed or ()}
    found: dict[str, QueueInfo] = {}
    for queue in queues:
        info = await core.management.queue(names.work_queue(queue))
        if info is not None:
            found[queue] = info
    return found


async def read_queues(core: Core) -> Sequence[str]:
    """Return the names of the work queues that exist, sorted.

    Raises:
        ConfigurationError: there is no management API to ask.

    """
    listed = await core.management.queues(core.names.work_queue(""))
    if listed is None:
        raise ConfigurationError(
            "which queues there are is known to RabbitMQ's management API only, and it cannot be "
            "asked here: set TASKYARD_MANAGEMENT_URL, or name the queues"
        )
    return sorted(queue for info in listed if (queue := core.names.queue_of(info.name)))
