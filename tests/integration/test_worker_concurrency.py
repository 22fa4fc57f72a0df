"""Slots that change while a worker runs: at once, durably, and without ending what runs."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.shared import Context, Queue
from taskyard.shared.control import concurrency_record, pause_record, reset_concurrency_record
from taskyard.shared.metrics import Metrics
from taskyard.workers.gauges import show_gauges
from taskyard.workers.worker import Worker


class Gated:
    """A queue whose jobs run until they are let go, one by one or all together."""

    def __init__(self, **options):
        self.queue = Queue("q", **options)
        self.running = self.started = 0
        self.most = 0
        self.ended = 0
        self._go = asyncio.Semaphore(0)

        @self.queue.task
        async def wait(ctx: Context) -> None:
            self.started += 1
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self._go.acquire()
            finally:
                self.running -= 1
            self.ended += 1

        self.task = wait

    def has_ended(self, number: int) -> bool:
        return self.ended == number

    def let_go(self, number: int) -> None:
        for _ in range(number):
            self._go.release()


def intend(slots: int, at_ms: int = 1):
    return concurrency_record("q", slots, by="ann@ops", at_ms=at_ms)


@pytest.mark.parametrize("lookahead", [0, 3])
async def test_slots_grow_at_once(tmp_path, lookahead):
    """ZS-51: more slots take more jobs at once, without a restart; a reset gives back the declared."""
    gated = Gated(concurrency=2, lookahead=lookahead)
    async with Workbench(gated.queue, folder=tmp_path) as bench:
        await bench.send(*(gated.task.job() for _ in range(20)))
        worker = await bench.worker()
        await eventually(lambda: gated.running == 2)
        await bench.intend(intend(7))
        await eventually(lambda: gated.running == 7)
        assert shown_slots(worker) == 7
        await bench.intend(reset_concurrency_record("q", by="ann@ops", at_ms=2))
        await eventually(lambda: worker.lanes["q"].slots == 2)
        gated.let_go(20)
        await eventually(lambda: gated.ended == 20)
        assert gated.most == 7


@pytest.mark.parametrize("lookahead", [0, 3])
async def test_fewer_slots_end_nothing_that_runs(tmp_path, lookahead):
    """ZS-51: from 5 to 1 while loaded: five end as they began, and from then on one runs at a time."""
    gated = Gated(concurrency=5, lookahead=lookahead)
    async with Workbench(gated.queue, folder=tmp_path) as bench:
        await bench.send(*(gated.task.job() for _ in range(20)))
        worker = await bench.worker()
        await eventually(lambda: gated.running == 5)
        await bench.intend(intend(1))
        await eventually(lambda: worker.lanes["q"].slots == 1)
        for ended in range(1, 5):
            gated.let_go(1)
            await eventually(partial(gated.has_ended, ended))
        gated.let_go(1)
        await eventually(lambda: gated.ended == 5 and gated.running == 1)
        assert gated.started == 6  # the sixth began when the fifth had ended
        gated.most = 0
        gated.let_go(14)
        await eventually(lambda: gated.ended == 19)
        await eventually(lambda: gated.running == 1)
        assert gated.most == 1
        gated.let_go(1)
        await eventually(lambda: gated.ended == 20)
        outcomes = [r.outcome for r in await bench.records() if r.event == "finished"]
        assert set(outcomes) == {"succeeded"}


async def test_fewer_and_then_more(tmp_path):
    """Slots that were to go and are wanted again are there: none is lost, none is counted twice."""
    gated = Gated(concurrency=4)
    async with Workbench(gated.queue, folder=tmp_path) as bench:
        await bench.send(*(gated.task.job() for _ in range(30)))
        worker = await bench.worker()
        await eventually(lambda: gated.running == 4)
        for n, slots in enumerate((1, 3, 2, 6)):
            await bench.intend(intend(slots, n + 1))
            await eventually(partial(has_slots, worker, slots))
        await eventually(lambda: gated.running == 6)
        gated.let_go(10)
        await eventually(lambda: gated.ended == 10 and gated.running == 6)
        assert gated.most == 6
        gated.let_go(20)
        await eventually(lambda: gated.ended == 30)
        assert worker.lanes["q"]._slots.free == 6


async def test_a_worker_that_starts_later_honours_it(tmp_path):
    """Written while no worker runs: it holds from the first job on, before any is started."""
    gated = Gated(concurrency=5)
    async with Workbench(gated.queue, folder=tmp_path) as bench:
        await bench.intend(intend(2), pause_record("q", by="ann", at_ms=1, until_ms=2))
        await bench.send(*(gated.task.job() for _ in range(10)))
        await bench.worker()
        await eventually(lambda: gated.running == 2)
        gated.let_go(10)
        await eventually(lambda: gated.ended == 10)
        assert gated.most == 2


@pytest.mark.parametrize("body", [None, {}, {"slots": 0}, {"slots": "9"}, {"slots": True}])
async def test_a_record_without_a_number_changes_nothing(tmp_path, body):
    """What another version or a hand has written badly leaves the queue as it declares itself."""
    gated = Gated(concurrency=3)
    async with Workbench(gated.queue, folder=tmp_path) as bench:
        record = intend(9)
        bad = type(record)(key=record.key, op=record.op, by="ann", at=1, body=body)
        await bench.intend(bad)
        await bench.send(*(gated.task.job() for _ in range(5)))
        await bench.worker()
        await eventually(lambda: gated.running == 3)
        gated.let_go(5)
        await eventually(lambda: gated.ended == 5)
        assert gated.most == 3


async def test_callers_get_their_slots_back_though_there_are_fewer(tmp_path):
    """A job that has lent its slot out and comes back among fewer slots goes on, when it can."""
    queue, runs = Queue("q", concurrency=3), []
    called = asyncio.Event()

    @queue.task
    async def inner(ctx: Context) -> int:
        await called.wait()
        return 1

    @queue.task
    async def outer(ctx: Context) -> None:
        runs.append(await ctx.call(inner.job()))

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(outer.job() for _ in range(3)))
        worker = await bench.worker()
        lane = worker.lanes["q"]
        await eventually(lambda: lane.calling == 3 and len(lane.running) == 6)
        await bench.intend(intend(1))
        await eventually(lambda: lane.slots == 1)
        called.set()
        await eventually(lambda: runs == [1, 1, 1])
        await eventually(lambda: lane.idle)
        assert lane._slots.free == 1


def has_slots(worker: Worker, number: int) -> bool:
    return worker.lanes["q"].slots == number


def shown_slots(worker: Worker) -> float:
    """Return what a scrape would read."""
    metrics: Metrics = worker.metrics
    show_gauges(worker)
    line = next(
        line for line in metrics.expose().splitlines() if line.startswith(b"taskyard_slots{")
    )
    return float(line.rpartition(b" ")[2])
