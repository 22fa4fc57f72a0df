"""When a queue has nothing to do in this process, and who wants to know."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.hooks import Hooks, idle_hooks
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.middleware import Middleware

_log = get_logger(__name__)

#: Seconds that a hook may take; the next idle time asks it again.
HOOK_S: Final = 30.0


class Idling:
    """Tells one queue's hooks, once per idle time; looked at with each beat, never per job."""

    def __init__(self, queue: str, middleware: Sequence[Middleware]) -> None:
        """Tell those of `middleware` that want to know; a queue that has had no job is not idle."""
        self._queue = queue
        self._due: list[Hooks] = []
        self._hooks = idle_hooks(middleware)
        self._taken = 0
        self._since_s = 0.0
        self._telling: set[asyncio.Task[None]] = set()

    def look(self, now_s: float, *, idle: bool, taken: int) -> None:
        """Note whether it is idle at `now_s` (monotonic), having taken so many deliveries so far."""
        if not self._hooks:
            return
        if taken != self._taken or (not idle and self._due):
            self._taken, self._since_s = taken, now_s
            self._due = list(self._hooks)
        if not idle:
            self._since_s = now_s
            return
        for hook in [h for h in self._due if now_s - self._since_s >= h.idle_after_s]:
            self._due.remove(hook)
            task = asyncio.create_task(self._tell(hook), name=f"idle {self._queue}")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Let hooks that are being told end."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def _tell(self, hook: Hooks) -> None:
        try:
            async with asyncio.timeout(HOOK_S):
                await hook.on_idle()
        except Exception:  # noqa: BLE001  # the application's own hook: the worker goes on
            _log.exception("on_idle failed", queue=self._queue, hook=type(hook).__qualname__)
