"""Model check of the workers' group commit on `memory`: a fault between any two of its steps.

The same must be true as of settling by the port alone (see `test_settle_model`), while outcomes
gather behind a commit, wait for the end of an alarm, or leave their records on disk; and whatever
happened, everything is settled in the end.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, lists, none, sampled_from

from model.commit_world import CommitWorld
from model.world import OUTCOMES, ModelWorker
from taskyard.shared.adapters.memory import SimulatedCrash
from taskyard.workers import commit

T = TypeVar("T")

#: Steps of one commit of all four outcomes, and one more, at which nothing happens.
STEPS = 11

FAULTS = ["dies", "is cut off", "alarm", "alarm ends", "fails"]
#: Those that may strike while another worker is at its step.
ANYWHERE = ["dies", "is cut off", "alarm", "alarm ends"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """What could not be settled is tried again at once: the model has no time."""
    monkeypatch.setattr(commit, "_RETRY_FIRST_S", 0.0)


def fault(world: CommitWorld, worker: ModelWorker, how: str) -> Callable[[], object]:
    """Return what happens to a worker in the middle of a commit."""

    def dies() -> None:
        world.crashing(worker)
        raise SimulatedCrash

    def fails() -> None:
        raise OSError("a fault of the adapter")

    return {
        "dies": dies,
        "is cut off": lambda: world.sever(worker),
        "alarm": lambda: world.alarm(on=True),
        "alarm ends": lambda: world.alarm(on=False),
        "fails": fails,
    }[how]


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("step", range(STEPS))
async def test_a_fault_at_every_step(tmp_path, step, how, blocked) -> None:
    """Two rounds of all four outcomes, the second gathering behind the first; at each step in turn
    something happens, with the broker taking publishes or not (promises 2, 3 and 7, ZS-30, BS-19).
    """
    world = CommitWorld(tmp_path)
    await world.begin()
    await world.publish(2 * len(OUTCOMES))
    first = await world.start_worker(2 * len(OUTCOMES))
    await world.take(first)
    await world.start_worker(1)
    world.alarm(on=blocked)
    world.fault_after(step, fault(world, first, how))
    await world.end_attempts(first, OUTCOMES)
    await world.turn(2)
    world.check()
    if first in world.workers:
        await world.end_attempts(first, OUTCOMES)
    for _ in range(12):
        await world.turn(1)
        world.check()
    for worker in world.workers:
        await world.take(worker)
        world.check()
    await world.finish()


class CommitMachine(RuleBasedStateMachine):
    """Workers, outcomes, deaths, cuts and alarms in any order, commits under way at any time."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._folder = tempfile.TemporaryDirectory()
        self.world = self.run(self._world())

    async def _world(self) -> CommitWorld:
        return CommitWorld(Path(self._folder.name))

    def run(self, what: Awaitable[T]) -> T:
        async def wrapped() -> T:
            return await what

        return self._runner.run(wrapped())

    @initialize()
    def begin(self) -> None:
        self.run(self.world.begin())

    @rule(count=integers(1, 6), delay_ms=sampled_from([0, 0, 500]))
    def publish(self, count: int, delay_ms: int) -> None:
        if self.world.state.blocked:
            return
        held, self.world.state.fault = self.world.state.fault, None
        self.run(self.world.publish(count, delay_ms=delay_ms))
        self.world.state.fault = held
        self.take_all()

    @precondition(lambda self: len(self.world.workers) < 3)
    @rule(credit=integers(1, 6))
    def start_worker(self, credit: int) -> None:
        self.run(self.world.start_worker(credit))
        self.take_all()

    @precondition(lambda self: self.world.workers)
    @rule()
    def take_all(self) -> None:
        for worker in list(self.world.workers):
            self.run(self.world.take(worker))

    @precondition(lambda self: any(worker.running for worker in self.world.workers))
    @rule(which=integers(0, 2), outcomes=lists(sampled_from(OUTCOMES), min_size=1, max_size=5))
    def end_attempts(self, which: int, outcomes: list[str]) -> None:
        busy = [worker for worker in self.world.workers if worker.running]
        self.run(self.world.end_attempts(busy[which % len(busy)], outcomes))

    @precondition(lambda self: self.world.workers)
    @rule(which=integers(0, 2), steps=integers(0, 12), how=sampled_from(ANYWHERE) | none())
    def fault_comes(self, which: int, steps: int, how: str | None) -> None:
        """Whoever is at that step then, the fault is this worker's."""
        worker = self._worker(which)
        if how is None:
            self.world.state.fault = None
        elif how == "dies":
            self.world.fault_after(steps, self._die_if_alive(worker))
        else:
            self.world.fault_after(steps, fault(self.world, worker, how))

    def _die_if_alive(self, worker: ModelWorker) -> Callable[[], object]:
        def die() -> None:
            # The step may be another worker's: then this one dies while that one goes on.
            if worker in self.world.workers:
                self.world.crashing(worker)
                worker.broker._end()

        return die

    @rule(turns=integers(1, 4))
    def turn(self, turns: int) -> None:
        self.run(self.world.turn(turns))

    @precondition(lambda self: self.world.workers)
    @rule(which=integers(0, 2))
    def kill(self, which: int) -> None:
        self.run(self.world.kill(self._worker(which)))

    @precondition(lambda self: self.world.workers)
    @rule(which=integers(0, 2))
    def sever(self, which: int) -> None:
        worker = self._worker(which)

        async def cut() -> None:
            if worker in self.world.workers:
                self.world.sever(worker)

        self.run(cut())

    @rule(ms=sampled_from([1, 499, 1_000, 60_000]))
    def advance(self, ms: int) -> None:
        async def pass_by() -> None:
            self.world.state.advance(ms)

        self.run(pass_by())

    @rule(on=booleans())
    def alarm(self, on: bool) -> None:
        async def switch() -> None:
            self.world.alarm(on=on)

        self.run(switch())

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            self.run(self.world.finish())
        finally:
            self._runner.close()
            self._folder.cleanup()

    def _worker(self, which: int) -> ModelWorker:
        return self.world.workers[which % len(self.world.workers)]


TestCommitMachine = CommitMachine.TestCase
TestCommitMachine.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
