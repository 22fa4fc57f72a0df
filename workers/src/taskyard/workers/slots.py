"""The slots of one queue: an attempt has one while it runs, and lends it out while it waits.

Their number may change at any time: of fewer, those that are in use go when their attempts end.

An attempt that waits for a job it has called needs no slot; were it to keep its own, the called job
might never get one. It takes a slot again before it goes on, and before anything new is started.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.workers.attempt import Attempt

#: Most attempts of a queue that may be away because of jobs of *other* queues. Those that wait for a
#: job of their own queue are not bounded: it could otherwise never start.
AWAY_LIMIT: Final = 1000


class _Absence:
    """An attempt without a slot: its calls under way, the tasks that wait in them, its way back."""

    __slots__ = ("back", "calls", "tasks")

    def __init__(self) -> None:
        self.calls = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.back: asyncio.Future[None] | None = None


class Slots:
    """Counts the slots. Belongs to the event loop.

    Attributes:
        free: how many are free; what wants one back has been served before.

    """

    def __init__(
        self, number: int, *, on_free: Callable[[], None], on_away: Callable[[int], None]
    ) -> None:
        """Start with all slots free.

        Args:
            number: of slots.
            on_free: told when an attempt has lent its slot out and nobody wants it back.
            on_away: told how many attempts are without a slot, whenever that changes.

        """
        self.free = self._number = number
        # In use, though there are fewer by now: each is given up instead of given on.
        self._surplus = 0
        self._on_free = on_free
        self._on_away = on_away
        self._away: dict[Attempt, _Absence] = {}
        self._returning: deque[Attempt] = deque()
        # Who lends a slot runs, and what is done with the slot is not its doing.
        self._base = copy_context()

    @property
    def away(self) -> int:
        """How many attempts are without a slot."""
        return len(self._away)

    def resize(self, number: int) -> None:
        """Have so many from now on; what runs goes on.

        More of them go to whoever wants one back first. The caller starts what waits for others.
        """
        added, self._number = number - self._number, number
        if added < 0:
            idle = min(self.free, -added)
            self.free -= idle
            self._surplus += -added - idle
            return
        for _ in range(added):
            self.give()

    def lend(self, attempt: Attempt, *, bounded: bool) -> bool:
        """Give an attempt's slot to others while one more of its calls is under way.

        Args:
            attempt: which waits in the current task.
            bounded: keep the slot if too many are away already.

        Returns:
            Whether `take_back` must follow.

        Raises:
            CancelledError: the attempt has ended meanwhile; nobody waits for the call any more.

        """
        if attempt.ended:
            raise asyncio.CancelledError
        absence = self._away.get(attempt)
        if absence is None:
            if bounded and len(self._away) >= AWAY_LIMIT:
                return False
            absence = self._away[attempt] = _Absence()
            self.give()
            self._on_away(len(self._away))
            if self.free:
                self._base.copy().run(self._on_free)
        elif absence.back is not None and not absence.back.done():
            absence.back.set_result(None)  # it waits again, so it needs no slot yet
            absence.back = None
        absence.calls += 1
        task = asyncio.current_task()
        if task is not None:
            absence.tasks.add(task)
        return True

    async def take_back(self, attempt: Attempt) -> None:
        """Wait for a slot when the last of an attempt's calls is over.

        Calls that end before the last one return at once: a slot that one call held might be the
        one that another's job needs. So do those of an attempt that is to end: it needs none.
        """
        absence = self._away.get(attempt)
        if absence is None:
            return  # it has ended
        task = asyncio.current_task()
        if task is not None:
            absence.tasks.discard(task)
        absence.calls -= 1
        if absence.calls or attempt.stopping is not None:
            return
        if self.free:
            self.free -= 1
            self._is_back(attempt)
            return
        absence.back = asyncio.get_running_loop().create_future()
        self._returning.append(attempt)
        await absence.back

    def end(self, attempt: Attempt) -> None:
        """Take the slot of an attempt that has ended, and end its calls."""
        absence = self._away.pop(attempt, None) if self._away else None
        if absence is None:
            self.give()
            return
        for task in absence.tasks:
            task.cancel()
        if absence.back is not None:
            absence.back.cancel()
        self._on_away(len(self._away))

    def give(self) -> None:
        """Free a slot, for an attempt that wants one back if there is one."""
        if self._surplus:
            self._surplus -= 1
            return
        while self._returning:
            attempt = self._returning.popleft()
            absence = self._away.get(attempt)
            if absence is not None and absence.calls == 0:
                self._is_back(attempt)
                if absence.back is not None and not absence.back.done():
                    absence.back.set_result(None)
                return
        self.free += 1

    def _is_back(self, attempt: Attempt) -> None:
        del self._away[attempt]
        self._on_away(len(self._away))
