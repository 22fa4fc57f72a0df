"""A worker from start to stop: intents, lifespans, draining, handing back, alarms."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.shared import ConfigurationError, Context, Queue, Retry, RetryPolicy
from taskyard.shared.adapters.memory import MemoryBroker
from taskyard.shared.control import (
    ControlUnavailable,
    cancel_record,
    pause_record,
    resume_record,
    uncancel_record,
)
from taskyard.workers.lifespan import LifespanFailed


def recorder(name: str = "q", **options: Any):
    """Return a queue with a task that notes its runs, and the notes."""
    queue, runs = Queue(name, **options), []

    @queue.task
    async def note(ctx: Context, n: int) -> None:
        runs.append(n)

    return queue, note, runs


async def emptied(bench: Workbench, queue: str) -> bool:
    return not await bench.unsettled(queue)


@pytest.mark.parametrize("lookahead", [0, 5])
async def test_slots_come_before_messages(tmp_path, lookahead):
    """ZS-08, LQ-05: with one slot the highest priority runs first, first in first out inside each."""
    queue, note, runs = recorder(concurrency=1)
    queue.lookahead = lookahead
    async with Workbench(queue, folder=tmp_path) as bench:
        names = ["low", "normal", "high", "urgent"]
        for n in range(40):
            await bench.send(note.job(n).options(priority=names[n % 4]))
        worker = await bench.worker()
        await eventually(lambda: len(runs) == 40)
        assert runs == sorted(range(40), key=lambda n: (-(n % 4), n))
        assert worker.lanes["q"].slots == 1


async def test_a_paused_queue_starts_nothing_and_goes_on_when_resumed(tmp_path):
    """Promise 5: known before the first job, live afterwards, and over by itself when it expires."""
    queue, note, runs = recorder()
    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.intend(pause_record("q", by="ann", at_ms=1))
        await bench.send(note.job(1))
        worker = await bench.worker()
        await worker.follower.ready.wait()
        lane = worker.lanes["q"]
        await eventually(lambda: lane.paused)
        assert (await bench.broker.stats(["q"]))["q"].ready == 1
        await bench.intend(resume_record("q", by="ann", at_ms=2))
        await eventually(lambda: runs == [1])
        now_ms = bench.broker.now_ms()
        await bench.intend(pause_record("*", by="ann", at_ms=now_ms, until_ms=now_ms + 600))
        await eventually(lambda: lane.paused and not lane.intake.present)
        await bench.send(note.job(2))
        await eventually(lambda: runs == [1, 2])
        assert bench.broker.now_ms() >= now_ms + 600


async def test_pausing_hands_back_what_has_not_started(tmp_path):
    """Running jobs finish; what waits for a slot goes back, uncharged."""
    queue = Queue("q", concurrency=1, lookahead=5)
    started, go, runs = asyncio.Event(), asyncio.Event(), []

    @queue.task
    async def slow(ctx: Context) -> None:
        started.set()
        await go.wait()
        runs.append((ctx.attempt, ctx.deliveries))

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(slow.job() for _ in range(4)))
        await bench.worker()
        await started.wait()
        await bench.intend(pause_record("q", by="ann", at_ms=1))

        async def back():
            stats = (await bench.broker.stats(["q"]))["q"]
            return (stats.ready, stats.unsettled) == (3, 1)

        await eventually(back)
        go.set()
        await eventually(lambda: len(runs) == 1)
        await bench.intend(resume_record("q", by="ann", at_ms=2))
        await eventually(lambda: len(runs) == 4)
        assert set(runs) == {(1, 1)}


def gated(queue):
    """Declare a task that says when it starts and waits to be let go; return it and all of that."""
    started, go, runs = asyncio.Event(), asyncio.Event(), []

    @queue.task
    async def job(n: int) -> None:
        runs.append(n)
        started.set()
        await go.wait()

    return job, started, go, runs


async def test_a_job_that_expires_while_it_waits_for_a_slot_is_not_started(tmp_path):
    """What was looked at when it came is looked at again before it starts."""
    queue = Queue("q", concurrency=1, lookahead=2)
    job, started, go, runs = gated(queue)
    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(job.job(1))
        await started.wait()
        now_ms = bench.broker.now_ms()
        await bench.send(job.job(2).options(expires=0.2), job.job(3))
        await eventually(lambda: worker.lanes["q"].taken == 3)
        await eventually(lambda: bench.broker.now_ms() > now_ms + 250)
        go.set()
        await eventually(lambda: emptied(bench, "q"))
        assert runs == [1, 3]
        assert [parking.reason for parking in await bench.parking("q")] == ["expired"]


async def test_a_job_that_is_cancelled_while_it_waits_for_a_slot_is_not_started(tmp_path):
    """As one that expires; the first cancel ever is heard of, too."""
    queue = Queue("q", concurrency=1, lookahead=2)
    job, started, go, runs = gated(queue)
    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(job.job(1))
        await started.wait()
        (cancelled,) = await bench.send(job.job(2))
        await bench.send(job.job(3))
        await eventually(lambda: worker.lanes["q"].taken == 3)
        await bench.intend(cancel_record(cancelled, by="ann", at_ms=1))
        await eventually(lambda: worker.follower.intents.cancel_of(cancelled))
        go.set()
        await eventually(lambda: emptied(bench, "q"))
        assert runs == [1, 3]
        assert [record.outcome for record in await bench.records(cancelled)] == ["cancelled"]


async def test_cancel_prevents_starts_and_retries(tmp_path):
    """Design §12: a queued job never starts, a running one finishes, a retry does not follow."""
    queue = Queue("q", retry=RetryPolicy(attempts=5, first=0.01, jitter="none"))
    started, go, runs = asyncio.Event(), asyncio.Event(), []

    @queue.task
    async def job(n: int) -> None:
        runs.append(n)
        started.set()
        await go.wait()
        raise Retry

    async with Workbench(queue, folder=tmp_path) as bench:
        (queued,) = await bench.send(job.job(1))
        await bench.intend(cancel_record(queued, by="ann", at_ms=1))
        await bench.worker()
        (running,) = await bench.send(job.job(2))
        await started.wait()
        await bench.intend(cancel_record(running, by="bob", at_ms=2))
        await asyncio.sleep(0.05)
        go.set()
        await eventually(lambda: emptied(bench, "q"))
        assert runs == [2]
        assert [r.outcome for r in await bench.records(queued)] == ["cancelled"]
        assert [r.outcome for r in await bench.records(running)] == ["cancelled"]
        (third,) = await bench.send(job.job(3))
        await bench.intend(
            cancel_record(third, by="ann", at_ms=3), uncancel_record(third, by="ann", at_ms=4)
        )
        await eventually(lambda: runs == [2] + [3] * 5)


async def test_abort_ends_a_running_job(tmp_path):
    """`--abort` cancels an `async` handler; a thread cannot be stopped, and finishes."""
    queue = Queue("q")
    started = threading.Semaphore(0)
    go = threading.Event()

    @queue.task
    async def waits() -> None:
        started.release()
        await asyncio.sleep(30)

    @queue.task
    def blocks() -> None:
        started.release()
        go.wait(20)

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        on_loop, in_thread = await bench.send(waits.job(), blocks.job())
        for _ in range(2):
            await asyncio.to_thread(started.acquire)
        await bench.intend(
            cancel_record(in_thread, by="ann", at_ms=1, abort=True),
            cancel_record(on_loop, by="ann", at_ms=1, abort=True),
        )
        records = await eventually(lambda: bench.records(on_loop))
        assert (records[-1].outcome, records[-1].detail) == ("cancelled", "aborted")
        go.set()

        async def finished():
            return [r.outcome for r in await bench.records(in_thread) if r.event == "finished"]

        assert await eventually(finished) == ["succeeded"]


async def test_a_control_log_that_cannot_be_read_starts_no_queue(tmp_path):
    """Promise 5: without operators' intents no job starts; readiness says why; then it goes on."""
    queue, note, runs = recorder()
    available = asyncio.Event()

    class Broken(MemoryBroker):
        async def follow_control(self, after=None):
            if not available.is_set():
                raise ControlUnavailable("no replica")
            async for batch in super().follow_control(after):
                yield batch

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(note.job(1))
        worker = await bench.worker(broker=Broken(bench.state))
        await eventually(lambda: worker.follower.problem == "no replica")
        assert (await bench.broker.stats(["q"]))["q"].ready == 1
        available.set()
        await eventually(lambda: runs == [1])
        assert worker.follower.problem == ""


