"""What becomes of attempts: a whole worker on a memory broker, inside the test."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from functools import partial

import msgspec
import pytest

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.shared import (
    ConfigurationError,
    Context,
    Fail,
    Hold,
    Job,
    Queue,
    Retry,
    RetryPolicy,
    bind_values,
    current_job,
    current_values,
)
from taskyard.shared.envelope import Envelope

QUICK = RetryPolicy(attempts=3, first=0.05, factor=1, jitter="none")


async def outcomes(bench: Workbench, job_id: str, number: int) -> list[tuple[int, str, str]]:
    """Wait for so many records of a job and return (attempt, outcome, detail) of each."""

    async def enough():
        records = [r for r in await bench.records(job_id) if r.event == "finished"]
        return records if len(records) >= number else None

    records = await eventually(enough)
    return [(record.attempt, record.outcome, record.detail) for record in records]


async def test_each_ending_has_its_outcome(tmp_path):
    """LQ-02, LQ-09, ZS-32, SQ-03, B-10: the ways a handler can end, and what each becomes."""
    queue = Queue("q", retry=QUICK)

    @queue.task
    async def ends(ctx: Context, how: str) -> str:
        if how == "retry once" and ctx.attempt == 1:
            raise Retry(delay=0.01)
        if how == "hold":
            raise Hold("why")
        if how == "fail":
            raise Fail("no")
        if how == "error":
            raise RuntimeError(how)
        if how == "exit":
            raise SystemExit(3)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "generator":
            raise GeneratorExit
        return how

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        spent = [(1, "retried", ""), (2, "retried", ""), (3, "parked", "exhausted")]
        for how, expected in {
            "return": [(1, "succeeded", "")],
            "retry once": [(1, "retried", ""), (2, "succeeded", "")],
            "hold": [(1, "parked", "held")],
            "fail": [(1, "failed", "logical")],
            "error": spent,
            "exit": spent,
            "interrupt": spent,
            "cancelled": spent,
            "generator": spent,
        }.items():
            (job_id,) = await bench.send(ends.job(how=how))
            assert await outcomes(bench, job_id, len(expected)) == expected, how
        assert await bench.unsettled("q") == 0
        reasons = sorted(parking.reason for parking in await bench.parking("q"))
        assert reasons == ["exhausted"] * 5 + ["held"]


async def test_a_thread_can_end_in_the_same_ways(tmp_path):
    """`def` handlers run in threads; nothing that they raise ends the worker."""
    queue = Queue("q", retry=RetryPolicy(attempts=1))

    @queue.task
    def ends(how: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        if how == "exit":
            raise SystemExit
        if how == "stop":
            raise StopIteration
        return how

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        for how, expected in {
            "fine": (1, "succeeded", ""),
            "exit": (1, "parked", "exhausted"),
            "stop": (1, "parked", "exhausted"),
        }.items():
            (job_id,) = await bench.send(ends.job(how=how))
            assert await outcomes(bench, job_id, 1) == [expected]


async def test_what_cannot_run_is_parked_with_its_reason(tmp_path):
    """LQ-10, GM-02, ZP-01: unknown task, wrong arguments, undecodable body, expired: kept, and why."""
    queue = Queue("q")

    @queue.task
    async def add(number: int) -> None: ...

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        await bench.publish(
            Job(queue="q", task="nosuch").envelope(1),
            Job(queue="q", task="add", args={"number": "seven"}).envelope(1),
            Envelope(id="bad", queue="q", task="add", body=b"{not json"),
            msgspec.structs.replace(add.job(1).envelope(1), expires_ms=2),
        )
        parked = await eventually(lambda: _four(bench))
        assert sorted(parking.reason for parking in parked) == [
            "expired",
            "invalid",
            "invalid",
            "unknown_task",
        ]
        assert await bench.unsettled("q") == 0


async def _four(bench: Workbench):
    parked = await bench.parking("q")
    return parked if len(parked) == 4 else None


async def test_time_to_run_of_an_async_handler(tmp_path):
    """LQ-07, ZS-14: it is cancelled, counts as an attempt, and the traceback says where it was."""
    queue = Queue("q", retry=RetryPolicy(attempts=2, first=0.05, jitter="none"), ttr=0.1)

    @queue.task
    async def waits() -> None:
        await asyncio.sleep(30)

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        (job_id,) = await bench.send(waits.job())
        assert await outcomes(bench, job_id, 2) == [(1, "retried", ""), (2, "parked", "exhausted")]
        (parking,) = await bench.parking("q")
        error = parking.error
        assert error is not None
        assert error.type.endswith("TimedOut")
        assert "in waits" in error.traceback


async def test_a_handler_that_swallows_its_end_has_still_timed_out(tmp_path):
    """The late finisher's outcome is not counted."""
    queue = Queue("q", retry=RetryPolicy(attempts=1), ttr=0.1)

    @queue.task
    async def stubborn() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "done, I say"
        return ""

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        (job_id,) = await bench.send(stubborn.job())
        assert await outcomes(bench, job_id, 1) == [(1, "parked", "exhausted")]


