"""`ctx.call`: a handler waits for another job without a slot (ZS-22), on the memory broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.producer.replies import Replies
from taskyard.shared import (
    ConfigurationError,
    Context,
    Fail,
    Hold,
    Job,
    JobFailed,
    JobParked,
    Queue,
    ResultTimeout,
    RetryPolicy,
)
from taskyard.shared.control import cancel_record
from taskyard.workers import slots

ONCE = RetryPolicy(attempts=1)
TWICE = RetryPolicy(attempts=2, first=0.05, jitter="none")


class Family:
    """A queue in which parents call children; what they got."""

    def __init__(self, **options: Any) -> None:
        self.queue = queue = Queue("q", **{"concurrency": 1, "retry": ONCE, **options})
        self.results: list[object] = []
        self.errors: list[Exception] = []
        self.most = self.running = 0
        self.go = asyncio.Event()
        self.ended = 0

        @queue.task
        async def double(n: int) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0)
            self.running -= 1
            return n * 2

        @queue.task
        async def wait() -> None:
            await self.go.wait()

        @queue.task
        async def lose(how: str) -> None:
            raise {"fail": Fail("no"), "hold": Hold("look")}[how]

        @queue.task
        async def parent(ctx: Context, n: int) -> int:
            value = await ctx.call(self.double.job(n))
            self.results.append(value)
            return value

        @queue.task
        async def waiting(ctx: Context, timeout: float | None = None) -> None:
            try:
                await ctx.call(self.wait.job(), timeout=timeout)
            except Exception as error:
                self.errors.append(error)
            finally:
                self.ended += 1
            self.results.append(ctx.attempt)

        @queue.task
        async def losing(ctx: Context, how: str) -> None:
            try:
                await ctx.call(self.lose.job(how))
            except Exception as error:
                self.errors.append(error)

        @queue.task
        def threaded(ctx: Context, n: int) -> int:
            value = ctx.call_from_thread(self.double.job(n))
            self.results.append(value)
            return value

        @queue.task
        def threaded_waiting(ctx: Context) -> None:
            try:
                ctx.call_from_thread(self.wait.job())
            except Exception as error:
                self.errors.append(error)
                raise

        @queue.task
        async def nested(ctx: Context, depth: int) -> int:
            deeper = 0 if depth == 0 else await ctx.call(self.nested.job(depth - 1))
            self.results.append(depth)
            return deeper + 1

        @queue.task
        async def several(ctx: Context, n: int) -> None:
            values = await asyncio.gather(*(ctx.call(self.double.job(i)) for i in range(n)))
            self.results.append(values)

        @queue.task
        async def twice(ctx: Context) -> None:
            chosen: Job[int] = Job(queue="q", task="double", args={"n": 7}, id="chosen")
            same = self.double.job(2)
            self.results.append([await ctx.call(job) for job in (same, same, chosen)])

        self.twice = twice
        self.double, self.wait, self.lose, self.parent = double, wait, lose, parent
        self.waiting, self.losing, self.nested, self.several = waiting, losing, nested, several
        self.threaded, self.threaded_waiting = threaded, threaded_waiting


def away(worker) -> int:
    return worker.lanes["q"]._slots.away


def free(worker) -> int:
    return worker.lanes["q"]._slots.free


def given(intake) -> int:
    """Return the credit that the broker has been given."""
    consumer: Any = intake._consumer
    return consumer._credit


async def children(bench, task: str) -> list[str]:
    """Return the ids of the runs of a task that have ended, in order."""
    return [r.job for r in await bench.records() if r.task == task and r.event == "finished"]


async def quiet(bench, worker) -> None:
    """Wait until everything is settled, and find every slot and the usual credit in place."""
    lane = worker.lanes["q"]

    async def settled():
        return not await bench.unsettled("q") and lane.idle

    await eventually(settled)
    assert away(worker) == 0
    assert free(worker) == lane.slots
    await eventually(lambda: given(lane.intake) == lane.slots)


@pytest.mark.parametrize("task", ["parent", "threaded"])
async def test_a_parent_calls_a_child_of_its_own_queue(tmp_path, task):
    """ZS-22: concurrency 1; it returns the child's result, and everything is given back."""
    family = Family()
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (parent_id,) = await bench.send(getattr(family, task).job(21))
        await eventually(lambda: family.results == [42])
        await quiet(bench, worker)
        child = next(r for r in await bench.records() if r.task == "q.double")
        assert child.job != parent_id


