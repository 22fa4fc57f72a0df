"""Waiting for conditions."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from support.eventually import NeverHappened, eventually, eventually_blocking


async def test_it_returns_what_the_check_returned_at_last() -> None:
    """Falsy answers and exceptions count as not yet."""
    answers: list[object] = [0, None, ValueError("not yet"), "done"]

    def check() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await eventually(check, every=0.001) == "done"


async def test_it_awaits_a_coroutine_function() -> None:
    """The check may be a coroutine function."""
    counter = itertools.count()

    async def check() -> bool:
        return next(counter) > 3

    assert await eventually(check, every=0.001)


async def test_the_failure_tells_the_last_answer_and_keeps_its_cause() -> None:
    """The message names the condition and what was seen last."""

    def check() -> bool:
        assert len([1]) == 2
        return True

    with pytest.raises(NeverHappened, match="two of them: not within 0.05 s.*AssertionError") as e:
        await eventually(check, within=0.05, hint="two of them")
    assert isinstance(e.value.__cause__, AssertionError)


async def test_a_check_that_hangs_is_given_up() -> None:
    """The time limit holds although the check does not return."""

    async def check() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(NeverHappened, match="did not return"):
        await eventually(check, within=0.05)


async def test_a_timeout_of_the_check_itself_is_an_answer() -> None:
    """A TimeoutError raised by the check counts as not yet."""
    counter = itertools.count()

    async def check() -> bool:
        if next(counter) < 2:
            raise TimeoutError
        return True

    assert await eventually(check, every=0.001)


def test_the_blocking_twin() -> None:
    """The same without an event loop."""
    counter = itertools.count()
    assert eventually_blocking(lambda: next(counter) > 3, every=0.001)
    with pytest.raises(NeverHappened, match="the last answer was 0"):
        eventually_blocking(lambda: 0, within=0.02)
