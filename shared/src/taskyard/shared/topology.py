"""What a broker holds, as data, and the pure step from desired and observed to actions.

An adapter says what it wants (its layout) and what it found; `plan` compares; the adapter applies.
Nothing here knows a technology: an adapter may bring its own kind of `Entity`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol, TypeAlias

__all__ = [
    "NO_ARGUMENTS",
    "Action",
    "Arguments",
    "Binding",
    "Create",
    "Difference",
    "Differs",
    "Entity",
    "Exchange",
    "Key",
    "QueueObject",
    "Remove",
    "Stage",
    "Topology",
    "Value",
    "WorkQueue",
    "apply_to",
    "arguments",
    "plan",
]

#: A value that a broker takes as an argument.
Value: TypeAlias = bool | int | str
#: Arguments as sorted pairs: hashable, and equal when their content is.
Arguments: TypeAlias = tuple[tuple[str, Value], ...]
#: The identity of an entity: its kind, then what tells it from its siblings.
Key: TypeAlias = tuple[str, ...]

NO_ARGUMENTS: Arguments = ()


def arguments(values: Mapping[str, Value]) -> Arguments:
    """Return a mapping of arguments in the one form that entities carry."""
    return tuple(sorted(values.items()))


class Stage(IntEnum):
    """When an entity is created, relative to the others; removal goes the other way."""

    EXCHANGE = 0
    QUEUE = 1
    BINDING = 2
    WITNESS = 3


class Entity(Protocol):
    """Anything that a broker holds and an adapter can create."""

    @property
    def key(self) -> Key:
        """Which entity this is; two with one key are the same thing, perhaps in two states."""
        ...

    @property
    def stage(self) -> Stage:
        """When it is created, relative to the others."""
        ...

    def facets(self) -> Mapping[str, Value]:
        """Return what may differ between the desired and the observed one."""
        ...

    def ends(self) -> Sequence[Key]:
        """Return what it joins, first the source, then where it leads; it must go before they do."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """A named point that routes messages.

    Attributes:
        name: as the broker knows it.
        kind: how it routes (`direct`, `fanout`, `topic`).
        durable: it survives a restart of the broker.
        arguments: sorted pairs, see `arguments`.

    """

    name: str
    kind: str
    durable: bool = True
    arguments: Arguments = NO_ARGUMENTS

    @property
    def key(self) -> Key:
        """An exchange is known by its name."""
        return ("exchange", self.name)

    @property
    def stage(self) -> Stage:
        """Exchanges come first: queues name them in their arguments."""
        return Stage.EXCHANGE

    def facets(self) -> Mapping[str, Value]:
        """Kind, durability and arguments are fixed when an exchange is created."""
        return {"kind": self.kind, "durable": self.durable, **dict(self.arguments)}

    def ends(self) -> Sequence[Key]:
        """An exchange joins nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class QueueObject:
    """A queue of the broker: what it is made of, not what it is for.

    Attributes:
        name: as the broker knows it.
        durable: it survives a restart of the broker.
        arguments: sorted pairs, see `arguments`.

    """

    name: str
    durable: bool = True
    arguments: Arguments = NO_ARGUMENTS

    @property
    def key(self) -> Key:
        """A queue is known by its name."""
        return ("queue", self.name)

    @property
    def stage(self) -> Stage:
        """Queues come after exchanges and before bindings."""
        return Stage.QUEUE

    def facets(self) -> Mapping[str, Value]:
        """Durability and arguments are fixed when a queue is created."""
        return {"durable": self.durable, **dict(self.arguments)}

    def ends(self) -> Sequence[Key]:
        """A queue joins nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Binding:
    """A route from an exchange to a queue or to another exchange.

    Attributes:
        source: the exchange's name.
        destination: the name of what it leads to.
        destination_kind: whether that is a queue or an exchange.
        routing_key: a key or a pattern; empty where the exchange looks at none.
        arguments: sorted pairs, see `arguments`.
        witness: it records or proves what the other routes carry (a feed, a probe's sink), so it
            comes up after them and goes down before them: with it alone, a publish would seem
            routable and be lost. Not part of its identity.

    """

    source: str
    destination: str
    destination_kind: Literal["queue", "exchange"] = "queue"
    routing_key: str = ""
    arguments: Arguments = NO_ARGUMENTS
    witness: bool = field(default=False, compare=False)

    @property
    def key(self) -> Key:
        """A binding has no name: it is known by all that it says."""
        flat = (f"{name}={value!r}" for name, value in self.arguments)
        return (
            "binding",
            self.source,
            self.destination_kind,
            self.destination,
            self.routing_key,
            *flat,
        )

    @property
    def stage(self) -> Stage:
        """Bindings come last: both ends must exist."""
        return Stage.WITNESS if self.witness else Stage.BINDING

    def facets(self) -> Mapping[str, Value]:
        """All of it is its identity, so nothing can differ."""
        return {}

    def ends(self) -> Sequence[Key]:
        """The exchange it starts from, and what it leads to."""
        return (("exchange", self.source), (self.destination_kind, self.destination))


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A lane for jobs in a broker that needs no objects around it (a row, a tube).

    Attributes:
        name: the queue's own name, as users declare it.

    """

    name: str

    @property
    def key(self) -> Key:
        """A lane is known by its name."""
        return ("work-queue", self.name)

    @property
    def stage(self) -> Stage:
        """A lane is a queue."""
        return Stage.QUEUE

    def facets(self) -> Mapping[str, Value]:
        """A lane has nothing but its name."""
        return {}

    def ends(self) -> Sequence[Key]:
        """A lane joins nothing."""
        return ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A set of entities: what is wanted, or what was found.

    Attributes:
        entities: all of them.
        verified: False where bindings could not be listed (no management API): their absence
            then means nothing, and whoever prints the plan says "bindings unverified".
        unwanted: of what is wanted: what has to go where it is there.

    """

    entities: frozenset[Entity] = frozenset()
    verified: bool = True
    unwanted: frozenset[Entity] = frozenset()

    @classmethod
    def of(
        cls,
        entities: Iterable[Entity],
        *,
        verified: bool = True,
        unwanted: Iterable[Entity] = (),
    ) -> Topology:
        """Gather entities."""
        return cls(frozenset(entities), verified, frozenset(unwanted))

    def __iter__(self) -> Iterator[Entity]:
        return iter(self.entities)

    def __len__(self) -> int:
        return len(self.entities)

    def __or__(self, other: Topology) -> Topology:
        return Topology(
            self.entities | other.entities,
            self.verified and other.verified,
            self.unwanted | other.unwanted,
        )

    def by_key(self) -> dict[Key, Entity]:
        """Return the entities by their identity."""
        return {entity.key: entity for entity in self.entities}


@dataclass(frozen=True, slots=True)
class Difference:
    """One facet in which what exists is not what is wanted (None: it has no such facet)."""

    facet: str
    desired: Value | None
    observed: Value | None

    def __str__(self) -> str:
        return f"{self.facet} is {self.observed!r}, wanted {self.desired!r}"


@dataclass(frozen=True, slots=True)
class Create:
    """Create an entity.

    Attributes:
        entity: what to create.
        unverified: whether it exists could not be seen; creating it again is harmless.

    """

    entity: Entity
    unverified: bool = False


@dataclass(frozen=True, slots=True)
class Differs:
    """An entity exists with other, immutable properties: shown and migrated, never replaced silently."""

    entity: Entity
    observed: Entity
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an entity that was asked to go.

    Attributes:
        entity: what to remove.
        unverified: whether it is there could not be seen; removing it again is harmless.

    """

    entity: Entity
    unverified: bool = False


Action: TypeAlias = Create | Differs | Remove


def plan(
    desired: Topology, observed: Topology, *, retired: Collection[Entity] = ()
) -> list[Action]:
    """Return what turns `observed` into `desired`, in an order that is safe to apply.

    Removals come first: witnesses, then the other bindings, then what they joined. While a binding
    to a feed or to a probe's sink outlives its queue, publishes seem routable and are lost. What
    exists and is not desired stays, since another service may have declared it; it goes only when
    it is `retired` or `unwanted`, together with the observed bindings at its ends. What is desired
    is never removed.

    Args:
        desired: what the layout wants.
        observed: what the broker holds.
        retired: entities to remove, if they exist.

    """
    removals = _removals(desired, observed, desired.unwanted.union(retired))
    existing = observed.by_key()
    differs: list[Differs] = []
    creates: list[Create] = []
    for entity in sorted(desired, key=_creation_order):
        found = existing.get(entity.key)
        if found is None:
            blind = entity.stage >= Stage.BINDING and not observed.verified
            creates.append(Create(entity, unverified=blind))
        elif differences := _differences(entity, found):
            differs.append(Differs(entity, found, differences))
    return [*removals, *differs, *creates]


def apply_to(observed: Topology, actions: Iterable[Action]) -> Topology:
    """Return what a broker holds after the actions, as the adapters apply them.

    `Differs` changes nothing: an immutable difference is migrated on request.
    """
    entities = observed.by_key()
    for action in actions:
        match action:
            case Create(entity=entity):
                entities[entity.key] = entity
            case Remove(entity=entity):
                entities.pop(entity.key, None)
            case Differs():
                pass
    return Topology(frozenset(entities.values()), observed.verified)


def _removals(desired: Topology, observed: Topology, retired: frozenset[Entity]) -> list[Remove]:
    wanted = {entity.key for entity in desired}
    going = {entity.key for entity in retired} - wanted
    if not going:
        return []
    # Where bindings could not be listed, the caller names those that must go in `retired`.
    known = observed if observed.verified else observed | Topology.of(_bindings(retired))
    doomed = [
        entity
        for entity in known
        if entity.key in going
        or (entity.key not in wanted and any(end in going for end in entity.ends()))
    ]
    doomed.sort(key=lambda entity: (-_down(entity, going), entity.key))
    seen = observed.by_key()
    return [Remove(entity, unverified=entity.key not in seen) for entity in doomed]


def _down(entity: Entity, going: Collection[Key]) -> Stage:
    """Return the stage of an entity on the way down.

    A binding that was read back from a broker does not say that it is a witness. On the way down
    those are the ones that lead to something that stays.
    """
    if entity.stage >= Stage.BINDING and any(end not in going for end in entity.ends()[1:]):
        return Stage.WITNESS
    return entity.stage


def _bindings(entities: Iterable[Entity]) -> Iterator[Entity]:
    return (entity for entity in entities if entity.stage >= Stage.BINDING)


def _creation_order(entity: Entity) -> tuple[Stage, Key]:
    return (entity.stage, entity.key)


def _differences(desired: Entity, observed: Entity) -> tuple[Difference, ...]:
    want, have = desired.facets(), observed.facets()
    return tuple(
        Difference(facet, want.get(facet), have.get(facet))
        for facet in sorted({*want, *have})
        if want.get(facet) != have.get(facet)
    )