async def test_a_lifespan_is_entered_once_per_process_and_left_after_the_last_job(tmp_path):
    """LQ-11, LQ-12, B-06: once for a hundred jobs, at `ctx.resources`, and never for a sender."""
    trace = []

    @asynccontextmanager
    async def lifespan():
        trace.append("enter")
        yield {"db": "connection"}
        trace.append("leave")

    queue = Queue("q", lifespan=lifespan)
    seen = []

    @queue.task
    async def uses(ctx: Context[dict]) -> None:
        seen.append(ctx.resources["db"])

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(uses.job() for _ in range(100)))
        assert trace == []
        worker = await bench.worker(drain=True)
        await bench.ended(worker)
        assert trace == ["enter", "leave"]
        assert seen == ["connection"] * 100


async def test_a_failing_set_up_leaves_only_its_queue(tmp_path, monkeypatch):
    """LQ-11: the other queue runs, readiness names the one that does not; it is tried again."""
    monkeypatch.setattr("taskyard.workers.lifespan.FIRST_S", 0.1)
    good, note, runs = recorder("good")
    healthy: list[bool] = []

    @asynccontextmanager
    async def lifespan():
        if not healthy:
            raise OSError("no database")
        yield

    bad, other, others = recorder("bad", lifespan=lifespan)
    async with Workbench(good, bad, folder=tmp_path) as bench:
        await bench.send(note.job(1), other.job(2))
        worker = await bench.worker()
        await eventually(lambda: runs == [1])
        assert "no database" in worker.lanes["bad"].lifespan.problem
        assert others == []
        healthy.append(True)
        await eventually(lambda: others == [2])
        assert worker.lanes["bad"].lifespan.problem == ""


