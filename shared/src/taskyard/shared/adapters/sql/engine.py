"""One thread that owns the connection: gathers waiting writes into one transaction, and watches.

Writes that arrive while a transaction runs form the next one (group commit without a timer).
Units are functions of the session without other effects, so a group that fails is undone whole
and, where the fault may be one unit's, tried again unit by unit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Final, TypeVar

from taskyard.shared.adapters.sql.carrier import Carrier
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.unit import Unit, expire
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.sql.connection import Connector
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.adapters.sql.watch import Watch

_log = get_logger(__name__)

T = TypeVar("T")

#: Most units and most weight (roughly: jobs) in one transaction, so that others get their turn.
_GROUP_UNITS: Final = 512
_GROUP_WEIGHT: Final = 8192

#: The thread answers a little before the caller gives up, so that the caller hears why.
_MARGIN_S: Final = 0.05


class Engine:
    """The thread, and how the loop talks to it."""

    def __init__(
        self,
        connector: Connector,
        watch: Watch,
        *,
        tell: Callable[[str | None], None],
    ) -> None:
        """Belong to a database; `start` opens it.

        Args:
            connector: opens the database.
            watch: looks for what others wrote.
            tell: called on the loop with why the database was lost, or None when it is back.

        """
        self._carrier = Carrier(
            connector,
            watch,
            report=lambda reason: self._call(tell, reason),
            notify=lambda topics: self._answer((), topics),
        )
        self._clock = SystemClock()  # deadlines pass also while the broker's clock stands still
        self._inbox: SimpleQueue[Unit[object] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._pid = os.getpid()
        self.watch = watch

    # ------------------------------------------------------------ on the loop

    def start(self) -> None:
        """Start the thread; it opens the database with its first unit."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._thread = Thread(target=self._serve, name="taskyard-sql", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Finish what was submitted, then close the connection."""
        self._inbox.put(None)
        if self._stopped is not None:
            await asyncio.shield(self._stopped)  # the connection is closed even if we are not told
        if self._thread is not None:
            self._thread.join()

    def kill(self) -> None:
        """Drop everything that is not committed yet, and end."""
        self._carrier.is_closing = True
        self._inbox.put(None)

    @property
    def is_started(self) -> bool:
        """Whether the thread has been started."""
        return self._thread is not None

    @property
    def is_open(self) -> bool:
        """Whether the database is at hand."""
        return self._carrier.is_open and not self._carrier.is_closing

    async def write(
        self,
        run: Callable[[Session], T],
        *,
        deadline_s: float = 10.0,
        weight: int = 1,
        probe: Callable[[Session], T | None] | None = None,
        done: Callable[[T | None], None] | None = None,
    ) -> T:
        """Run something in a write transaction and return its result once that is committed.

        Raises:
            StoreError: it was not done, or (`started`) may have been done too late.

        """
        until = self._clock.monotonic_s() + deadline_s - min(_MARGIN_S, deadline_s / 2)
        unit = Unit(run, writes=True, deadline_s=until, probe=probe, weight=weight, done=done)
        return await self._wait(unit, deadline_s)

    async def read(self, run: Callable[[Session], T], *, deadline_s: float = 10.0) -> T:
        """Run something that only reads and return its result (StoreError as for `write`)."""
        until = self._clock.monotonic_s() + deadline_s - min(_MARGIN_S, deadline_s / 2)
        return await self._wait(Unit(run, writes=False, deadline_s=until), deadline_s)

    def read_soon(self, run: Callable[[Session], T], done: Callable[[T | None], None]) -> None:
        """Run something that only reads and call `done` with its result (None: it failed)."""
        until = self._clock.monotonic_s() + 10.0
        with contextlib.suppress(Unavailable):
            self.submit(Unit(run, writes=False, deadline_s=until, done=done))

    def submit(self, unit: Unit[T]) -> None:
        """Hand a unit to the thread without waiting for it."""
        if os.getpid() != self._pid:
            msg = (
                f"this broker handle was opened by process {self._pid} and cannot be used by its "
                f"child {os.getpid()}: open another one after the fork"
            )
            raise Unavailable(msg)
        if self._carrier.is_closing or self._thread is None:
            msg = "this broker handle is not open"
            raise Unavailable(msg)
        self._inbox.put(unit)  # type: ignore[arg-type]  # a unit is opaque to the thread

    async def _wait(self, unit: Unit[T], deadline_s: float) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        unit.future = future
        self.submit(unit)
        timer = loop.call_later(deadline_s, expire, unit, deadline_s)
        try:
            return await future
        finally:
            timer.cancel()

    def _finish(self, units: Sequence[Unit[object]], topics: set[str]) -> None:
        for unit in units:
            if unit.done is not None:
                try:
                    unit.done(None if unit.error is not None else unit.result)
                except Exception as error:  # noqa: BLE001  # the other units' callers must not wait
                    _log.error("a result could not be taken in", exc_info=error)
            future = unit.future
            if future is None or future.done():
                continue
            if unit.error is not None:
                future.set_exception(unit.error)
            else:
                future.set_result(unit.result)
        if topics:
            self.watch.notify(topics)

    # ------------------------------------------------------------ in the thread

    def transact(self, run: Callable[[Session], object]) -> bool:
        """Run something in a write transaction, from inside the thread; returns whether it was."""
        return self._carrier.transact(run)

    def _serve(self) -> None:
        try:
            while not self._carrier.is_closing:
                units, ending = self._gather()
                if self._carrier.is_closing:
                    self._answer(_dropped(units), set())
                    break
                if units:
                    self._answer(units, self._carrier.carry_out(units))
                if ending:
                    break
                self._carrier.look()
        finally:
            self._carrier.is_closing = True
            self._carrier.disconnect()
            self._answer(_dropped(self._leftover()), set())
            self._call(self._end)

    def _gather(self) -> tuple[list[Unit[object]], bool]:
        units: list[Unit[object]] = []
        weight = 0
        try:
            unit = self._inbox.get(timeout=self.watch.patience_s())
            while unit is not None:
                units.append(unit)
                weight += unit.weight
                if len(units) >= _GROUP_UNITS or weight >= _GROUP_WEIGHT:
                    return units, False
                unit = self._inbox.get_nowait()
        except Empty:
            return units, False
        return units, True

    def _leftover(self) -> list[Unit[object]]:
        units: list[Unit[object]] = []
        with contextlib.suppress(Empty):
            while True:
                unit = self._inbox.get_nowait()
                if unit is not None:
                    units.append(unit)
        return units

    def _answer(self, units: Sequence[Unit[object]], topics: set[str]) -> None:
        if units or topics:
            self._call(self._finish, units, topics)

    def _end(self) -> None:
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        # The loop may be gone: then nobody waits for the answer either.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)


def _dropped(units: list[Unit[object]]) -> list[Unit[object]]:
    for unit in units:
        unit.error = StoreError("the broker handle was closed")
    return units