@pytest.mark.parametrize("task", ["parent", "threaded"])
async def test_fifty_parents_at_two_slots(tmp_path, task):
    """ZS-22: no deadlock, no more than two run at once, and a child overtakes waiting parents."""
    family = Family(concurrency=2)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        await bench.send(*(getattr(family, task).job(n) for n in range(50)))
        worker = await bench.worker()
        most_away = 0

        def done():
            nonlocal most_away
            most_away = max(most_away, away(worker))
            return len(family.results) == 50

        await eventually(done, every=0.001)
        assert sorted(family.results, key=str) == sorted((2 * n for n in range(50)), key=str)
        assert family.most <= 2
        assert most_away < 10
        await quiet(bench, worker)


async def test_parents_in_front_of_their_children_do_not_block(tmp_path):
    """ZS-22: where all parents are of the highest priority and start first, they still end."""
    family = Family(concurrency=2)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        await bench.send(*(family.parent.job(n).options(priority=9) for n in range(50)))
        worker = await bench.worker()
        await eventually(lambda: len(family.results) == 50)
        assert family.most <= 2
        await quiet(bench, worker)


async def test_three_levels_at_one_slot(tmp_path):
    """ZS-22: each level lends the slot to the one below, and gets it back."""
    family = Family()
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(family.nested.job(3))
        await eventually(lambda: family.results == [0, 1, 2, 3])
        await quiet(bench, worker)


async def test_several_calls_at_once(tmp_path):
    """ZS-22: a handler gathers calls; its slot stays lent until the last is over."""
    family = Family()
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(family.several.job(5))
        await eventually(lambda: family.results == [[0, 2, 4, 6, 8]])
        await quiet(bench, worker)


async def test_one_job_value_is_one_job(tmp_path):
    """ZS-22: called again, as after a publish that timed out, it has its id; a chosen id stays."""
    family = Family()
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(family.twice.job())
        await eventually(lambda: family.results == [[4, 4, 14]])
        await quiet(bench, worker)
        first, second, third = await children(bench, "q.double")
        assert first == second
        assert third == "chosen"


async def test_a_child_that_does_not_succeed(tmp_path):
    """ZS-22, ZS-31: its failure and its parking reach the handler, with the reason."""
    family = Family()
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(family.losing.job("fail"), family.losing.job("hold"))
        await eventually(lambda: len(family.errors) == 2)
        failed, parked = sorted(family.errors, key=lambda error: type(error).__name__)
        assert isinstance(failed, JobFailed)
        assert failed.kind == "logical"
        assert isinstance(parked, JobParked)
        assert parked.kind == "held"
        await quiet(bench, worker)


async def test_a_call_that_takes_too_long(tmp_path):
    """ZS-22: its timeout ends the waiting, not the child; the handler goes on when a slot is free."""
    family = Family(concurrency=1)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(family.waiting.job(0.1))
        await eventually(lambda: worker.lanes["q"]._slots._returning)
        assert family.ended == 0, "the child has the only slot"
        family.go.set()
        await eventually(lambda: family.ended == 1)
        assert isinstance(family.errors[0], ResultTimeout)
        await quiet(bench, worker)


@pytest.mark.parametrize("task", ["waiting", "threaded_waiting"])
async def test_time_to_run_goes_on_while_waiting(tmp_path, task):
    """ZS-22, LQ-07: a waiting parent runs out of time and is parked; nothing of it stays."""
    family = Family(concurrency=2)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (job_id,) = await bench.send(getattr(family, task).job().options(ttr=0.2))

        async def parked():
            return [job.envelope.id for job in await bench.parked("q")] == [job_id]

        await eventually(parked)
        assert away(worker) == 0
        assert free(worker) == 1, "the child still runs"
        if task == "threaded_waiting":
            await eventually(lambda: "over" in str(family.errors[0]))
            await eventually(lambda: worker.lanes["q"].executor.abandoned_threads == 0)
        family.go.set()
        await quiet(bench, worker)


async def test_a_stopping_worker_hands_a_waiting_parent_back(tmp_path):
    """ZS-22, B-13: same attempt, same deliveries; another worker runs it, and it calls again."""
    family = Family(concurrency=1)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker(grace_s=0.0)
        (job_id,) = await bench.send(family.waiting.job())
        await eventually(lambda: away(worker) == 1)
        worker.stop()
        await bench.ended(worker)
        handed = [r for r in await bench.records(job_id) if r.outcome == "handed_back"]
        assert [(r.attempt, r.deliveries) for r in handed] == [(1, 1)]
        family.go.set()
        family.results.clear()
        second = await bench.worker()
        await eventually(lambda: family.results == [1])
        await quiet(bench, second)
        assert len(set(await children(bench, "q.wait"))) == 1


async def test_an_operator_aborts_a_waiting_parent(tmp_path):
    """ZS-22: the parent ends as cancelled; its child goes on."""
    family = Family(concurrency=1)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (job_id,) = await bench.send(family.waiting.job())
        await eventually(lambda: away(worker) == 1)
        await bench.intend(cancel_record(job_id, by="ann", at_ms=1, abort=True))

        async def cancelled():
            return [r.outcome for r in await bench.records(job_id) if r.event == "finished"]

        assert await eventually(cancelled) == ["cancelled"]
        family.go.set()
        await quiet(bench, worker)


