"""The child processes of one queue: started on demand, kept for the next job, ended in the end."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.errors import TaskyardError
from taskyard.shared.logs import get_logger
from taskyard.workers.isolation.death import Death
from taskyard.workers.isolation.messages import Broken, End, Ended, Ready, Setup, ToWorker
from taskyard.workers.lifespan import FIRST_S, LONGEST_S, TEAR_DOWN_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.clock import Clock
    from taskyard.shared.keyring import KeyRing
    from taskyard.shared.task import Queue
    from taskyard.workers.isolation.child import Child

_log = get_logger(__name__)

#: Seconds that a child gets to import its modules and to enter its lifespan, which may load models.
START_S: Final = 300.0
#: Seconds that a child gets to end by itself: its lifespan's tear-down, and what Python does then.
LEAVE_S: Final = TEAR_DOWN_S + 2.0


class NoChild(TaskyardError):
    """A child process could not be set up. Its job is handed back, uncharged."""


class Pool:
    """Children that serve one queue. Belongs to the event loop, on the main thread."""

    def __init__(
        self,
        queue: Queue[Any],
        modules: Sequence[str],
        clock: Clock,
        *,
        size: int,
        keys: KeyRing,
        max_rss_bytes: int | None = None,
        once: bool = False,
    ) -> None:
        """Start without children.

        Args:
            queue: whose handlers they run.
            modules: import paths of what declares it.
            clock: measures how much they write.
            size: most idle ones kept.
            keys: for encrypted arguments.
            max_rss_bytes: resident memory after a job above which one is replaced; None: any.
            once: nobody tries again when one cannot be set up.

        """
        self.size = size
        self._once = once
        self._delay_s = 0.0
        self._again_s = clock.monotonic_s()
        self._problem, self._problem_until_s = "", 0.0
        self._queue = queue
        self._modules = tuple(modules)
        self._clock = clock
        self._keys = keys
        self._max_rss_bytes = max_rss_bytes
        self._loop = asyncio.get_running_loop()
        self._idle: list[Child] = []
        self._living: set[Child] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many are alive, idle or not."""
        return len(self._living)

    @property
    def has_idle(self) -> bool:
        """Whether `take` need not start one."""
        return any(child.alive for child in self._idle)

    @property
    def pause_s(self) -> float:
        """How long to wait before one is started again, in seconds."""
        return max(self._again_s - self._clock.monotonic_s(), 0.0)

    @property
    def problem(self) -> str:
        """Why none can be set up, in words; empty when one can, or nobody has tried lately."""
        return self._problem if self._clock.monotonic_s() < self._problem_until_s else ""

    async def take(self, *, fresh: bool = False) -> Child:
        """Return a child that is set up, and idle until it is given back.

        Args:
            fresh: one that has run nothing yet.

        Raises:
            NoChild: it could not be set up.

        """
        while self._idle and not fresh:
            child = self._idle.pop()
            if child.alive:
                return child
        try:
            child = await self._start()
        except NoChild as error:
            self._failed(str(error))
            raise
        self._problem, self._delay_s = "", 0.0
        return child

    def give(self, child: Child, ended: Ended) -> None:
        """Take a child back whose job has ended, and keep it for another if it is as good as new."""
        if why := self._spent(ended):
            _log.info(
                "a child process is replaced", queue=self._queue.name, child=child.pid, why=why
            )
        if why or len(self._idle) >= self.size:
            self.retire(child)
        elif child.alive:
            self._idle.append(child)

    def _spent(self, ended: Ended) -> str:
        if ended.left:
            return f"its job left processes running: {', '.join(map(str, ended.left))}"
        limit = self._max_rss_bytes
        if limit is not None and ended.rss_bytes > limit:
            return f"it holds {ended.rss_bytes} bytes of memory; the limit is {limit}"
        return ""

    def retire(self, child: Child) -> None:
        """Have a child leave its lifespan and end, in the background; it is killed if it does not."""
        child.send(End())
        task = self._loop.create_task(self._leave(child), name=f"end of child {child.pid}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """End all of them."""
        while self._idle:
            self.retire(self._idle.pop())
        try:
            if self._leaving:
                await asyncio.wait(set(self._leaving))
        finally:
            self.kill()
            if self._living:  # what they said last is read, and their pipes are closed
                ends = {child.ended for child in self._living}
                await asyncio.wait(ends, timeout=LEAVE_S)

    def resize(self, size: int) -> None:
        """Keep at most `size` idle ones from now on."""
        self.size = size
        while len(self._idle) > size:
            self.retire(self._idle.pop(0))

    def kill(self) -> None:
        """Kill those that are still there."""
        for child in self._living:
            child.kill()

    def _failed(self, problem: str) -> None:
        """Put the next start off: for longer each time, and for all who wait at once."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._again_s:
            self._delay_s = min(self._delay_s * 2 or FIRST_S, LONGEST_S)
            self._again_s = now_s + self._delay_s
        self._problem = problem
        self._problem_until_s = math.inf if self._once else now_s + 2 * LONGEST_S
        _log.warning(
            "a child process cannot be set up; its jobs wait",
            queue=self._queue.name,
            problem=problem,
            again_in_s=round(self.pause_s, 3),
        )

    async def _start(self) -> Child:
        from taskyard.workers.isolation.child import Child  # most workers never have one

        setup = Setup(
            queue=self._queue.name,
            modules=self._modules,
            path=tuple(sys.path),
            log_level=logging.getLogger().getEffectiveLevel(),
            max_rss_bytes=self._max_rss_bytes,
            keys=self._keys.reveal(),
        )
        try:
            child = Child(setup, self._loop, self._clock)
        except OSError as error:
            raise NoChild(
                f"queue {self._queue.name}: no child process can be started: {error}"
            ) from error
        self._living.add(child)
        child.ended.add_done_callback(lambda _: self._living.discard(child))
        child.assign({"queue": self._queue.name, "child": child.pid})
        try:
            async with asyncio.timeout(START_S):
                await self._until_ready(child)
        except TimeoutError as error:
            child.kill()
            raise NoChild(
                f"queue {self._queue.name}: a child process was not set up within {START_S:g} s"
            ) from error
        except BaseException:
            child.kill()
            raise
        return child

    async def _until_ready(self, child: Child) -> None:
        said: asyncio.Future[ToWorker] = self._loop.create_future()

        def take(message: ToWorker) -> None:
            if not said.done():
                said.set_result(message)

        child.on_message = take
        await child.open()
        waited: set[asyncio.Future[Any]] = {said, child.ended}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        answer = said.result() if said.done() else None
        if not isinstance(answer, Ready):
            problem = answer.problem if isinstance(answer, Broken) else ""
            if not problem:
                problem = str(Death(code=child.ended.result())) if child.ended.done() else "?"
            raise NoChild(f"queue {self._queue.name}: a child process cannot be set up: {problem}")

    async def _leave(self, child: Child) -> None:
        await asyncio.wait({child.ended}, timeout=LEAVE_S)
        if not child.ended.done():
            _log.warning(
                "a child process does not end and is killed", queue=self._queue.name, pid=child.pid
            )
            child.kill()
            await asyncio.wait({child.ended}, timeout=LEAVE_S)
