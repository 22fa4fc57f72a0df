"""Bring a broker to what the declared queues need: look, compare, apply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from taskyard.broker_setup.recording import Change, changes, in_force, left_out
from taskyard.broker_setup.session import operator
from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.catalogue import load_queues
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.naming import check_queue_name
from taskyard.shared.recording import EVERYTHING, Policy
from taskyard.shared.topology import Action, Create, Differs, plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from taskyard.shared.broker import Broker
    from taskyard.shared.task import Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What lies between a broker and what is asked of it.

    Attributes:
        actions: in the order in which they are safe to apply.
        verified: False where bindings could not be looked at.
        recording: queues whose recording policy is to change.
        logged: there is a control log that could be read.

    """

    actions: tuple[Action, ...]
    verified: bool
    recording: tuple[Change, ...] = ()
    logged: bool = True

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
            if isinstance(action, Differs) or not action.unverified
        )

    @property
    def lines(self) -> list[str]:
        """All that is known not to be as it should, for people."""
        return [*map(describe, self.missing), *map(str, self.recording)]


def spec_of(
    modules: Sequence[str], queues: Sequence[str], *, ledger: bool, policy: Policy = EVERYTHING
) -> SetupSpec:
    """Return what is asked for by modules and by `NAME[:TYPE]` texts.

    Args:
        modules: import paths.
        queues: that no module declares; what is recorded of them stays as it is.
        ledger: with the lifecycle feed.
        policy: of declared queues that do not say what is recorded of them.

    Raises:
        ConfigurationError: nothing is asked for, a name is declared twice, or one is not valid.

    """
    declared = load_queues(modules) if modules else {}
    specs = dict(specs_of(declared, policy))
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


def specs_of(queues: Mapping[str, Queue[Any]], policy: Policy = EVERYTHING) -> dict[str, QueueSpec]:
    """Return declared queues as what is to be set up; `policy` is of those that name none."""
    return {
        name: QueueSpec(
            name=name,
            type=queue.type,
            policy=Policy(queue.record or policy.jobs, queue.record_arguments or policy.arguments),
        )
        for name, queue in queues.items()
    }


async def make_plan(broker: Broker, spec: SetupSpec) -> Plan:
    """Compare the broker with what is asked for."""
    known = await in_force(broker)
    spec = replace(spec, left_out=left_out(spec, known or {}))
    observed = await broker.observe(spec)
    return Plan(
        actions=tuple(plan(broker.desired(spec, observed), observed)),
        verified=observed.verified,
        recording=tuple(changes(spec, known or {})),
        logged=known is not None,
    )


async def apply_spec(broker: Broker, spec: SetupSpec) -> Plan:
    """Bring the broker to what is asked for and return what was done.

    A queue's recording policy is made known before the queue is: whoever meets one of its jobs can
    know of it.

    Raises:
        ControlUnavailable: a policy was to change, and the control log cannot be written now.
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
    if made.recording:
        if not made.logged:
            bare = replace(spec, queues=())
            observed = await broker.observe(bare)
            await broker.apply(plan(broker.desired(bare, observed), observed))
        by, at_ms = operator(), broker.now_ms()
        await broker.append_control([each.record(by=by, at_ms=at_ms) for each in made.recording])
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


def _name(key: tuple[str, ...]) -> str:
    kind, *rest = key
    if kind == "binding":
        source, _, destination, routing_key = rest[:4]
        return f"binding {source} -> {destination}" + (f" ({routing_key})" if routing_key else "")
    return f"{kind} {' '.join(rest)}"
