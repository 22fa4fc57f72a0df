"""What a RabbitMQ broker should hold, as data: exchanges, queues and bindings, by its version.

Pure: facts in, a `Topology` out. No `x-queue-mode` and no `x-queue-version` anywhere (4.3 refuses
both). Every queue names its type, so that a virtual host's default cannot change it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from taskyard.shared.adapters.amqp import ladder
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.priority import HIGHEST
from taskyard.shared.topology import (
    Arguments,
    Binding,
    Entity,
    Exchange,
    QueueObject,
    Topology,
    Value,
    arguments,
)

QueueType: TypeAlias = Literal["classic", "quorum"]

#: From here on quorum queues have strict priorities (32 levels).
STRICT_QUORUM_PRIORITIES: Final = (4, 3)
#: A broker-side stop for a job that kills its worker before the worker can count (deliveries park
#: at 5): well above what killed workers charge to jobs that they had only prefetched.
WORK_DELIVERY_LIMIT: Final = 50
#: Parked jobs are returned by every browse and must neither be dropped nor move. No limit at all
#: drops them after 20 returns (>= 4.0) or sends them to the back (before); -1 lifts the limit from
#: 4.0 on, but drops at the first return before. A huge one does right on all, and needs no change
#: when the broker is upgraded.
UNREACHABLE_DELIVERY_LIMIT: Final = 2_000_000_000

#: The feed without a reader: about a million records, then the oldest go (and are counted by the
#: broker as dead letters for length, with no target).
FEED_MAX_BYTES: Final = 1 << 30
#: Whole segments are forgotten, so they are small beside the limit.
CONTROL_SEGMENT_BYTES: Final = 1 << 20
CONTROL_MAX_BYTES: Final = 128 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """What the layout depends on.

    Attributes:
        version: of the broker, such as (4, 3, 6).
        cluster_size: how many nodes it has.

    """

    version: tuple[int, ...]
    cluster_size: int = 1


@dataclass(frozen=True, slots=True)
class NeedsChoice:
    """The type of a new work queue is the operator's choice; `reason` says between what."""

    reason: str


def resolve_type(
    requested: str, facts: BrokerFacts, existing: QueueType | None = None
) -> QueueType | NeedsChoice:
    """Return the type that a work queue gets.

    Args:
        requested: `classic`, `quorum`, or `auto`, which is resolved at creation and then sticks.
        facts: of the broker.
        existing: the type of the queue, if it is there.

    """
    match requested:
        case "classic" | "quorum":
            return requested
        case "auto":
            return existing or _automatic(facts)
        case _:
            return NeedsChoice(f"type {requested!r} is unknown: choose auto, classic or quorum")


def _automatic(facts: BrokerFacts) -> QueueType | NeedsChoice:
    if facts.version >= STRICT_QUORUM_PRIORITIES:
        return "quorum"
    if facts.cluster_size <= 1:
        return "classic"
    version = ".".join(map(str, facts.version))
    return NeedsChoice(
        f"on a cluster of RabbitMQ {version} a queue is either quorum (replicated, first in first "
        "out: priorities are not kept) or classic (priorities, one replica: its node's loss stops "
        "it); choose one with NAME:quorum or NAME:classic"
    )


def existing_types(names: Names, observed: Topology) -> dict[str, QueueType]:
    """Return the types of the work queues that exist, by queue."""
    found: dict[str, QueueType] = {}
    for entity in observed:
        if isinstance(entity, QueueObject) and (queue := names.queue_of(entity.name)):
            found[queue] = _type_of(entity)
    return found


def resolve_feed(names: Names, observed: Topology) -> QueueType:
    """Return the type that the feed's queue gets: quorum, unless it exists with another.

    Its reader may be away for long. With 300 MB waiting, a classic queue took 1 GB of a 3.10
    node's memory, and a memory alarm would stop the jobs that the feed only watches. Quorum is
    also the cheaper second copy of a publish, and does not hang on one node of a cluster. Its
    price: from 4.3 on a backlog is read by priority, and readers must not rely on the order.
    """
    for entity in observed:
        if isinstance(entity, QueueObject) and entity.name == names.ledger:
            return _type_of(entity)
    return "quorum"


def has_feed(names: Names, observed: Topology) -> bool:
    """Tell whether the feed exists, and so stays when it is not asked for again."""
    return ("queue", names.ledger) in observed.by_key()


def layout(
    names: Names,
    queues: Iterable[tuple[str, QueueType]],
    *,
    feed: QueueType | None,
    left_out: Collection[str] = (),
) -> Topology:
    """Return everything that should exist.

    Args:
        names: of the namespace.
        queues: names and resolved types of the work queues.
        feed: the type of the lifecycle feed's queue; None leaves recording off.
        left_out: queues whose publishes the feed does not get, but for those that go through the
            ladder, which it takes in whole.

    """
    entities: list[Entity] = [*_exchanges(names), *_fixed_queues(names), *_ladder(names)]
    if feed is not None:
        entities += _feed(names, feed)
    for queue, kind in queues:
        told = feed is not None and queue not in left_out
        entities += work_queue(names, queue, kind, recorded=told)
    unwanted = [told_binding(names, queue) for queue in left_out] if feed is not None else []
    return Topology.of(entities, unwanted=unwanted)


