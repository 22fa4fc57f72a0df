"""Jobs in the memory of one process: for tests, demonstrations and the `eager` mode.

Handles that share a `MemoryState` stand for processes that share a server. The clock may be turned
by hand, publishes may be blocked, and a handle may die between any two steps of a settle: what
cannot be provoked on a real broker at will is provoked here.
"""

from __future__ import annotations

from taskyard.shared.adapters.memory.broker import MemoryBroker
from taskyard.shared.adapters.memory.lane import MemoryRoom
from taskyard.shared.adapters.memory.registry import connect, state_of
from taskyard.shared.adapters.memory.state import MemoryState, SimulatedCrash

__all__ = [
    "MemoryBroker",
    "MemoryRoom",
    "MemoryState",
    "SimulatedCrash",
    "connect",
    "state_of",
]
