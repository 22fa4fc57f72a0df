"""Bring a broker to what the declared queues need: look, compare, apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.catalogue import load_queues
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.naming import check_queue_name
from taskyard.shared.topology import Action, Create, Differs, plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from taskyard.shared.broker import Broker
    from taskyard.shared.task import Queue
    from taskyard.shared.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What lies between a broker and what is asked of it.

    Attributes:
        actions: in the order in which they are safe to apply.
        verified: False where bindings could not be looked at.

    """

    actions: tuple[Action, ...]
    verified: bool

    @property
    def differences(self) -> tuple[Differs, ...]:
        """What exists otherwise than it should and cannot be changed in place."""
        return tuple(action for action in self.actions if isinstance(action, Differs))

    @property
    def missing(self) -> tuple[Action, ...]:
        """What is known not to be as it should; unverified bindings are not counted."""
        return tuple(
            action
            for action in self.actions
            if not (isinstance(action, Create) and action.unverified)
        )


def spec_of(modules: Sequence[str], queues: Sequence[str], *, ledger: bool) -> SetupSpec:
    """Return what is asked for by modules and by `NAME[:TYPE]` texts.

    Raises:
        ConfigurationError: nothing is asked for, a name is declared twice, or one is not valid.

    """
    declared = load_queues(modules) if modules else {}
    specs = dict(specs_of(declared))
    for text in queues:
        name, _, kind = text.partition(":")
        check_queue_name(name)
        if kind not in ("", "auto", "classic", "quorum"):
            msg = f"--queue {text}: type {kind!r} is not auto, classic or quorum"
            raise ConfigurationError(msg)
        if name in specs and kind in ("", specs[name].type):
            continue
        specs[name] = QueueSpec(name=name, type=kind or "auto")
    if not specs:
        msg = "nothing to set up: name a MODULE that declares queues, or --queue NAME"
        raise ConfigurationError(msg)
    return SetupSpec(queues=tuple(specs[name] for name in sorted(specs)), ledger=ledger)


def specs_of(queues: Mapping[str, Queue[Any]]) -> dict[str, QueueSpec]:
    """Return declared queues as what is to be set up."""
    return {name: QueueSpec(name=name, type=queue.type) for name, queue in queues.items()}


async def make_plan(broker: Broker, spec: SetupSpec) -> Plan:
    """Compare the broker with what is asked for."""
    observed = await broker.observe(spec)
    return _plan(broker.desired(spec, observed), observed)


async def apply_spec(broker: Broker, spec: SetupSpec) -> Plan:
    """Bring the broker to what is asked for and return what was done.

    Raises:
        ConfigurationError: something exists with other, immutable properties; nothing was changed.

    """
    made = await make_plan(broker, spec)
    if made.differences:
        listed = "; ".join(describe(action) for action in made.differences)
        msg = (
            f"nothing was changed: {listed}; "
            "remove it when it is empty, or keep its type in the declaration"
        )
        raise ConfigurationError(msg)
    await broker.apply(made.actions)
    return made


def describe(action: Action) -> str:
    """Return an action as one line for people."""
    if isinstance(action, Create):
        return f"create {_name(action.entity.key)}"
    if isinstance(action, Differs):
        listed = ", ".join(str(difference) for difference in action.differences)
        return f"{_name(action.entity.key)} differs: {listed}"
    return f"remove {_name(action.entity.key)}"


def _plan(desired: Topology, observed: Topology) -> Plan:
    return Plan(actions=tuple(plan(desired, observed)), verified=observed.verified)


def _name(key: tuple[str, ...]) -> str:
    kind, *rest = key
    if kind == "binding":
        source, _, destination, routing_key = rest[:4]
        return f"binding {source} -> {destination}" + (f" ({routing_key})" if routing_key else "")
    return f"{kind} {' '.join(rest)}"
