"""Behaviour around the execution of handlers, one per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from taskyard.shared.context import Context


class Middleware(Protocol):
    """Wraps each attempt of a queue's jobs, whatever the handler's mode."""

    async def execute(
        self, ctx: Context[object], proceed: Callable[[], Awaitable[object]]
    ) -> object:
        """Run one attempt.

        Args:
            ctx: the attempt's context.
            proceed: runs what lies inside, at most once, and returns the handler's value.

        Returns:
            The attempt's value, usually that of `proceed`. An exception ends the attempt as if
            the handler had raised it.

        """
        ...
