"""SIGTERM and SIGINT, heard from the first moment on: also while a process is still starting."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

T = TypeVar("T")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class ToldToStop(Exception):
    """A signal came before there was anything to stop: the process has done what it was told."""


class Orders:
    """Hears signals on the running loop, and passes each on to whoever listens at that moment.

    `with Orders() as orders:` around all that a process does.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = SIGNALS) -> None:
        """Prepare to hear some signals."""
        self._numbers = numbers
        self._loop = asyncio.get_running_loop()
        self._told: Callable[[str], None] | None = None
        self._given: str | None = None

    def __enter__(self) -> Self:
        """Hear from now on."""
        for number in self._numbers:
            self._loop.add_signal_handler(number, self._hear, number.name)
        return self

    def __exit__(self, *_: object) -> None:
        """Hear no more."""
        for number in self._numbers:
            self._loop.remove_signal_handler(number)

    async def unless_told(self, start: Coroutine[Any, Any, T]) -> T:
        """Return what a start returns; a signal cancels it.

        Raises:
            ToldToStop: a signal came.

        """
        starting = self._loop.create_task(start, name="start")

        def cancel(_: str) -> None:
            starting.cancel()

        self.pass_to(cancel)
        try:
            return await starting
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if self._given is None or (asking is not None and asking.cancelling()):
                raise
            raise ToldToStop(self._given) from None
        finally:
            self._told = None

    def pass_to(self, told: Callable[[str], None]) -> None:
        """Call `told` with the name of each signal from now on, and of one that nobody heard."""
        self._told = told
        if self._given is not None:
            told(self._given)

    def _hear(self, name: str) -> None:
        self._given = self._given or name
        if self._told is not None:
            self._told(name)


def leave_on_sigterm() -> None:
    """Have SIGTERM end this process with exit code 0 until `Orders` takes over.

    Without it whoever stops a worker that is still importing its tasks would see a failure.
    """
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: object) -> NoReturn:
    del number, frame
    sys.exit(0)
