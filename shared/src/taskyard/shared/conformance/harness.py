"""What the suite needs from whoever tests an adapter: handles, deaths, set-up and time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, cast
from uuid import uuid4

from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.topology import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker


class Mortal(Protocol):
    """The seam for tests that adapters have beside the port."""

    async def crash(self) -> None:
        """Drop everything as a killed process does, without any goodbye."""
        ...


class Harness(ABC):
    """One broker under test, seen by as many handles as the test opens.

    Attributes:
        lateness_s: how late a delayed job may come while the broker is otherwise idle.
        patience_s: how long anything that must happen may take, a takeover after a death included.
        calm_s: how long to watch before believing that nothing more happens.
        tick_ms: how far one `turn` goes while a test waits for something due.

    """

    lateness_s: float = 0.5
    patience_s: float = 10.0
    calm_s: float = 0.3
    tick_ms: int = 20

    def __init__(self) -> None:
        """Start with no handles."""
        self._handles: list[Broker] = []

    @abstractmethod
    def make(self) -> Broker:
        """Return a further handle on the broker, not yet open, as if in another process."""

    async def open(self) -> Broker:
        """Return a further handle, open; `close` closes it."""
        handle = self.make()
        await handle.open()
        self._handles.append(handle)
        return handle

    async def kill(self, handle: Broker) -> None:
        """Let the process of a handle die; by default through the adapter's `crash`."""
        self._handles.remove(handle)
        await cast("Mortal", handle).crash()

    async def setup(self, queues: Sequence[str], *, ledger: bool = False) -> None:
        """Set queues up, and the feed if asked for; handles are opened after it."""
        handle = self.make()
        await handle.open()
        try:
            spec = SetupSpec(queues=tuple(QueueSpec(name=name) for name in queues), ledger=ledger)
            observed = await handle.observe(spec)
            await handle.apply(plan(handle.desired(spec, observed), observed))
        finally:
            await handle.close()

    def fresh(self, stem: str) -> str:
        """Return a name that no other test uses: brokers may be shared between tests."""
        return f"{stem}-{uuid4().hex[:10]}"

    async def queues(self, count: int = 1, *, ledger: bool = False) -> list[str]:
        """Set up so many queues of fresh names and return them."""
        names = [self.fresh("q") for _ in range(count)]
        await self.setup(names, ledger=ledger)
        return names

    async def turn(self, ms: int) -> None:
        """Let `ms` milliseconds pass on the broker's clock."""
        await asyncio.sleep(ms / 1000)

    async def calm(self) -> None:
        """Wait long enough to believe that nothing more happens by itself."""
        await asyncio.sleep(self.calm_s)

    async def block(self) -> None:
        """Make the broker refuse publishes (only for `BlockedSuite`)."""
        raise NotImplementedError

    async def unblock(self) -> None:
        """End what `block` began."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close every handle that is still open."""
        while self._handles:
            await self._handles.pop().close()
