"""Model check of publish, deliver and settle on `memory`: a death between any two steps.

At every moment: no confirmed job is lost, none is settled twice, an outcome is in the feed before
its delivery is acknowledged, what an outcome promises (a copy, a parked job) exists, every run can
be told from every other, and nothing is acknowledged while it still runs (promises 1 to 3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, lists, none, sampled_from

from model.world import OUTCOMES, World
from taskyard.shared.adapters.memory import SimulatedCrash

T = TypeVar("T")

#: Steps of the settle below, and one more, at which nothing happens.
STEPS = 11


def crash() -> None:
    raise SimulatedCrash


@pytest.mark.parametrize("how", ["dies", "is cut off", "all are cut off"])
@pytest.mark.parametrize("step", range(STEPS))
async def test_a_death_at_every_step(step: int, how: str) -> None:
    """Four jobs end in all four ways in one batch; at each step in turn their worker dies or
    loses its connection, and another does the rest (promise 2, ZS-30, BS-19).
    """
    world = World()
    await world.begin()
    await world.publish(len(OUTCOMES))
    first = await world.start_worker(len(OUTCOMES))
    await world.take(first)
    await world.start_worker(1)
    faults: dict[str, Callable[[], object]] = {
        "dies": crash,
        "is cut off": lambda: world.sever(first),
        "all are cut off": lambda: world.sever(*world.workers),
    }
    world.fault_after(step, faults[how])
    await world.end_attempts(first, OUTCOMES)
    assert (world.state.fault is None) == (step < STEPS - 1)
    world.check()
    for worker in world.workers:
        await world.take(worker)
        world.check()
    await world.drain()
    world.check()


@pytest.mark.parametrize("step", range(8))
async def test_a_sender_dies_at_every_step(step: int) -> None:
    """A sender that dies while it publishes leaves whole jobs or none (promise 1)."""
    world = World()
    await world.begin()
    world.fault_after(step, crash)
    await world.publish(4)
    world.check()
    await world.drain()
    world.check()


class SettleMachine(RuleBasedStateMachine):
    """Workers, senders, deaths, cuts and alarms in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self.world = self.run(_world())

    def run(self, what: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await what

        return self._runner.run(wrapped())

    @initialize()
    def begin(self) -> None:
        self.run(self.world.begin())

    @rule(count=integers(1, 4), delay_ms=sampled_from([0, 0, 500]), dies_at=integers(-1, 6))
    def publish(self, count: int, delay_ms: int, dies_at: int) -> None:
        if dies_at >= 0:
            self.world.fault_after(dies_at, crash)
        self.run(self.world.publish(count, delay_ms=delay_ms))
        self.world.state.fault = None
        self.take_all()

    @precondition(lambda self: len(self.world.workers) < 3)
    @rule(credit=integers(1, 5))
    def start_worker(self, credit: int) -> None:
        self.run(self.world.start_worker(credit))
        self.take_all()

    @precondition(lambda self: self.world.workers)
    @rule()
    def take_all(self) -> None:
        for worker in self.world.workers:
            self.run(self.world.take(worker))

    @precondition(lambda self: any(worker.running for worker in self.world.workers))
    @rule(
        which=integers(0, 2),
        outcomes=lists(sampled_from(OUTCOMES), min_size=1, max_size=5),
        fault_at=none() | integers(0, 12),
        dies=booleans(),
    )
    def end_attempts(
        self, which: int, outcomes: list[str], fault_at: int | None, dies: bool
    ) -> None:
        busy = [worker for worker in self.world.workers if worker.running]
        worker = busy[which % len(busy)]
        if fault_at is not None:
            self.world.fault_after(fault_at, crash if dies else lambda: self.world.sever(worker))
        self.run(self.world.end_attempts(worker, outcomes))
        self.world.state.fault = None

    @precondition(lambda self: self.world.workers)
    @rule(which=integers(0, 2))
    def kill(self, which: int) -> None:
        self.run(self.world.kill(self._worker(which)))

    @precondition(lambda self: self.world.workers)
    @rule(which=integers(0, 2))
    def sever(self, which: int) -> None:
        async def cut() -> None:
            self.world.sever(self._worker(which))

        self.run(cut())

    @rule(ms=sampled_from([1, 499, 1_000, 60_000]))
    def advance(self, ms: int) -> None:
        async def turn() -> None:
            self.world.state.advance(ms)

        self.run(turn())

    @rule(on=booleans())
    def alarm(self, on: bool) -> None:
        async def turn() -> None:
            if on:
                self.world.state.block()
            else:
                self.world.state.unblock()

        self.run(turn())

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            self.run(self.world.drain())
            self.world.check()
        finally:
            self._runner.close()

    def _worker(self, which: int):
        return self.world.workers[which % len(self.world.workers)]


async def _world() -> World:
    return World()


TestSettleMachine = SettleMachine.TestCase
TestSettleMachine.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