def work_queue(names: Names, queue: str, kind: QueueType, *, recorded: bool) -> list[Entity]:
    """Return one work queue with its parking lot and its bindings: what comes and goes with it."""
    target, lot = names.work_queue(queue), names.parked_queue(queue)
    entities: list[Entity] = [
        QueueObject(target, arguments=_work_arguments(names, queue, kind)),
        QueueObject(lot, arguments=_LOT),
        Binding(names.tasks, target, routing_key=queue),
        Binding(names.parked, lot, routing_key=queue),
        Binding(names.delay_deliver, target, routing_key=ladder.deliver_pattern(queue)),
        Binding(names.known, names.known, routing_key=queue, witness=True),
    ]
    if recorded:
        entities.append(told_binding(names, queue))
    return entities


def told_binding(names: Names, queue: str) -> Binding:
    """Return the binding by which the feed gets what is published to a queue."""
    return Binding(names.tasks, names.ledger, routing_key=queue, witness=True)


def _exchanges(names: Names) -> Iterator[Entity]:
    yield Exchange(names.tasks, "direct")
    yield Exchange(names.known, "direct")
    yield _dead_letter_target(names, names.parked, "direct")
    yield _dead_letter_target(names, names.delay_deliver, "topic")
    yield Exchange(names.orphaned, "fanout")
    yield Exchange(names.lifecycle, "topic")
    yield Exchange(names.control, "fanout")
    yield Exchange(names.replies, "direct")
    yield Exchange(names.events, "topic")


def _fixed_queues(names: Names) -> Iterator[Entity]:
    yield QueueObject(names.orphaned, arguments=_LOT)
    yield Binding(names.orphaned, names.orphaned)
    # Routable, confirmed, and forgotten at once: a mandatory publish to it is a question. Replicated,
    # because every producer of delayed jobs asks it: while the node of a classic one is dead, a
    # probe is returned (before 4.x) or refused, as if no queue existed.
    sink = arguments({"x-queue-type": "quorum", "x-max-length": 0})
    yield QueueObject(names.known, arguments=sink)
    control = arguments(
        {
            "x-queue-type": "stream",
            "x-max-length-bytes": CONTROL_MAX_BYTES,
            "x-stream-max-segment-size-bytes": CONTROL_SEGMENT_BYTES,
        }
    )
    yield QueueObject(names.control, arguments=control)
    yield Binding(names.control, names.control)


def _ladder(names: Names) -> Iterator[Entity]:
    for level in range(ladder.LEVELS):
        below = names.delay_level(level - 1) if level else names.delay_deliver
        here = names.delay_level(level)
        yield _dead_letter_target(names, here, "topic")
        yield Binding(here, below, "exchange", routing_key=ladder.level_pattern(level, 0))
        for digit in range(1, ladder.RADIX):
            hold = names.delay_hold(level, digit)
            yield Exchange(hold, "fanout")
            yield QueueObject(hold, arguments=_hold_arguments(below, level, digit))
            yield Binding(hold, hold)
            yield Binding(here, hold, routing_key=ladder.level_pattern(level, digit))


def _dead_letter_target(names: Names, name: str, kind: str) -> Exchange:
    # What is dead-lettered must always find a queue: a dead letter without one stays in its
    # source, and 32 of them stop it for all others.
    return Exchange(name, kind, arguments=arguments({"alternate-exchange": names.orphaned}))


def _feed(names: Names, kind: QueueType) -> Iterator[Entity]:
    yield QueueObject(names.ledger, arguments=_feed_arguments(kind))
    yield Binding(names.lifecycle, names.ledger, routing_key="#", witness=True)
    for level in range(ladder.LEVELS):
        for digit in range(1, ladder.RADIX):
            yield Binding(names.delay_hold(level, digit), names.ledger, witness=True)


def _work_arguments(names: Names, queue: str, kind: QueueType) -> Arguments:
    if kind == "classic":
        return arguments({"x-queue-type": "classic", "x-max-priority": HIGHEST})
    return arguments(
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": WORK_DELIVERY_LIMIT,
            "x-dead-letter-exchange": names.parked,
            "x-dead-letter-routing-key": queue,
            **_AT_LEAST_ONCE,
        }
    )


def _hold_arguments(below: str, level: int, digit: int) -> Arguments:
    return arguments(
        {
            "x-queue-type": "quorum",
            "x-message-ttl": ladder.hold_ms(level, digit),
            "x-dead-letter-exchange": below,
            **_AT_LEAST_ONCE,
        }
    )


def _feed_arguments(kind: QueueType) -> Arguments:
    bound: dict[str, Value] = {"x-max-length-bytes": FEED_MAX_BYTES, "x-overflow": "drop-head"}
    if kind == "classic":
        return arguments({"x-queue-type": kind, **bound})
    return arguments({**bound, **dict(_LOT)})


def _type_of(queue: QueueObject) -> QueueType:
    kind = dict(queue.arguments).get("x-queue-type", "classic")
    return "quorum" if kind == "quorum" else "classic"


#: Replicated, and neither drops nor moves what is browsed.
_LOT: Final = arguments({"x-queue-type": "quorum", "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT})
#: A dead letter leaves its queue only when its target has confirmed it; RabbitMQ does so only for
#: a queue that rejects rather than drops when it is full (none of ours has a limit).
_AT_LEAST_ONCE: Final = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
