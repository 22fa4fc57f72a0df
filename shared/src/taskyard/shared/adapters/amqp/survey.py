"""What a RabbitMQ broker holds of ours, found without changing it.

The management API shows everything. Without it each thing that our layout could want is asked for
by name: whether it is there, and whether its arguments are the ones of the layout. Bindings cannot
be asked for, so such a topology is not `verified`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.adapters.amqp import layout
from taskyard.shared.adapters.amqp.channel import NOT_FOUND, PRECONDITION_FAILED, ChannelClosed
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import Unavailable
from taskyard.shared.topology import (
    Binding,
    Entity,
    Exchange,
    QueueObject,
    Stage,
    Topology,
    arguments,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.adapters.amqp.management import BindingInfo, QueueInfo
    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.broker import SetupSpec
    from taskyard.shared.clock import Clock
    from taskyard.shared.topology import Key, Value

#: What a policy must not do to a queue that takes dead letters or parked jobs: a full one stops
#: its sources, and an expiring one loses jobs.
_HARMFUL: Final = ("max-length", "max-length-bytes", "message-ttl", "expires", "overflow")

#: Seconds that a node may take to serve its queues, and between two questions about one.
_NODE_S: Final = 10.0
_NODE_GAP_S: Final = 0.25

_TELLS_TYPE: Final = frozenset({"x-dead-letter-exchange", "x-queue-type"})

_INEQUIVALENT: Final = re.compile(
    r"inequivalent arg '(?P<facet>[^']+)' for (?P<kind>queue|exchange) '(?P<name>.+?)' in vhost "
    r"(?:.*?: received (?P<received>.+?) but current is (?P<current>.+)$)?"
)
#: AMQP carries 255 bytes of words.
_CUT: Final = "..."
_UNSEEN: Final = "something else"
_VALUE: Final = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '\w+')?$")


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of the broker: it is observed, never desired."""

    name: str

    @property
    def key(self) -> Key:
        """A node is known by its name."""
        return ("node", self.name)

    @property
    def stage(self) -> Stage:
        """It comes before all else."""
        return Stage.EXCHANGE

    def facets(self) -> Mapping[str, Value]:
        """Nothing of it matters but that it is there."""
        return {}

    def ends(self) -> Sequence[Key]:
        """A node joins nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What the broker says when a declaration differs from what exists; values are its own text."""

    kind: str
    name: str
    facet: str
    received: str | None
    current: str | None

    def __str__(self) -> str:
        """Say it for people."""
        if self.current == _UNSEEN:
            return f"{self.kind} {self.name} exists with another {self.facet} than wanted"
        return f"{self.kind} {self.name} exists with {self.facet} {self.current}, wanted {self.received}"


def read_mismatch(refusal: ChannelClosed) -> Mismatch | None:
    """Return what differs, if that is why the broker refused a declaration."""
    if refusal.code != PRECONDITION_FAILED:
        return None
    found = _INEQUIVALENT.search(refusal.text)
    if found is None:
        return None
    kind, name, facet = found["kind"], found["name"], found["facet"]
    if found["current"] is None or found["current"].endswith(_CUT):
        return Mismatch(kind, name, facet, _UNSEEN, _UNSEEN)
    return Mismatch(kind, name, facet, _value(found["received"]), _value(found["current"]))


def _value(text: str) -> str | None:
    found = _VALUE.match(text)
    return found["value"] if found else None


async def survey(core: Core, spec: SetupSpec) -> Topology:
    """Return what exists of everything that `spec` could ask for, and more where that is seen."""
    return await _by_management(core) or await _by_asking(core, spec)


# ---------------------------------------------------------------- by the management API


async def _by_management(core: Core) -> Topology | None:
    prefix = f"{core.names.prefix}."
    queues = await core.management.queues(prefix)
    if queues is None:
        return None
    exchanges = await core.management.exchanges(prefix)
    bindings = await core.management.bindings(prefix)
    nodes = await core.management.nodes()
    if exchanges is None or bindings is None:
        return None
    entities: list[Entity] = [ClusterNode(name) for name in nodes or ()]
    entities += [_queue(core.names, queue) for queue in queues if not queue.exclusive]
    entities += [Exchange(e.name, e.type, e.durable, _arguments(e.arguments)) for e in exchanges]
    entities += map(_binding, bindings)
    return Topology.of(entities)


def _queue(names: Names, info: QueueInfo) -> QueueObject:
    values = {"x-queue-type": info.type, **info.arguments}
    if info.name not in {names.ledger, names.known, names.control}:
        policy = info.policy
        values |= {f"policy {name}": policy[name] for name in _HARMFUL if name in policy}
    return QueueObject(info.name, info.durable, _arguments(values))


def _binding(info: BindingInfo) -> Binding:
    return Binding(
        info.source,
        info.destination,
        "exchange" if info.destination_type == "exchange" else "queue",
        info.routing_key,
        _arguments(info.arguments),
    )


def _arguments(values: Mapping[str, Any]) -> Any:
    return arguments(
        {k: v if isinstance(v, (bool, int, str)) else repr(v) for k, v in values.items()}
    )


# ---------------------------------------------------------------- by asking over AMQP


