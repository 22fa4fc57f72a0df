"""Processes that are kept running: each that dies is started again, as a supervisor would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from support.process import Program

#: How often a member is looked at, in seconds.
POLL_S = 0.02


class Crew:
    """`async with Crew(4, start) as crew:` keeps four running; those that ended are kept as well.

    Attributes:
        size: how many places there are.
        members: the ones that run now, by place.
        codes: how those that died did so: their exit codes, in order.

    """

    def __init__(self, size: int, start: Callable[[int], Program | None]) -> None:
        """Keep `size` places filled.

        Args:
            size: how many.
            start: starts the one for a place; returns None when nothing is left to do there.

        """
        self.members: dict[int, Program] = {}
        self.codes: list[int] = []
        self.size = size
        self._start = start
        self._keepers = [self._keep(place) for place in range(size)]
        self._tasks: list[asyncio.Task[None]] = []

    async def done(self) -> None:
        """Wait until nothing is left to do in any place."""
        await asyncio.gather(*self._tasks)

    def one(self, number: int) -> Program | None:
        """Return one of those that run now, by any number."""
        alive = [program for _, program in sorted(self.members.items()) if program.is_running]
        return alive[number % len(alive)] if alive else None

    async def _keep(self, place: int) -> None:
        while (program := self._start(place)) is not None:
            self.members[place] = program
            while program.is_running:
                await asyncio.sleep(POLL_S)
            self.codes.append(program.exit_code or 0)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(keeper) for keeper in self._keepers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for program in self.members.values():
            program.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