async def test_a_crashed_worker_runs_the_parent_again(tmp_path):
    """ZS-22: at least once: the parent comes again, one delivery more, and calls the same child."""
    family = Family(concurrency=1)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        (job_id,) = await bench.send(family.waiting.job())
        await eventually(lambda: away(worker) == 1)
        await bench.handles[worker].crash()
        family.go.set()
        second = await bench.worker()

        async def done():
            records = await bench.records(job_id)
            return [r.deliveries for r in records if r.outcome == "succeeded"]

        assert 2 in await eventually(done)
        await quiet(bench, second)
        assert len(set(await children(bench, "q.wait"))) == 1


async def test_a_further_attempt_calls_further_children(tmp_path):
    """ZS-22: a child that failed for good is not called again by a retry of its parent."""
    queue = Queue("q", concurrency=1, retry=TWICE)
    seen: list[str] = []

    @queue.task
    async def fail(ctx: Context) -> None:
        seen.append(ctx.job_id)
        raise Fail("no")

    @queue.task
    async def parent(ctx: Context) -> None:
        await ctx.call(fail.job())

    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        await bench.send(parent.job())
        await eventually(lambda: bench.parked("q"))
        await quiet(bench, worker)
        assert len(seen) == len(set(seen)) == 2


async def test_a_lost_outcome_is_an_error_in_words(tmp_path, monkeypatch):
    """ZS-22: with a timeout of its own or by the time to run: the text says which job it waited for."""
    family = Family(concurrency=2)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        monkeypatch.setattr(Replies, "deliver", lambda self, reply: None)
        await bench.send(family.parent.job(1).options(ttr=0.3), family.waiting.job(0.1))
        family.go.set()
        (parking,) = await eventually(lambda: bench.parking("q"))
        (child,) = await children(bench, "q.double")
        assert parking.error is not None
        assert "time to run of 0.3 s" in parking.error.message
        assert f"It waited for job {child} (q.double)" in parking.error.traceback
        assert "is lost" in parking.error.traceback
        await eventually(lambda: family.errors)
        (waited,) = await children(bench, "q.wait")
        assert str(family.errors[0]).startswith(f"no outcome of job {waited} within 0.1 s")
        await quiet(bench, worker)


async def test_other_queues_do_not_take_all_memory(tmp_path, monkeypatch):
    """ZS-22: those that wait for another queue keep their slots when too many are away."""
    monkeypatch.setattr(slots, "AWAY_LIMIT", 3)
    here, there = Queue("q", concurrency=2), Queue("there")
    started: list[int] = []
    done: list[int] = []

    @there.task
    async def double(n: int) -> int:
        return n * 2

    @here.task
    async def parent(ctx: Context, n: int) -> None:
        started.append(n)
        done.append(await ctx.call(double.job(n)))

    async with Workbench(here, there, folder=tmp_path) as bench:
        worker = await bench.worker(here)
        await bench.send(*(parent.job(n) for n in range(10)))
        await eventually(lambda: len(started) == 5)
        assert away(worker) == 3
        assert free(worker) == 0
        await bench.worker(there)
        await eventually(lambda: len(done) == 10)
        await quiet(bench, worker)


async def test_a_broker_without_replies_refuses_in_words(tmp_path, monkeypatch):
    """ZS-22: the handler is told why, nothing is sent, and its slot is in place."""
    family = Family()
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()

        async def inbox():
            raise ConfigurationError("addresses for replies are not to be had: no reason")

        monkeypatch.setattr(bench.handles[worker], "inbox", inbox)
        await bench.send(family.parent.job(1))
        (parking,) = await eventually(lambda: bench.parking("q"))
        assert parking.error is not None
        assert "addresses for replies" in parking.error.message
        await quiet(bench, worker)


async def test_credit_for_an_alarm_and_for_calls_adds_up(tmp_path):
    """What waits for the end of an alarm and what waits for other jobs do not take from each other."""
    family = Family(concurrency=1)
    async with Workbench(family.queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        intake = worker.lanes["q"].intake
        await eventually(lambda: intake.present)
        intake.hold(40)
        intake.lend(3)
        await eventually(lambda: given(intake) == 1 + 64 + 4)
        intake.hold(0)
        await eventually(lambda: given(intake) == 1 + 4)
        intake.lend(2)
        assert intake._lent == 4
        intake.lend(1)
        await eventually(lambda: given(intake) == 1 + 1)
        intake.lend(0)
        await eventually(lambda: given(intake) == 1)