async def _by_asking(core: Core, spec: SetupSpec) -> Topology:
    found: list[Entity] = []
    async with Questions(await core.reader()) as questions:
        for variants in _candidates(core.names, spec):
            entity = await _find(questions, variants)
            if entity is not None:
                found.append(entity)
    return Topology.of(found, verified=False)


def _candidates(names: Names, spec: SetupSpec) -> Iterable[list[Exchange | QueueObject]]:
    """Return all that the layout could want, each with its forms (a queue's types)."""
    by_key: dict[Key, list[Exchange | QueueObject]] = {}
    kinds: tuple[layout.QueueType, ...] = ("quorum", "classic")
    for kind in kinds:
        wanted = layout.layout(names, [(queue.name, kind) for queue in spec.queues], feed=kind)
        for entity in wanted:
            if isinstance(entity, (Exchange, QueueObject)):
                forms = by_key.setdefault(entity.key, [])
                if entity not in forms:
                    forms.append(entity)
    return by_key.values()


async def _find(
    questions: Questions, forms: Sequence[Exchange | QueueObject]
) -> Exchange | QueueObject | None:
    if await questions.refused(forms[0], passive=True) is not None:
        return None
    others: list[tuple[Exchange | QueueObject, Mismatch]] = []
    for form in forms:
        refusal = await questions.refused(form)
        if refusal is None:
            return form
        differs = read_mismatch(refusal)
        if differs is None:
            raise refusal
        others.append((form, differs))
    # Only the first difference is told, in alphabetical order: a queue of another type shows in
    # its dead-letter exchange already.
    same_type = [each for each in others if each[1].facet not in _TELLS_TYPE]
    return _with(*(same_type or others)[0])


def _with(form: Exchange | QueueObject, differs: Mismatch) -> Exchange | QueueObject:
    current = differs.current
    if isinstance(form, Exchange) and differs.facet == "type":
        return Exchange(form.name, current or "", form.durable, form.arguments)
    durable = current == "true" if differs.facet == "durable" else form.durable
    values = dict(form.arguments)
    if differs.facet not in {"durable", "type"}:
        values.pop(differs.facet, None)
        if current is not None:
            values[differs.facet] = int(current) if current.lstrip("-").isdigit() else current
    if isinstance(form, Exchange):
        return Exchange(form.name, form.kind, durable, arguments(values))
    return QueueObject(form.name, durable, arguments(values))


class Questions:
    """Asks the broker, over channels that are thrown away: a refusal closes its channel."""

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        """Ask over a connection."""
        self._link = link
        self._clock = clock or SystemClock()
        self._channel: Channel | None = None

    async def __aenter__(self) -> Self:
        """Begin; a channel is opened with the first question."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the channel that is left."""
        if self._channel is not None:
            await self._channel.close()

    async def ask(self, method: str, /, **values: Any) -> Any:
        """Call a method and return its answer; wait for a queue whose node is still starting.

        Raises:
            ChannelClosed: the broker refused.
            Unavailable: the broker did not answer, or a queue's node stays away.

        """
        ends_s = self._clock.monotonic_s() + _NODE_S
        while True:
            if self._channel is None or not self._channel.is_open:
                self._channel = await self._link.channel()
            try:
                return await self._channel.call(method, **values)
            except ChannelClosed as refusal:
                if not _is_away(refusal):
                    raise
                if self._clock.monotonic_s() >= ends_s:
                    raise Unavailable(str(refusal)) from refusal
            except Unavailable as error:
                if (queue := values.get("queue")) is None or not self._link.connected:
                    raise
                text = f"{error} when asked about queue {queue}; the node that holds it may be down"
                raise Unavailable(text) from error
            await asyncio.sleep(_NODE_GAP_S)

    async def declare(self, entity: Exchange | QueueObject, *, passive: bool = False) -> Any:
        """Declare something, or with `passive` only ask whether it exists."""
        values = dict(entity.arguments)
        if isinstance(entity, Exchange):
            return await self.ask(
                "exchange_declare",
                exchange=entity.name,
                exchange_type=entity.kind,
                durable=entity.durable,
                arguments=values,
                passive=passive,
            )
        return await self.ask(
            "queue_declare",
            queue=entity.name,
            durable=entity.durable,
            arguments=values,
            passive=passive,
        )

    async def refused(
        self, entity: Exchange | QueueObject, *, passive: bool = False
    ) -> ChannelClosed | None:
        """Declare, and return the broker's refusal if there is one."""
        try:
            await self.declare(entity, passive=passive)
        except ChannelClosed as refusal:
            if passive and refusal.code != NOT_FOUND:
                raise
            return refusal
        return None

    async def depth(self, queue: str) -> tuple[int, int] | None:
        """Return how many messages are ready in a queue and its consumers; None without it."""
        try:
            answer = await self.ask("queue_declare", queue=queue, passive=True)
        except ChannelClosed as refusal:
            if refusal.code == NOT_FOUND:
                return None
            raise
        return answer.message_count, answer.consumer_count


def _is_away(refusal: ChannelClosed) -> bool:
    """Tell whether a queue exists on a node that does not serve it (yet).

    RabbitMQ says so with the code for what does not exist; a node that has just started answers
    before its streams and quorum queues do.
    """
    return refusal.code == NOT_FOUND and refusal.text.startswith("NOT_FOUND - home node ")
