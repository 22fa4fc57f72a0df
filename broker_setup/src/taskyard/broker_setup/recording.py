"""Recording policies between what queues declare and what the control log says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskyard.broker_setup.intents import read_intents
from taskyard.shared.control import ControlUnavailable
from taskyard.shared.recording import EVERYTHING, Policy, policies_of, policy_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.broker import Broker, SetupSpec
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Change:
    """A queue whose declared policy is not the one in force."""

    queue: str
    was: Policy
    now: Policy

    def __str__(self) -> str:
        return f"record of queue {self.queue} {self.now} (was {self.was})"

    def record(self, *, by: str, at_ms: int) -> ControlRecord:
        """Return what makes it known."""
        return policy_record(self.queue, self.now, by=by, at_ms=at_ms)


def policy_by(settings: Settings) -> Policy:
    """Return the policy of queues that declare none."""
    return Policy(settings.record, settings.record_arguments)


async def in_force(broker: Broker) -> dict[str, Policy] | None:
    """Return the policies that the control log knows, by queue; None while there is no log to read."""
    if not broker.capabilities.control:
        return {}
    try:
        return policies_of((await read_intents(broker)).others)
    except ControlUnavailable:
        return None


def changes(spec: SetupSpec, known: Mapping[str, Policy]) -> Sequence[Change]:
    """Return what is declared otherwise than it is known."""
    return tuple(
        Change(queue.name, was, queue.policy)
        for queue in spec.queues
        if queue.policy is not None and queue.policy != (was := known.get(queue.name, EVERYTHING))
    )


def left_out(spec: SetupSpec, known: Mapping[str, Policy]) -> frozenset[str]:
    """Return the queues whose published jobs the feed is not to get, declared here or elsewhere."""
    declared = {queue.name: queue.policy for queue in spec.queues if queue.policy is not None}
    return frozenset(
        queue for queue, policy in {**known, **declared}.items() if policy.jobs != "all"
    )
