"""What a database holds, as entities: queues, the control log, the feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.control_log import append
from taskyard.shared.adapters.sql.feeding import LIMIT_BYTES
from taskyard.shared.adapters.sql.session import LEFT_OUT
from taskyard.shared.control import genesis
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.naming import check_queue_name
from taskyard.shared.recording import LeftOut
from taskyard.shared.topology import Create, Differs, Remove, Stage, Topology, WorkQueue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.broker import SetupSpec
    from taskyard.shared.topology import Action, Entity, Key, Value


@dataclass(frozen=True, slots=True)
class SqlPart:
    """A part of the database that is in use only after set-up: the control log, the feed."""

    name: str

    @property
    def key(self) -> Key:
        """A part is known by its name."""
        return ("part", self.name)

    @property
    def stage(self) -> Stage:
        """The feed comes last, since it witnesses the others."""
        return Stage.WITNESS

    def facets(self) -> Mapping[str, Value]:
        """A part has nothing but its name."""
        return {}

    def ends(self) -> Sequence[Key]:
        """A part joins nothing."""
        return ()


CONTROL_PART: Final = SqlPart("control")
FEED_PART: Final = SqlPart("feed")


def desired(spec: SetupSpec, observed: Topology) -> Topology:
    """Return what should exist; a queue's type means nothing here (every queue has priorities)."""
    wanted: set[Entity] = {CONTROL_PART}
    wanted |= {WorkQueue(check_queue_name(queue.name)) for queue in spec.queues}
    if spec.ledger or FEED_PART in observed.entities:
        wanted.add(FEED_PART)
    names = {entity.name for entity in (*wanted, *observed) if isinstance(entity, WorkQueue)}
    wanted |= {LeftOut(name) for name in spec.left_out & names}
    told = {queue.name for queue in spec.queues} - spec.left_out
    return Topology.of(wanted, unwanted=map(LeftOut, told))


def observe(session: Session) -> Topology:
    """Return what exists."""
    catalogue = session.catalogue()
    found: set[Entity] = {WorkQueue(name) for name in catalogue.queues}
    if catalogue.control:
        found.add(CONTROL_PART)
    if catalogue.feed_limit is not None:
        found.add(FEED_PART)
    found |= {LeftOut(name) for name in catalogue.left_out}
    return Topology.of(found)


def apply(session: Session, actions: Sequence[Action]) -> None:
    """Carry out actions, in one transaction.

    Raises:
        ConfigurationError: one would lose jobs, or makes no sense here; nothing was done.

    """
    for action in actions:
        match action:
            case Create(entity=WorkQueue(name=name)):
                session.run(queries.QUEUE_CREATE, (name,))
            case Create(entity=LeftOut(queue=name)):
                session.run(queries.META_SET, (f"{LEFT_OUT}{name}", 1))
            case Remove(entity=LeftOut(queue=name)):
                session.run(queries.META_REMOVE, (f"{LEFT_OUT}{name}",))
            case Create(entity=SqlPart() as part):
                _create_part(session, part)
            case Remove(entity=WorkQueue(name=name)):
                _remove_queue(session, name)
            case Remove(entity=SqlPart(name="feed")):
                session.run(queries.META_REMOVE, ("feed_limit",))
                session.run(queries.FEED_CLEAR)
                session.run(queries.META_SET, ("feed_bytes", 0))
            case Create(entity=entity) | Remove(entity=entity) | Differs(entity=entity):
                msg = f"{' '.join(entity.key)}: an SQLite broker cannot {_verb(action)} that"
                raise ConfigurationError(msg)
        session.topology_changed()


def _create_part(session: Session, part: SqlPart) -> None:
    catalogue = session.catalogue()
    if part == FEED_PART and catalogue.feed_limit is None:
        session.run(queries.META_SET, ("feed_limit", LIMIT_BYTES))
    elif part == CONTROL_PART and not catalogue.control:
        session.run(queries.META_SET, ("control", 1))
        session.topology_changed()
        append(session, [genesis(session.now_ms())])


def _remove_queue(session: Session, name: str) -> None:
    id = session.catalogue().queues.get(name)
    if id is None:
        return
    (left,) = session.one(queries.QUEUE_CONTENT, {"id": id, "name": name})
    if left:
        msg = f"queue {name!r} holds {left!r} jobs and is not removed"
        raise ConfigurationError(msg)
    session.run(queries.QUEUE_REMOVE, (id,))


def _verb(action: Action) -> str:
    return type(action).__name__.lower().replace("differs", "change")