async def test_a_drain_ends_when_nothing_is_left_to_do(tmp_path):
    """CR-01: what is ready runs, retries and children included; what is due later does not count."""
    queue = Queue("q", concurrency=3)
    runs = []

    @queue.task
    async def note(ctx: Context, n: int) -> None:
        runs.append(n)
        if n == 1 and ctx.attempt == 1:
            raise Retry(delay=0)
        if n == 2:
            await ctx.send(note.job(100))

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(note.job(n) for n in range(10)), note.job(999).options(delay=3600))
        worker = await bench.worker(drain=True)
        await bench.ended(worker)
        assert sorted(runs) == sorted([*range(10), 1, 100])
        assert (await bench.broker.stats(["q"]))["q"].scheduled == 1


async def test_a_drain_that_cannot_set_a_queue_up_says_so(tmp_path):
    """The other queues are emptied first; then it complains."""

    @asynccontextmanager
    async def lifespan():
        raise OSError("no database")
        yield

    bad = Queue("bad", lifespan=lifespan)
    good, note, runs = recorder("good")
    async with Workbench(good, bad, folder=tmp_path) as bench:
        await bench.send(note.job(1))
        worker = await bench.worker(drain=True)
        await bench.ended(worker)
        assert runs == [1]
        with pytest.raises(LifespanFailed, match="no database"):
            worker.complain()


async def test_max_jobs_stops_after_so_many(tmp_path):
    """CR-04: exactly so many start, whatever the concurrency; the rest stays, uncharged."""
    queue, note, runs = recorder(concurrency=4, lookahead=10)
    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(note.job(n) for n in range(20)))
        worker = await bench.worker(max_jobs=7)
        await bench.ended(worker)
        assert runs == list(range(7))
        assert (await bench.broker.stats(["q"]))["q"].ready == 13


async def test_max_time_ends_under_constant_inflow(tmp_path):
    """CR-04: it ends though there is always more."""
    queue, note, runs = recorder()
    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker(drain=True, max_time_s=0.5)

        async def inflow():
            while True:
                await bench.send(note.job(0))
                await asyncio.sleep(0.01)

        flowing = asyncio.create_task(inflow())
        await bench.ended(worker, within=3)
        flowing.cancel()
        assert worker.signals.reason == "its time is over"
        assert len(runs) > 10


async def test_stopping_lets_running_jobs_finish(tmp_path):
    """B-13: within the grace they end by themselves; nothing else starts."""
    queue = Queue("q", concurrency=2, lookahead=4)
    started, go, ends = asyncio.Event(), asyncio.Event(), []

    @queue.task
    async def slow(n: int) -> None:
        started.set()
        await go.wait()
        ends.append(n)

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(slow.job(n) for n in range(6)))
        worker = await bench.worker(grace_s=10)
        await started.wait()
        worker.stop("test")
        await eventually(lambda: not worker.lanes["q"].intake.present)
        go.set()
        await bench.ended(worker)
        assert sorted(ends) == [0, 1]
        assert (await bench.broker.stats(["q"]))["q"].ready == 4