async def test_a_thread_that_runs_out_of_time_is_abandoned(tmp_path):
    """LQ-07, B-15: its slot is free at once, its late outcome is fenced off, and it is counted."""
    queue = Queue(
        "q", retry=RetryPolicy(attempts=2, first=0.05, jitter="none"), ttr=0.15, concurrency=1
    )
    release = threading.Event()
    runs = []

    @queue.task
    def stuck(n: int) -> int:
        runs.append(n)
        release.wait(20)
        return n

    @queue.task
    def free() -> None: ...

    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (job_id,) = await bench.send(stuck.job(1))
        (other,) = await bench.send(free.job())
        assert await outcomes(bench, other, 1) == [(1, "succeeded", "")]
        assert await outcomes(bench, job_id, 2) == [(1, "retried", ""), (2, "parked", "exhausted")]
        assert worker.lanes["q"].executor.abandoned_threads == 2
        release.set()
        await eventually(lambda: worker.lanes["q"].executor.abandoned_threads == 0)
        assert len(await bench.records(job_id)) == 2
        assert runs == [1, 1]


async def test_touch_restarts_the_time_to_run(tmp_path):
    """LQ-08, BS-09: a job that touches in time has one attempt, from the loop and from a thread."""
    queue = Queue("q", ttr=0.3)

    @queue.task
    async def touches(ctx: Context) -> None:
        for _ in range(6):
            await asyncio.sleep(0.1)
            ctx.touch()

    @queue.task
    def reports(ctx: Context) -> None:
        for number in range(6):
            time.sleep(0.1)
            ctx.progress(number, of=6, note="…")

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        for task in (touches, reports):
            (job_id,) = await bench.send(task.job())
            assert await outcomes(bench, job_id, 1) == [(1, "succeeded", "")]


async def test_touch_to_a_nearer_deadline(tmp_path):
    """`touch(ttr)` sets the deadline at its own length, shorter ones too."""
    queue = Queue("q", ttr=30, retry=RetryPolicy(attempts=1))

    @queue.task
    async def hurries(ctx: Context) -> None:
        ctx.touch(0.1)
        await asyncio.sleep(20)

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        (job_id,) = await bench.send(hurries.job())
        assert await outcomes(bench, job_id, 1) == [(1, "parked", "exhausted")]


async def test_touch_past_the_brokers_patience_is_refused(tmp_path):
    """Design §12: refused in words, naming what to change; the job goes on."""
    queue = Queue("q", ttr=5)
    said = []

    @queue.task
    async def asks(ctx: Context) -> None:
        try:
            ctx.touch(3600)
        except ConfigurationError as error:
            said.append(str(error))

    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        worker.lanes["q"].executor.max_ttr_s = 1800.0
        (job_id,) = await bench.send(asks.job())
        assert await outcomes(bench, job_id, 1) == [(1, "succeeded", "")]
        assert "TASKYARD_CONSUMER_TIMEOUT" in said[0]


async def test_warning_before_the_deadline(tmp_path):
    """BS-03: the callback comes before the time is up."""
    queue = Queue("q", ttr=0.6, retry=RetryPolicy(attempts=1))
    seen = []

    @queue.task
    async def listens(ctx: Context) -> None:
        start = time.monotonic()
        warned = asyncio.Event()

        def soon() -> None:
            seen.append((time.monotonic() - start, ctx.deadline))
            warned.set()

        ctx.on_deadline_soon(soon, before=0.3)
        await warned.wait()

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        (job_id,) = await bench.send(listens.job())
        assert await outcomes(bench, job_id, 1) == [(1, "succeeded", "")]
        assert 0.2 < seen[0][0] < 0.55


async def test_interleaved_jobs_see_their_own_context(tmp_path):
    """LQ-13, B-08, ZS-23: two tenants, 100 jobs each, interleaved; and in the children they send."""
    queue = Queue("q", concurrency=16, lookahead=50)
    own = contextvars.ContextVar("own", default="")
    wrong, seen = [], []

    def check(tenant: str, ctx: Context) -> None:
        job = current_job()
        good = job is not None and job.job_id == ctx.job_id and own.get() in ("", tenant)
        if not good or current_values() != {"tenant": tenant} or ctx.values != {"tenant": tenant}:
            wrong.append((tenant, dict(current_values()), own.get()))
        seen.append(tenant)

    @queue.task
    async def parent(ctx: Context, tenant: str, n: int) -> None:
        check(tenant, ctx)
        own.set(tenant)
        await asyncio.sleep(0.001 * (n % 5))
        check(tenant, ctx)
        await ctx.send(child.job(tenant))

    @queue.task
    def child(ctx: Context, tenant: str) -> None:
        check(tenant, ctx)
        assert ctx.parent is not None
        if len(seen) % 7 == 0:
            ctx.send_from_thread(grandchild.job(tenant))

    @queue.task
    def grandchild(ctx: Context, tenant: str) -> None:
        check(tenant, ctx)

    async with Workbench(queue, folder=tmp_path) as bench:
        jobs = []
        for n in range(100):
            for tenant in ("a", "b"):
                with bind_values(tenant=tenant):
                    jobs += [parent.job(tenant, n).envelope(bench.broker.now_ms())]
        await bench.publish(*jobs)
        await bench.worker()

        async def done():
            return len(seen) >= 600 and not await bench.unsettled("q")

        await eventually(done, within=15)
        assert wrong == []
        assert seen.count("a") >= 300


