"""Moments of a queue's life, for what has to be looked after around its jobs.

A `Hooks` is a `Middleware` whose moments have names; override those that you need:

    class Care(Hooks):
        async def on_idle(self) -> None: ...

    Queue("mail", middleware=[Care()])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskyard.shared.context import Context
    from taskyard.shared.middleware import Middleware


class Hooks:
    """Does nothing at any moment. All run on the event loop: what blocks belongs in a thread.

    Attributes:
        idle_after_s: seconds without a job until `on_idle` is called.

    """

    idle_after_s: ClassVar[float] = 5.0

    async def before(self, ctx: Context[object]) -> None:
        """Be called before each attempt; what it raises ends the attempt, its handler unasked."""

    async def after(self, ctx: Context[object], value: object) -> None:
        """Be called when a handler has returned `value`; what it raises ends the attempt instead."""

    async def on_error(self, ctx: Context[object], error: Exception) -> None:
        """Be called when `before` or the handler has raised, verdicts such as `Hold` included.

        Returning leaves it as it is; raising something else, such as `Retry`, takes its place. An
        attempt that is cancelled (time to run, stop, abort) raises no `Exception`: what must be
        cleaned up in any case belongs into `execute`, in a `finally`.
        """

    async def on_idle(self) -> None:
        """Be called once in a worker when its queue has had no job for `idle_after_s`.

        A job may start while it runs. What it raises is logged.
        """

    async def execute(
        self, ctx: Context[object], proceed: Callable[[], Awaitable[object]]
    ) -> object:
        """Run one attempt with the moments around it; see `Middleware`."""
        try:
            await self.before(ctx)
            value = await proceed()
        except Exception as error:
            await self.on_error(ctx, error)
            raise
        await self.after(ctx, value)
        return value


def idle_hooks(middleware: Sequence[Middleware]) -> list[Hooks]:
    """Return those that want to know when their queue is idle."""
    return [
        layer
        for layer in middleware
        if isinstance(layer, Hooks) and type(layer).on_idle is not Hooks.on_idle
    ]
