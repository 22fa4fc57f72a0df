"""The data of the memory broker: queues with their jobs, and who holds which."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from taskyard.shared.broker import Delivery
from taskyard.shared.topology import Key, Stage, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.adapters.memory.flow import MemoryConsumer
    from taskyard.shared.adapters.memory.session import Session
    from taskyard.shared.envelope import Envelope


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """A part of the state that exists only after set-up: the control log, the feed."""

    name: str

    @property
    def key(self) -> Key:
        """A room is known by its name."""
        return ("memory-room", self.name)

    @property
    def stage(self) -> Stage:
        """The feed comes last, since it witnesses the others."""
        return Stage.WITNESS

    def facets(self) -> Mapping[str, Value]:
        """A room has nothing but its name."""
        return {}

    def ends(self) -> Sequence[Key]:
        """A room joins nothing."""
        return ()


@dataclass(slots=True, eq=False)
class Stored:
    """One publish that the broker keeps.

    Attributes:
        envelope: as published, with its `message_id`.
        seq: its place among all publishes; kept over redeliveries.
        failures: hand-overs that ended with their holder.
        taken: a parked job that somebody holds.

    """

    envelope: Envelope
    seq: int
    failures: int = 0
    taken: bool = False


@dataclass(slots=True, eq=False)
class Handover:
    """A publish in somebody's hands: the token of a delivery.

    Attributes:
        live: it is still theirs; settling anything else is `LOST`.
        flow: whose credit it uses; None for a parked job.

    """

    session: Session
    lane: Lane
    stored: Stored
    flow: MemoryConsumer | None = None
    live: bool = True

    def delivery(self) -> Delivery:
        """Return it as the port shows it."""
        stored = self.stored
        return Delivery(
            envelope=stored.envelope,
            redelivered=stored.failures > 0,
            failures=stored.failures,
            token=self,
        )


@dataclass(slots=True, eq=False)
class Lane:
    """A queue: what is ready, due later and parked, and who consumes it."""

    name: str
    ready: list[tuple[int, int, Stored]] = field(default_factory=list[tuple[int, int, Stored]])
    later: list[tuple[int, int, Stored]] = field(default_factory=list[tuple[int, int, Stored]])
    parked: dict[int, Stored] = field(default_factory=dict[int, Stored])
    flows: list[MemoryConsumer] = field(default_factory=list["MemoryConsumer"])
    unsettled: int = 0

    def put_ready(self, stored: Stored) -> None:
        """Add a job that may start now, before all of lower priority and all that came later."""
        heappush(self.ready, (-stored.envelope.priority, stored.seq, stored))

    def put_later(self, stored: Stored, due_ms: int) -> None:
        """Add a job that is due at an instant."""
        heappush(self.later, (due_ms, stored.seq, stored))

    def next_due_ms(self) -> int | None:
        """Return the instant of the next due job, if one waits."""
        return self.later[0][0] if self.later else None

    def release_due(self, now_ms: int) -> bool:
        """Make ready what is due, in the order of due times; returns whether there was any."""
        moved = False
        while self.later and self.later[0][0] <= now_ms:
            self.put_ready(heappop(self.later)[2])
            moved = True
        return moved

    def pump(self) -> None:
        """Hand ready jobs to the consumers that have credit, in turns."""
        while self.ready:
            flow = self._flow_with_credit()
            if flow is None:
                return
            flow.hand_over(heappop(self.ready)[2])

    def _flow_with_credit(self) -> MemoryConsumer | None:
        for index, flow in enumerate(self.flows):
            if flow.has_credit:
                # The one that is served goes to the end, so that the others get their turn.
                self.flows.append(self.flows.pop(index))
                return flow
        return None

    def oldest_ms(self) -> int | None:
        """Return the instant at which the oldest ready job was due."""
        return min((stored.envelope.due_ms for _, _, stored in self.ready), default=None)