async def test_middleware_wraps_both_kinds_of_handler(tmp_path):
    """The first is outermost; what it raises ends the attempt; time-outs reach through it."""
    trace = []

    class Layer:
        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self, ctx, proceed):
            trace.append(f"{self.name} before {ctx.task}")
            value = await proceed()
            trace.append(f"{self.name} after")
            if value == "refuse":
                raise Fail("refused by middleware")
            return value

    queue = Queue(
        "q", middleware=[Layer("outer"), Layer("inner")], retry=RetryPolicy(attempts=1), ttr=0.3
    )
    release = threading.Event()

    @queue.task
    async def on_loop(value: str) -> str:
        trace.append("handler")
        return value

    @queue.task
    def in_thread(value: str) -> str:
        if value == "stuck":
            release.wait(20)
        return value

    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (job_id,) = await bench.send(on_loop.job("v"))
        assert await outcomes(bench, job_id, 1) == [(1, "succeeded", "")]
        assert trace == [
            "outer before q.on_loop",
            "inner before q.on_loop",
            "handler",
            "inner after",
            "outer after",
        ]
        (job_id,) = await bench.send(in_thread.job("refuse"))
        assert await outcomes(bench, job_id, 1) == [(1, "failed", "logical")]
        (job_id,) = await bench.send(in_thread.job("stuck"))
        assert await outcomes(bench, job_id, 1) == [(1, "parked", "exhausted")]
        assert worker.lanes["q"].executor.abandoned_threads == 1
        release.set()
        await eventually(lambda: worker.lanes["q"].executor.abandoned_threads == 0)


async def test_crashing_deliveries_are_counted_and_park(tmp_path):
    """B-13, SQ-04: five workers die with it, the sixth parks it; other jobs go on."""
    queue = Queue("q", max_deliveries=5, concurrency=1)
    deliveries = []

    @queue.task
    async def deadly(ctx: Context) -> None:
        deliveries.append((ctx.attempt, ctx.deliveries))
        await asyncio.sleep(30)

    async with Workbench(queue, folder=tmp_path) as bench:
        (job_id,) = await bench.send(deadly.job())
        for number in range(1, 6):
            worker = await bench.worker()
            await eventually(partial(_has, deliveries, number))
            await bench.handles[worker].crash()
            worker.hurry()
        await bench.worker()
        (parked,) = await eventually(lambda: bench.parked("q"))
        assert deliveries == [(1, n) for n in range(1, 6)]
        assert [parking.reason for parking in await bench.parking("q")] == ["poison"]
        assert parked.envelope.id == job_id


def _has(items: list, number: int) -> bool:
    return len(items) == number


async def test_a_lost_connection_charges_nobody_and_repeats_nothing(tmp_path):
    """Pain 5: the run goes on, its redelivery is recognised, and it is settled once."""
    queue = Queue("q", concurrency=2)
    started, go, runs = asyncio.Event(), asyncio.Event(), []

    @queue.task
    async def slow(ctx: Context) -> None:
        runs.append(ctx.deliveries)
        started.set()
        await go.wait()

    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (job_id,) = await bench.send(slow.job())
        await started.wait()
        bench.handles[worker].sever()
        await asyncio.sleep(0)
        go.set()
        assert await outcomes(bench, job_id, 1) == [(1, "succeeded", "")]

        async def settled():
            return not await bench.unsettled("q")

        await eventually(settled)
        assert runs == [1]


async def test_a_result_goes_to_whoever_asked(tmp_path):
    """The reply carries the value; a value without JSON form does not undo the success."""
    queue = Queue("q")

    @queue.task
    async def add(a: int, b: int) -> int:
        return a + b

    async with Workbench(queue, folder=tmp_path, recording=False) as bench:
        await bench.worker()
        inbox = await bench.broker.inbox()
        job = add.job(2, 3)
        await bench.publish(job.envelope(1, reply=inbox.address))
        (body,) = await asyncio.wait_for(inbox.take(), 5)
        reply = msgspec.json.decode(body)
        assert (reply["job"], reply["outcome"], reply["value"]) == (job.id, "succeeded", 5)


@pytest.mark.parametrize("bad", ["unresolved", "nameless"])
async def test_a_broken_declaration_stops_the_start(tmp_path, bad):
    """A task that can never run is told when the worker starts, not when its first job comes."""
    queue = Queue("q")
    if bad == "unresolved":

        @queue.task
        async def broken(x: Nonexistent) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    else:

        @queue.task
        async def broken(*args: int) -> None: ...

    async with Workbench(queue, folder=tmp_path) as bench:
        with pytest.raises(ConfigurationError, match="broken"):
            await bench.worker()
