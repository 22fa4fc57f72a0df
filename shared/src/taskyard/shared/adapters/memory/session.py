"""What dies with one handle's connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.shared.adapters.memory.flow import (
        MemoryConsumer,
        MemoryFeedConsumer,
        MemoryInbox,
        MemoryLease,
    )
    from taskyard.shared.adapters.memory.lane import Handover


@dataclass(slots=True, eq=False)
class Session:
    """A handle's connection: everything that the broker gives back when it ends."""

    handovers: set[Handover] = field(default_factory=set["Handover"])
    flows: list[MemoryConsumer] = field(default_factory=list["MemoryConsumer"])
    feeds: list[MemoryFeedConsumer] = field(default_factory=list["MemoryFeedConsumer"])
    leases: list[MemoryLease] = field(default_factory=list["MemoryLease"])
    inboxes: list[MemoryInbox] = field(default_factory=list["MemoryInbox"])
