"""Set a RabbitMQ broker up: what should exist, and carrying out what lies between."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp import layout
from taskyard.shared.adapters.amqp.channel import ACCESS_REFUSED, NOT_FOUND, ChannelClosed
from taskyard.shared.adapters.amqp.control import begin_log
from taskyard.shared.adapters.amqp.survey import ClusterNode, Questions, read_mismatch, survey
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.topology import (
    Action,
    Binding,
    Create,
    Differs,
    Entity,
    Exchange,
    QueueObject,
    Remove,
    Topology,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.broker import SetupSpec

#: Creations of one stage run side by side: a quorum queue's takes its disk's time.
_SIDE_BY_SIDE: Final = 4


# ---------------------------------------------------------------- what should exist


async def observe(core: Core, spec: SetupSpec) -> Topology:
    """Return what exists of everything that `spec` could ask for.

    Raises:
        ConfigurationError: the user may not look.

    """
    try:
        return await survey(core, spec)
    except ChannelClosed as refusal:
        raise ConfigurationError(f"the broker cannot be looked at: {refusal}") from refusal


def desired(core: Core, spec: SetupSpec, observed: Topology) -> Topology:
    """Return what should exist for `spec`, given what does.

    Raises:
        ConfigurationError: the type of a queue is the operator's choice.

    """
    names, facts = core.names, _facts(core, observed)
    existing = layout.existing_types(names, observed)
    queues: list[tuple[str, layout.QueueType]] = []
    for queue in spec.queues:
        kind = layout.resolve_type(queue.type, facts, existing.get(queue.name))
        if isinstance(kind, layout.NeedsChoice):
            raise ConfigurationError(f"queue {queue.name!r}: {kind.reason}")
        queues.append((queue.name, kind))
    recorded = spec.ledger or layout.has_feed(names, observed)
    feed = layout.resolve_feed(names, observed) if recorded else None
    left_out = spec.left_out & {*existing, *(name for name, _ in queues)}
    wanted = layout.layout(names, queues, feed=feed, left_out=left_out)
    if spec.ledger:  # then what others have set up is recorded too
        wanted |= Topology.of(
            layout.told_binding(names, queue) for queue in existing if queue not in left_out
        )
    return wanted


def _facts(core: Core, observed: Topology) -> layout.BrokerFacts:
    version = core.publish_link.server_version
    if not version:
        raise Unavailable(f"the connection to the broker is lost: {core.publish_link.reason}")
    nodes = sum(isinstance(entity, ClusterNode) for entity in observed)
    # Where the nodes cannot be counted, a list of them in the URL says that it is a cluster.
    return layout.BrokerFacts(version=version, cluster_size=nodes or len(core.addresses))


# ---------------------------------------------------------------- carrying it out


async def apply(core: Core, actions: Sequence[Action]) -> None:
    """Carry out actions, in order; those of one stage side by side. Safe to repeat.

    RabbitMQ writes some of what it knows of new queues down a second or two after it has answered:
    a node that is killed in that moment forgets quorum queues and streams, with what they hold.

    Raises:
        ConfigurationError: something exists otherwise than wanted, may not be changed by this
            user, or still holds jobs.

    """
    differing = [action for action in actions if isinstance(action, Differs)]
    if differing:
        raise ConfigurationError(f"nothing was changed: {'; '.join(map(_difference, differing))}")
    link = await core.reader()
    for _, some in groupby(actions, key=_step):
        await _apply_step(core, link, list(some))
    made = any(isinstance(a, Create) and a.entity.key == _log_key(core) for a in actions)
    await begin_log(core, is_new=made)


def _log_key(core: Core) -> tuple[str, ...]:
    return ("queue", core.names.control)


def _difference(action: Differs) -> str:
    listed = ", ".join(map(str, action.differences))
    return f"{' '.join(action.entity.key)} exists and differs: {listed}"


def _step(action: Action) -> tuple[str, object]:
    """Return what actions have in common that may run side by side; removals never may."""
    stage = action.entity.stage
    return ("create", stage) if isinstance(action, Create) else ("remove", action.entity.key)


async def _apply_step(core: Core, link: Link, actions: Sequence[Action]) -> None:
    todo = deque(actions)

    async def work() -> None:
        async with Questions(link) as questions:
            while todo:
                action = todo.popleft()
                try:
                    if isinstance(action, Remove):
                        await _remove(core, questions, action.entity)
                    else:
                        await _create(questions, action.entity)
                except ChannelClosed as refusal:
                    todo.clear()
                    raise _refusal(action, refusal) from refusal
                except Unavailable:
                    todo.clear()
                    raise

    workers = [work() for _ in range(min(_SIDE_BY_SIDE, len(actions)))]
    for result in await asyncio.gather(*workers, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _refusal(action: Action, refusal: ChannelClosed) -> ConfigurationError:
    what = " ".join(action.entity.key)
    differs = read_mismatch(refusal)
    if differs is not None:
        return ConfigurationError(
            f"{differs}; it was left as it is, and cannot be changed in place: "
            "remove it when it is empty, or declare it as it is"
        )
    if refusal.code == ACCESS_REFUSED:
        return ConfigurationError(f"{what}: this user lacks a permission: {refusal}")
    if refusal.code == NOT_FOUND:
        return ConfigurationError(f"{what}: what it joins is not there (any more): {refusal}")
    return ConfigurationError(f"{what}: {refusal}")


async def _create(questions: Questions, entity: Entity) -> None:
    match entity:
        case Exchange() | QueueObject():
            await questions.declare(entity)
        case Binding():
            await questions.ask(_method(entity, "bind"), **_route(entity))
        case _:
            raise ConfigurationError(f"{' '.join(entity.key)} is nothing that RabbitMQ can hold")


async def _remove(core: Core, questions: Questions, entity: Entity) -> None:
    try:
        match entity:
            case Exchange():
                await questions.ask("exchange_delete", exchange=entity.name)
            case QueueObject():
                await _delete_queue(core, questions, entity.name)
            case Binding():
                await questions.ask(_method(entity, "unbind"), **_route(entity))
            case _:
                raise ConfigurationError(
                    f"{' '.join(entity.key)} is nothing that RabbitMQ can hold"
                )
    except ChannelClosed as refusal:
        if refusal.code != NOT_FOUND:
            raise


async def _delete_queue(core: Core, questions: Questions, name: str) -> None:
    depth = await questions.depth(name)
    if depth is None:
        return
    ready, consumers = depth
    info = await core.management.queue(name)
    unsettled = (info.messages_unacknowledged or 0) if info else 0
    if name not in {core.names.known, core.names.control} and (ready or consumers or unsettled):
        raise ConfigurationError(
            f"queue {name} is not deleted: it holds {ready} jobs, {unsettled} unsettled, and has "
            f"{consumers} consumers; stop its workers and drain it first"
        )
    # Not `if_empty`: on a quorum queue that ends the connection.
    await questions.ask("queue_delete", queue=name)


def _method(binding: Binding, verb: str) -> str:
    return f"{binding.destination_kind}_{verb}"


def _route(binding: Binding) -> dict[str, object]:
    route: dict[str, object] = {
        "routing_key": binding.routing_key,
        "arguments": dict(binding.arguments),
    }
    if binding.destination_kind == "queue":
        return {"queue": binding.destination, "exchange": binding.source, **route}
    return {"destination": binding.destination, "source": binding.source, **route}
