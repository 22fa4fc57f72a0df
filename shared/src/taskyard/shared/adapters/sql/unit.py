"""A piece of work for the engine's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from taskyard.shared.adapters.sql.faults import StoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from taskyard.shared.adapters.sql.session import Session

T = TypeVar("T")


class Unit(Generic[T]):
    """A function of the session without other effects: it may run more than once."""

    __slots__ = (
        "abandoned",
        "deadline_s",
        "done",
        "error",
        "future",
        "probe",
        "result",
        "run",
        "started",
        "weight",
        "writes",
    )

    def __init__(
        self,
        run: Callable[[Session], T],
        *,
        writes: bool,
        deadline_s: float,
        probe: Callable[[Session], T | None] | None = None,
        weight: int = 1,
        done: Callable[[T | None], None] | None = None,
    ) -> None:
        """Describe it.

        Args:
            run: the work; may run more than once, and the last time counts.
            writes: whether it needs a write transaction.
            deadline_s: when to give up waiting for one, on the monotonic clock.
            probe: asked first, without a transaction; anything but None is the result.
            weight: how much work it is, roughly in jobs.
            done: called on the loop with the result (None after an error), also when nobody
                waits any more.

        """
        self.run = run
        self.writes = writes
        self.deadline_s = deadline_s
        self.probe = probe
        self.weight = weight
        self.done = done
        self.future: asyncio.Future[T] | None = None
        self.result: T | None = None
        self.error: Exception | None = None
        self.started = False
        self.abandoned = False


def expire(unit: Unit[T], deadline_s: float) -> None:
    """Give up on a unit: the thread skips it unless it has begun."""
    unit.abandoned = True
    if unit.future is not None and not unit.future.done():
        text = f"no answer from the database within {deadline_s:g} s"
        unit.future.set_exception(StoreError(text, started=unit.started))
