"""The model checks can fail: each of these faults in the product is caught by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from model.commit_world import CommitWorld
from model.test_commit_model import STEPS as COMMIT_STEPS, fault
from model.test_settle_model import STEPS, crash
from model.world import OUTCOMES, World
from taskyard.shared.adapters.memory.settling import Settler, handover_of
from taskyard.shared.broker import Settlement, SettleStatus
from taskyard.workers import commit
from taskyard.workers.commit import Committer

Done = dict[int, SettleStatus]


async def acknowledges_first(self: Settler, batch: Sequence[Settlement], done: Done) -> None:
    """Acknowledge, then write what follows."""
    going = [settlement for settlement in batch if self._may_go(settlement, done)]
    for settlement in going:
        done[id(settlement)] = self._acknowledge(settlement)
        self._step("settle:acknowledged")
    for settlement in going:
        self._write(settlement)
    self._record(going)


async def records_last(self: Settler, batch: Sequence[Settlement], done: Done) -> None:
    """Write and acknowledge, and tell the feed afterwards."""
    going = [settlement for settlement in batch if self._may_go(settlement, done)]
    for settlement in going:
        self._write(settlement)
    for settlement in going:
        done[id(settlement)] = self._acknowledge(settlement)
        self._step("settle:acknowledged")
    self._record(going)


async def acknowledges_all(self: Settler, batch: Sequence[Settlement], done: Done) -> None:
    """Acknowledge everything that was handed over on the way, as a careless `multiple` does."""
    going = [settlement for settlement in batch if self._may_go(settlement, done)]
    for settlement in going:
        self._write(settlement)
    self._record(going)
    for settlement in going:
        for other in list(handover_of(settlement.delivery).session.handovers):
            self._state.finish(other)
        done[id(settlement)] = SettleStatus.SETTLED


def writes_nothing(self: Settler, settlement: Settlement) -> None:
    """Lose the copy, or what was to be parked."""


def strips_all(self: Committer, batch: list[Settlement]) -> list[Settlement]:
    """Acknowledge plainly under an alarm, also what needed a publish."""
    return [Settlement(delivery=settlement.delivery) for settlement in batch]


async def settle_at_every_step() -> None:
    """Do what `test_settle_model` does at every step, with every fault."""
    for step in range(STEPS):
        for how in (crash, None):
            world = World()
            await world.begin()
            await world.publish(len(OUTCOMES) + 1)
            first = await world.start_worker(len(OUTCOMES) + 1)
            await world.take(first)
            await world.start_worker(1)
            world.fault_after(step, how or partial(world.sever, first))
            await world.end_attempts(first, OUTCOMES)
            world.check()
            for worker in world.workers:
                await world.take(worker)
                world.check()
            await world.drain()
            world.check()


async def commit_at_every_step(folder: Path) -> None:
    """Do what `test_commit_model` does under an alarm, at every step."""
    for step in range(COMMIT_STEPS):
        own = folder / str(step)
        own.mkdir()
        world = CommitWorld(own)
        await world.begin()
        await world.publish(len(OUTCOMES))
        first = await world.start_worker(len(OUTCOMES))
        await world.take(first)
        world.alarm(on=True)
        world.fault_after(step, fault(world, first, "alarm ends"))
        await world.end_attempts(first, OUTCOMES)
        for _ in range(12):
            await world.turn(1)
            world.check()
        await world.finish()


MUTANTS: list[tuple[type, str, Callable[..., object]]] = [
    (Settler, "_commit", acknowledges_first),
    (Settler, "_commit", records_last),
    (Settler, "_commit", acknowledges_all),
    (Settler, "_write", writes_nothing),
]


async def test_the_product_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows means something only because of this."""
    monkeypatch.setattr(commit, "_RETRY_FIRST_S", 0.0)
    await settle_at_every_step()
    await commit_at_every_step(tmp_path)


@pytest.mark.parametrize(
    ("where", "name", "mutant"), MUTANTS, ids=lambda m: getattr(m, "__name__", m)
)
async def test_a_fault_of_settling_is_caught(
    where: type, name: str, mutant: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 2: whoever acknowledges too soon, too much, or without what follows, is found out."""
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(AssertionError):
        await settle_at_every_step()


async def test_a_fault_under_an_alarm_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 7: what needs a publish keeps its delivery while the broker takes none."""
    monkeypatch.setattr(commit, "_RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(Committer, "_plain_ones", strips_all)
    with pytest.raises(AssertionError):
        await commit_at_every_step(tmp_path)
