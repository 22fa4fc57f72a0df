"""Wait for a condition by asking again and again, with a failure message that helps."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, overload

T = TypeVar("T")


class NeverHappened(AssertionError):
    """The condition did not come true in time; the message holds what was last seen."""


@overload
async def eventually(
    check: Callable[[], Awaitable[T]],
    *,
    within: float = 10.0,
    every: float = 0.02,
    hint: str = "",
) -> T: ...


@overload
async def eventually(
    check: Callable[[], T],
    *,
    within: float = 10.0,
    every: float = 0.02,
    hint: str = "",
) -> T: ...


async def eventually(
    check: Callable[[], object],
    *,
    within: float = 10.0,
    every: float = 0.02,
    hint: str = "",
) -> object:
    """Call `check` until it returns something true.

    Args:
        check: A function, or a coroutine function. One that raises counts as not yet true, so
            assertions inside it are welcome; it must still return something true in the end.
        within: How long to wait altogether, in seconds.
        every: How long to wait between two calls, in seconds.
        hint: What was waited for, in words, for the failure message.

    Returns:
        What `check` returned.

    Raises:
        NeverHappened: It stayed false, kept raising, or did not return in time.
    """
    deadline = time.monotonic() + within
    seen: object = "nothing: the first call did not return"
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    answer = check()
                    value = await answer if inspect.isawaitable(answer) else answer
                except Exception as error:  # what the check raises is its answer: not yet
                    seen = error
                else:
                    if value:
                        return value
                    seen = value
                await asyncio.sleep(every)
    except TimeoutError:
        if time.monotonic() < deadline:
            raise
    raise _never(check, within, seen, hint) from _cause(seen)


async def written(path: Path, *, within: float = 10.0) -> str:
    """Wait until a file holds text, and return it.

    A file exists from when it is opened, which is before its first byte is written: a test that
    only waits until it exists may read nothing, or kill its writer in between.
    """
    return await eventually(path.read_text, within=within, hint=f"text in {path.name}")


def eventually_blocking(
    check: Callable[[], T],
    *,
    within: float = 10.0,
    every: float = 0.02,
    hint: str = "",
) -> T:
    """Call `check` until it returns something true; see `eventually`, for tests without a loop."""
    deadline = time.monotonic() + within
    while True:
        seen: object
        try:
            value = check()
        except Exception as error:  # what the check raises is its answer: not yet
            seen = error
        else:
            if value:
                return value
            seen = value
        if time.monotonic() > deadline:
            raise _never(check, within, seen, hint) from _cause(seen)
        time.sleep(every)


def _never(check: Callable[..., object], within: float, seen: object, hint: str) -> NeverHappened:
    what = hint or getattr(check, "__qualname__", repr(check))
    last = f"raised {seen!r}" if isinstance(seen, BaseException) else f"was {seen!r}"
    return NeverHappened(f"{what}: not within {within:g} s; the last answer {last}")


def _cause(seen: object) -> BaseException | None:
    return seen if isinstance(seen, BaseException) else None
