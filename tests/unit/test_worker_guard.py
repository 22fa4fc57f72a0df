"""`--singleton`: who may start a job, whose lock it is, and who is told what."""

from __future__ import annotations

import asyncio
import math

import pytest

from support.eventually import eventually
from taskyard.shared.adapters.memory import MemoryBroker, MemoryState
from taskyard.shared.broker import Held, Owner
from taskyard.shared.cli import ALREADY_RUNNING, exit_code_of
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import AlreadyRunning
from taskyard.shared.settings import Settings
from taskyard.workers.guard import Guard, GuardedBudget
from taskyard.workers.singleton import Lock, already_running, lock_name


class Watch(SystemClock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


def test_nothing_starts_on_a_confirmation_that_is_too_old():
    """CR-02: a process that was suspended starts no job before the broker was asked again."""
    clock = Watch()
    guard = Guard(clock, fresh_s=4.0)
    budget = GuardedBudget(None, lambda: None, guard)
    assert guard.confirmed_s == -math.inf
    assert not budget.take()
    guard.confirm(clock.now_s)
    assert budget.take()
    clock.now_s += 4.0
    assert not budget.take()
    assert guard.refused
    guard.confirm(clock.now_s)
    assert budget.take()
    guard.confirm(clock.now_s - 3)  # an answer that was long on its way
    assert guard.confirmed_s == clock.now_s
    guard.revoke()
    assert not budget.take()


def test_a_guarded_budget_is_a_budget():
    """CR-02, CR-04: `--max-jobs` counts what starts, not what the guard refuses."""
    spent: list[bool] = []
    clock = Watch()
    guard = Guard(clock)
    budget = GuardedBudget(1, lambda: spent.append(True), guard)
    assert not budget.take()
    assert budget.left == 1
    guard.confirm(clock.now_s)
    assert budget.take()
    assert not budget.take()
    assert spent == [True]


async def test_a_watch_ends_only_when_the_lock_stays_unconfirmed():
    """CR-02: a loop that stood still asks again before it gives up; silence ends the watch."""
    clock = Watch()
    guard = Guard(clock, fresh_s=0.4)
    started: list[int] = []

    class Waiting:
        def start_waiting(self) -> None:
            started.append(1)

    guard.confirm(clock.now_s)
    watching = asyncio.create_task(guard.watch([Waiting()]))  # type: ignore[list-item]
    clock.now_s += 1
    guard.refused = True
    await asyncio.sleep(0.03)  # one look, of the three that it takes
    guard.confirm(clock.now_s)
    await eventually(lambda: started == [1])  # what was refused is started after all
    assert not watching.done()
    clock.now_s += 1
    assert "not confirmed" in await asyncio.wait_for(watching, 5)


async def test_the_second_is_told_by_whom_the_lock_is_held():
    """CR-02, CR-07: host, pid and since when; exit 75."""
    state = MemoryState()
    one, two = MemoryBroker(state), MemoryBroker(state)
    await one.open()
    await two.open()
    settings = Settings(broker_url="memory://")
    lock = await Lock.take(one, "worker-q", settings)
    with pytest.raises(AlreadyRunning, match=r"pid \d+ on host .+ since .+ \(\d+ s\)") as caught:
        await Lock.take(two, "worker-q", settings)
    assert exit_code_of(caught.value) == ALREADY_RUNNING == 75
    keeping = asyncio.create_task(lock.keep())
    await asyncio.sleep(0)
    await one.close()
    assert "lock" in await asyncio.wait_for(keeping, 5)
    await (await Lock.take(two, "worker-q", settings)).release()
    await two.close()


def test_the_words_for_a_holder():
    """CR-07: also when the broker cannot say who it is, which setting would help."""
    owner = Owner(host="db1", pid=4711, since_ms=1_700_000_000_000)
    text = already_running("worker-q", Held(owner=owner), 1_700_000_061_000)
    assert text == (
        "already running: pid 4711 on host db1 holds the lock worker-q "
        "since 2023-11-14T22:13:20+00:00 (61 s)"
    )
    assert "TASKYARD_MANAGEMENT_URL" in already_running("worker-q", Held(owner=None), 0)


def test_a_lock_is_of_a_set_of_queues_or_of_a_name():
    """CR-02: order does not matter; names stay within what brokers bear, and apart."""
    assert lock_name(["b", "a"]) == lock_name(["a", "b"]) == "worker-a+b"
    assert lock_name(["a"], "nightly") == "worker-nightly"
    long = [f"queue-with-a-long-name-{n}" for n in range(20)]
    assert len(lock_name(long)) < 60
    assert lock_name(long) != lock_name(long[1:])
