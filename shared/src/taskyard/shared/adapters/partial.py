"""What an adapter inherits for the rooms that its technology lacks: refusals in words.

A class that derives from `Partial` says in its `capabilities` what it refuses and why, and writes
only the rooms that it has. What it inherits and does not refuse is an omission, and says so too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from taskyard.shared.broker import Capabilities, Connected, Lost
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import Create, Topology, WorkQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from taskyard.shared.broker import (
        BrokerEvent,
        Capability,
        ControlBatch,
        Delivery,
        FeedConsumer,
        Held,
        Inbox,
        Lease,
        Owner,
        SetupSpec,
    )
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.topology import Action

_CLOCK: Final = SystemClock()


def refuse(what: str, capability: Capability) -> NoReturn:
    """Raise the ConfigurationError of whoever uses what an adapter refuses."""
    reason = capability.note or "the adapter does not provide it"
    raise ConfigurationError(f"this broker has no {what}: {reason}")


class Partial:
    """What many technologies lack, refused with the adapter's reason, and set-up of plain queues."""

    capabilities: Capabilities = Capabilities()

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable; for a technology without connections, always."""
        return True

    @property
    def blocked(self) -> bool:
        """Whether publishes are refused for now; many technologies never do."""
        return False

    @property
    def recording(self) -> bool:
        """Without a feed nothing is recorded."""
        return False

    def now_ms(self) -> int:
        """Return the machine's time, for a technology that has none of its own."""
        return _CLOCK.now_ms()

    async def queues(self) -> Sequence[str]:
        """Return the names of the work queues that exist, sorted; for the adapter to write."""
        raise NotImplementedError

    async def create_queue(self, name: str) -> None:
        """Make a queue and its parking lot exist; for the adapter to write."""
        raise NotImplementedError

    def desired(self, spec: SetupSpec, observed: Topology) -> Topology:
        """Want the queues: many technologies need nothing else."""
        return Topology.of(WorkQueue(queue.name) for queue in spec.queues)

    async def observe(self, spec: SetupSpec) -> Topology:
        """Find the queues."""
        return Topology.of(WorkQueue(name) for name in await self.queues())

    async def apply(self, actions: Sequence[Action]) -> None:
        """Create queues (ConfigurationError for anything else)."""
        for action in actions:
            if not isinstance(action, Create) or not isinstance(action.entity, WorkQueue):
                raise ConfigurationError(f"this broker only creates queues, so not: {action}")
            await self.create_queue(action.entity.name)

    async def events(self) -> AsyncIterator[BrokerEvent]:
        """Yield the present state; it never changes where there is no connection to lose."""
        yield Connected() if self.connected else Lost("not open")

    async def record(self, records: Sequence[FeedRecord], *, deadline_s: float) -> bool:
        """Without a feed no record becomes durable."""
        return False

    async def feed(self, *, credit: int) -> FeedConsumer:
        """Refuse (ConfigurationError)."""
        refuse("lifecycle feed", self.capabilities.feed)

    async def append_control(
        self, records: Sequence[ControlRecord], *, deadline_s: float = 10.0
    ) -> None:
        """Refuse (ConfigurationError)."""
        refuse("control log", self.capabilities.control)

    async def draining(self, *, deadline_s: float = 5.0) -> ControlRecord | None:
        """Without a control log nobody can ask producers to send nothing."""
        if self.capabilities.control:
            raise NotImplementedError
        return None

    async def follow_control(self, after: int | None = None) -> AsyncIterator[ControlBatch]:
        """Refuse (ConfigurationError)."""
        refuse("control log", self.capabilities.control)
        yield  # makes this a generator, as the port has it

    async def lock(self, name: str, owner: Owner) -> Lease | Held:
        """Refuse (ConfigurationError)."""
        refuse("locks", self.capabilities.lock)

    async def locks(self) -> Mapping[str, Held]:
        """Refuse (ConfigurationError)."""
        refuse("locks", self.capabilities.lock)

    async def inbox(self) -> Inbox:
        """Refuse (ConfigurationError)."""
        refuse("addresses for replies", self.capabilities.replies)

    async def extend(self, delivery: Delivery, until_ms: int) -> bool:
        """Without leases a delivery stays ours for as long as its holder lives."""
        return True
