"""The `memory` adapter passes the conformance suite, on a clock turned by hand and on the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from taskyard.shared.adapters.memory import MemoryBroker, MemoryState
from taskyard.shared.clock import VirtualClock
from taskyard.shared.conformance import BlockedSuite, BrokerSuite, Harness
from taskyard.shared.conformance.consuming import Consuming
from taskyard.shared.conformance.delays import Delays


class MemoryHarness(Harness):
    """Handles on one state, whose clock the tests turn."""

    lateness_s = 0.02
    calm_s = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.state = MemoryState(VirtualClock())

    def make(self) -> MemoryBroker:
        return MemoryBroker(self.state)

    async def turn(self, ms: int) -> None:
        self.state.advance(ms)
        await asyncio.sleep(0)

    async def block(self) -> None:
        self.state.block("disk")

    async def unblock(self) -> None:
        self.state.unblock()


class RealTimeHarness(MemoryHarness):
    """The same on the machine's clock: nobody turns it, so due jobs must come by themselves."""

    lateness_s = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.state = MemoryState()

    async def turn(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)


class TestMemory(BrokerSuite, BlockedSuite):
    """The suite on a virtual clock (LQ-22, LQ-23)."""

    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        harness = MemoryHarness()
        yield harness
        await harness.close()


class TestMemoryInRealTime(Consuming, Delays):
    """What depends on time, on the machine's clock (LQ-22, LQ-23)."""

    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        harness = RealTimeHarness()
        yield harness
        await harness.close()
