"""A queue's resources in this process: set up once before its first job, torn down after its last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.errors import TaskyardError
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from taskyard.shared.task import Queue

_log = get_logger(__name__)

#: Seconds before a set-up that failed is tried again; doubled up to the longest.
FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
#: Seconds that a tear-down may take while the worker stops.
TEAR_DOWN_S: Final = 10.0


class LifespanFailed(TaskyardError):
    """A queue's set-up raised; none of its jobs was run. Mend what it needs, or the set-up."""


class Lifespan:
    """Enters and leaves a queue's lifespan; both in the task that calls, as its author expects.

    Attributes:
        problem: why it is not entered, in words; empty when it is, or was not tried yet.

    """

    def __init__(self, queue: Queue[Any]) -> None:
        """Nothing is set up yet."""
        self._queue = queue
        self._entered: AbstractAsyncContextManager[Any] | None = None
        self.problem = ""

    async def enter(self, *, once: bool = False) -> Any:
        """Set up and return what handlers find at `ctx.resources`; try until it works.

        Args:
            once: give up after the first try.

        Raises:
            LifespanFailed: it failed, and `once` was asked for.

        """
        make, delay_s = self._queue.lifespan, FIRST_S
        if make is None:
            return None
        while True:
            try:
                manager = make()
                resources = await manager.__aenter__()
            except Exception as error:  # the application's own set-up: only its queue stands still
                self.problem = (
                    f"set-up of queue {self._queue.name} failed: {type(error).__name__}: {error}"
                )
                if once:
                    raise LifespanFailed(self.problem) from error
                _log.exception(
                    "set-up of a queue failed; it is not consumed",
                    queue=self._queue.name,
                    again_in_s=delay_s,
                )
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, LONGEST_S)
            else:
                self._entered, self.problem = manager, ""
                return resources

    async def leave(self) -> None:
        """Tear down, if it was set up; what that raises is logged."""
        manager, self._entered = self._entered, None
        if manager is None:
            return
        try:
            async with asyncio.timeout(TEAR_DOWN_S):
                await manager.__aexit__(None, None, None)
        except Exception:  # noqa: BLE001  # the application's own tear-down: the worker stops all the same
            _log.exception("tear-down of a queue failed", queue=self._queue.name)