@pytest.mark.parametrize("threaded", [False, True])
async def test_too_short_a_grace_hands_back_uncharged(tmp_path, threaded):
    """B-13: what was interrupted runs elsewhere with the same attempt and deliveries."""
    queue = Queue("q")
    started, go, seen = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    @queue.task
    async def on_loop(ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.deliveries))
        started.set()
        if not go.is_set():
            await asyncio.sleep(30)

    @queue.task
    def in_thread(ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.deliveries))
        loop.call_soon_threadsafe(started.set)
        go.wait(20)

    async with Workbench(queue, folder=tmp_path) as bench:
        task = in_thread if threaded else on_loop
        (job_id,) = await bench.send(task.job())
        first = await bench.worker(grace_s=0.05)
        await started.wait()
        first.stop("test")
        if threaded:
            await eventually(lambda: first.lanes["q"].executor.abandoned_threads == 1)
        await bench.ended(first)
        assert (await bench.broker.stats(["q"]))["q"].ready == 1
        go.set()
        await bench.worker()
        await eventually(lambda: emptied(bench, "q"))
        assert seen == [(1, 1), (1, 1)]
        outcomes = [r.outcome for r in await bench.records(job_id) if r.event == "finished"]
        assert outcomes == ["handed_back", "succeeded"]


async def test_a_second_stop_is_at_once(tmp_path):
    """The grace of a minute is cut short."""
    queue = Queue("q")
    started = asyncio.Event()

    @queue.task
    async def slow() -> None:
        started.set()
        await asyncio.sleep(60)

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(slow.job())
        worker = await bench.worker(grace_s=60)
        await started.wait()
        worker.stop("test")
        worker.hurry()
        await bench.ended(worker, within=5)
        assert (await bench.broker.stats(["q"]))["q"].ready == 1


async def test_an_alarm_does_not_stop_the_draining(tmp_path):
    """Promise 7: successes are acknowledged and their records kept; retries wait, slots do not."""
    queue = Queue("q", concurrency=2, retry=RetryPolicy(attempts=2, first=0, jitter="none"))
    runs = []

    @queue.task
    async def job(ctx: Context, n: int) -> None:
        runs.append((n, ctx.attempt))
        if n % 10 == 0 and ctx.attempt == 1:
            raise RuntimeError("once more")

    async with Workbench(queue, folder=tmp_path) as bench:
        ids = await bench.send(*(job.job(n) for n in range(200)))
        bench.state.block()
        worker = await bench.worker()
        await eventually(lambda: len(runs) == 200)
        await eventually(lambda: worker.committer.unsettled == 20)
        assert await bench.unsettled("q") == 20
        assert await bench.records() == []
        bench.state.unblock()
        await eventually(lambda: emptied(bench, "q"))
        assert len(runs) == 220

        async def told():
            finished = [r for r in await bench.records() if r.event == "finished"]
            return {r.job for r in finished if r.outcome == "succeeded"} == set(ids)

        await eventually(told)
        assert worker.metrics.count("unrecorded").value == 0


async def test_an_alarm_that_comes_in_mid_commit(tmp_path):
    """What waits for its confirm is left behind; the others go on, and nothing is settled twice."""
    queue = Queue("q", concurrency=5, retry=RetryPolicy(attempts=2, first=0, jitter="none"))
    runs = []

    @queue.task
    async def job(ctx: Context, n: int) -> None:
        runs.append((n, ctx.attempt))
        if n == 0 and ctx.attempt == 1:
            raise RuntimeError("once more")
        if n == 5:
            bench.state.block()

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.send(*(job.job(n) for n in range(100)))
        await bench.worker()
        await eventually(lambda: len(runs) >= 100)
        bench.state.unblock()
        await eventually(lambda: emptied(bench, "q"))
        assert sorted(runs) == sorted([*((n, 1) for n in range(100)), (0, 2)])


async def test_a_missing_queue_is_told_in_words(tmp_path, monkeypatch):
    """The error names what creates it; a queue that appears in time is consumed."""
    monkeypatch.setattr("taskyard.workers.presence.PATIENCE_S", 0.3)
    here, note, _ = recorder("here")
    missing, _, _ = recorder("missing")
    async with Workbench(here, folder=tmp_path) as bench:
        await bench.send(note.job(1))
        worker = await bench.worker(here, missing)
        with pytest.raises(ConfigurationError, match="taskyard broker apply"):
            await bench.ended(worker)
        bench._running.clear()


async def test_many_intents_are_known_before_the_first_job(tmp_path):
    """Promise 5: 20 000 records, and none of those written meanwhile is missed."""
    queue, note, runs = recorder()
    async with Workbench(queue, folder=tmp_path) as bench:
        ids = await bench.send(*(note.job(n) for n in range(50)))
        await bench.intend(*(cancel_record(f"other-{n}", by="a", at_ms=1) for n in range(20_000)))
        await bench.intend(*(cancel_record(job_id, by="a", at_ms=2) for job_id in ids[:49]))
        worker = await bench.worker()
        await eventually(lambda: emptied(bench, "q"))
        assert runs == [49]
        assert worker.follower.intents.cancel_of("other-19999") is not None
