"""Ends a worker that is better replaced: it holds too much memory, or threads that never end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.logs import get_logger
from taskyard.shared.size import show_size
from taskyard.workers.memory import resident_bytes, settle_memory
from taskyard.workers.recycling import Phase, Recycling, judge, look
from taskyard.workers.signs import stuck_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.clock import Clock
    from taskyard.workers.worker import Worker

_log = get_logger(__name__)

#: Seconds between two looks, and between two while a judgement is under way.
LOOK_S: Final = 0.1
CLOSER_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Memory:
    """How memory is measured and made to settle; tests bring their own."""

    resident: Callable[[], int | None] = resident_bytes
    settle: Callable[[], None] = settle_memory


class Recycler:
    """Looks at a worker from time to time; belongs to its loop."""

    def __init__(self, worker: Worker, clock: Clock, memory: Memory | None = None) -> None:
        """Watch over a worker.

        Raises:
            ConfigurationError: memory is limited, and cannot be measured or is above already.

        """
        self._worker = worker
        self._clock = clock
        self._memory = memory or Memory()
        self._limit = worker.options.max_rss_bytes
        self._state = Recycling()
        if self._limit is not None:
            self._check_limit(self._limit)

    @property
    def max_abandoned(self) -> int:
        """How many handlers that ran out of time and do not end are too many."""
        # Below what makes `/livez` say no, so that the worker ends in good order before it is killed.
        lanes = self._worker.lanes.values()
        return self._worker.options.max_abandoned or min(
            (stuck_limit(lane.slots) for lane in lanes), default=stuck_limit(1)
        )

    @property
    def phase(self) -> Phase:
        """What the judgement of its memory waits for."""
        return self._state.phase

    async def run(self) -> None:
        """Look until cancelled, or until the worker is told to stop."""
        while not self._worker.signals.stop.is_set():
            watching = self._state.phase is Phase.WATCHING
            await asyncio.sleep(LOOK_S if watching else CLOSER_LOOK_S)
            self._look_at_handlers()
            if self._limit is not None:
                self._look_at_memory(self._limit)
        await asyncio.Event().wait()  # its end would end the worker; that has its own stages

    def _look_at_handlers(self) -> None:
        executors = [lane.executor for lane in self._worker.lanes.values()]
        stuck = sum(each.abandoned_threads + each.abandoned_tasks for each in executors)
        if stuck and stuck >= self.max_abandoned:
            self._recycle(
                f"{stuck} handlers ran out of time and do not end (the limit is {self.max_abandoned})"
            )

    def _look_at_memory(self, limit: int) -> None:
        resident = self._memory.resident()
        if resident is None or self._worker.signals.stop.is_set():
            return
        # The attempts, not their ids: an id is used again as soon as its attempt is gone.
        running = {attempt for lane in self._worker.lanes.values() for attempt in lane.running}
        now_s = self._clock.monotonic_s()
        before = self._state
        self._state, ask = look(
            before,
            now_s=now_s,
            resident=resident,
            limit=limit,
            running=running,
            calling=sum(lane.calling for lane in self._worker.lanes.values()),
        )
        if ask:
            self._memory.settle()
            resident = self._memory.resident() or 0
            self._state = judge(
                self._state, now_s=now_s, settled=resident, limit=limit, running=running
            )
        if before.phase is not self._state.phase:
            self._enter(resident, limit)

    def _enter(self, resident: int, limit: int) -> None:
        """Do what the new phase asks for."""
        phase = self._state.phase
        held = f"it holds {show_size(resident)} of memory, above the limit of {show_size(limit)}"
        if phase is Phase.RECYCLED:
            self._recycle(f"{held}, and no job runs")
            return
        if phase is Phase.EMPTYING:
            _log.warning(
                "no job starts until those that run have ended and memory is measured",
                worker=self._worker.name,
                why=held,
            )
        holding = f"its memory is being measured: {held}" if self._state.holding else ""
        if holding != self._worker.holding:
            self._worker.holding = holding
            self._worker.set_gates()

    def _recycle(self, why: str) -> None:
        _log.warning("the worker is recycled", worker=self._worker.name, why=why)
        self._worker.recycled = True
        self._worker.stop(f"recycled: {why}")

    def _check_limit(self, limit: int) -> None:
        resident = self._memory.resident()
        if resident is None:
            msg = "--max-rss: this system does not tell a process's memory (/proc/self/statm)"
            raise ConfigurationError(msg)
        if resident > limit:
            msg = (
                f"--max-rss: {show_size(limit)} is less than the {show_size(resident)} that the worker "
                "holds before its first job; set it well above"
            )
            raise ConfigurationError(msg)
