"""A worker that dies between any two steps of its broker: nothing is lost, nothing is stuck."""

from __future__ import annotations

import asyncio

import pytest

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.shared import Context, Hold, Queue, Retry
from taskyard.shared.adapters.memory import SimulatedCrash


class DiesAt:
    """Raises at the n-th step of a commit, once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.died = asyncio.Event()

    def __call__(self, step: str) -> None:
        if not step.startswith("settle"):
            return
        self.number -= 1
        if self.number == 0:
            self.died.set()
            raise SimulatedCrash(step)


@pytest.mark.parametrize("point", range(1, 31))
async def test_a_death_between_any_two_steps_loses_nothing(tmp_path, point):
    """Promise 2: at worst a duplicate delivery; every job ends as it would have."""
    queue = Queue("q", concurrency=3)
    runs: list[tuple[str, int]] = []

    @queue.task
    async def job(ctx: Context, how: str) -> None:
        runs.append((ctx.job_id, ctx.attempt))
        if how == "retry" and ctx.attempt == 1:
            raise Retry(delay=0)
        if how == "hold":
            raise Hold

    async with Workbench(queue, folder=tmp_path) as bench:
        hows = ["fine", "retry", "hold"] * 2
        ids = await bench.send(*(job.job(how) for how in hows))
        dies = DiesAt(point)
        bench.state.fault = dies
        first = await bench.worker()

        async def over() -> bool:
            return dies.died.is_set() or not await bench.unsettled("q")

        await eventually(over)
        bench.state.fault = None
        await bench.handles[first].crash()
        first.hurry()
        await bench.worker()

        async def ended() -> bool:
            assert not await bench.unsettled("q")
            parked = {parked.envelope.id for parked in await bench.parked("q")}
            records = await bench.records()
            succeeded = {record.job for record in records if record.outcome == "succeeded"}
            held = {job_id for job_id, how in zip(ids, hows, strict=True) if how == "hold"}
            return parked == held and succeeded == set(ids) - held

        await eventually(ended)
        for job_id, how in zip(ids, hows, strict=True):
            attempts = {attempt for known, attempt in runs if known == job_id}
            assert attempts == ({1, 2} if how == "retry" else {1})
