"""Children in trouble, with a worker on the memory broker: killed, crashed, broken, leaving things behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import suppress

import psutil
import pytest

from support import process_tasks as tasks
from support.children import NOTES, WITHIN, Bench, pids_in, said
from support.eventually import eventually
from support.fragile_tasks import fragile, runs
from support.loop_watch import LoopWatch
from support.process import is_gone
from taskyard.shared.control import cancel_record
from taskyard.workers.lifespan import LifespanFailed


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    async with Bench(tasks.queue, fragile, folder=tmp_path) as bench:
        monkeypatch.setenv(NOTES, str(bench.notes))
        yield bench


@pytest.mark.system
async def test_a_job_over_its_time_is_killed_with_all_it_started(bench):
    """B-15, promise 2: SIGKILL for the whole group within 0.5 s of the time to run; by policy then."""
    worker = await bench.worker()
    await bench.value_of(tasks.traced.job())  # a child is there
    path = bench.folder / "pids"
    (job_id,) = await bench.send(tasks.spins.job(str(path)))
    pids = await pids_in(path)
    (attempt,) = worker.lanes["proc"].running
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < attempt.deadline_s + 0.5
        await asyncio.sleep(0.01)
    assert time.monotonic() >= attempt.deadline_s
    (record,) = await bench.ends(job_id)
    assert (record.outcome, record.detail) == ("parked", "exhausted")
    assert record.error.type.endswith("TimedOut")
    assert await bench.value_of(tasks.in_thread.job(1))  # another child takes its place


async def test_an_abort_kills(bench):
    """EV-14: an operator's abort ends a handler that nothing else could end."""
    await bench.worker()
    path = bench.folder / "pid"
    (job_id,) = await bench.send(tasks.waits.job(str(path)))
    (pid,) = await pids_in(path)
    await bench.intend(cancel_record(job_id, by="ann", at_ms=1, abort=True))
    (record,) = await bench.ends(job_id)
    assert (record.outcome, record.detail) == ("cancelled", "aborted")
    assert is_gone(pid)


async def test_a_stop_hands_back_what_does_not_end(bench):
    """B-13: after the grace the child is killed; the job keeps its attempt and its deliveries."""
    worker = await bench.worker(grace_s=0.2)
    path = bench.folder / "pid"
    (job_id,) = await bench.send(tasks.waits.job(str(path)))
    (pid,) = await pids_in(path)
    worker.stop()
    await bench.ended(worker, within=WITHIN)
    (record,) = await bench.ends(job_id)
    assert (record.outcome, record.attempt, record.deliveries) == ("handed_back", 1, 1)
    assert is_gone(pid)
    assert await bench.unsettled("proc") == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("segfault", "its process was killed by signal 11 (SIGSEGV)"),
        ("exit", "its process ended by itself with exit code 7"),
    ],
)
async def test_a_job_that_kills_its_child_is_charged_then_parked(bench, how, said, caplog):
    """B-14: five children die, the worker does not; the parking says what is known of the death."""
    caplog.set_level(logging.INFO)
    worker = await bench.worker()
    (job_id,) = await bench.send(tasks.die.job(how))
    records = await bench.ends(job_id, 5)
    assert [(r.outcome, r.attempt, r.deliveries) for r in records] == [
        *[("handed_back", 1, n) for n in range(1, 5)],
        ("parked", 1, 5),
    ]
    assert {r.detail for r in records[:4]} == {said}
    (parking,) = await bench.parking("proc")
    assert parking.reason == "poison"
    assert said in parking.detail
    assert "max_deliveries is 5" in parking.detail
    assert (how == "segfault") == any(
        "Segmentation fault" in r.getMessage() for r in caplog.records
    )
    worker.stop()
    await bench.ended(worker, within=WITHIN)


async def test_a_child_that_has_grown_is_replaced(bench):
    """B-07: resident memory is looked at between jobs; a job that gives it back does not count."""
    # The worker is in this process, which holds what all tests so far have loaded.
    limit_mib = psutil.Process().memory_info().rss // 2**20 + 100
    await bench.worker(max_rss_bytes=limit_mib * 2**20)
    first = await bench.value_of(tasks.keeps.job(1))
    assert await bench.value_of(tasks.keeps.job(limit_mib + 50)) == first
    await eventually(lambda: is_gone(first), within=WITHIN)
    assert await bench.value_of(tasks.keeps.job(1)) != first
    assert (str(first), "left") in bench.noted()


@pytest.mark.parametrize("how", ["half a frame", "nonsense", "no channel"])
async def test_a_child_that_does_not_end_its_sentence(bench, how):
    """A death within a frame, and whatever else is no message, is a death; other children go on."""
    await bench.worker()
    other = asyncio.create_task(bench.value_of(tasks.long.job()))
    (job_id,) = await bench.send(tasks.die.job(how))
    record, *_ = await bench.ends(job_id)
    assert (record.outcome, record.deliveries) == ("handed_back", 1)
    assert record.detail.startswith("its process ")
    await other


async def test_a_child_that_dies_idle_costs_nobody_anything(bench):
    """Killed between two jobs: the next one runs in another, its first delivery."""
    await bench.worker(concurrency=1)
    first = await bench.value_of(tasks.keeps.job(0))
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: is_gone(first) and not psutil.pid_exists(first), within=WITHIN)
    second, _, attempt, _ = await bench.value_of(tasks.in_thread.job(1))
    assert second != first
    assert attempt == 1


async def test_a_child_that_dies_before_it_hears_of_the_job_is_not_the_job_s_fault(bench):
    """Suspended and killed with the job unread: it runs in another child, in the same delivery."""
    worker = await bench.worker(concurrency=1)
    first = await bench.value_of(tasks.keeps.job(0))
    os.kill(first, signal.SIGSTOP)
    (job_id,) = await bench.send(tasks.in_thread.job(1))
    await eventually(lambda: worker.lanes["proc"].running)
    os.kill(first, signal.SIGKILL)
    (record,) = await bench.ends(job_id)
    assert (record.outcome, record.attempt, record.deliveries) == ("succeeded", 1, 1)


@pytest.mark.parametrize(
    ("how", "said"),
    [("raise", "RuntimeError: no database"), ("exit", "exit code 3"), ("hang", "within 3 s")],
)
async def test_a_child_that_cannot_be_set_up_charges_no_job(bench, how, said, monkeypatch):
    """LQ-12: a lifespan that raises, kills or hangs: the queue stands still, says why, and recovers."""
    monkeypatch.setattr("taskyard.workers.isolation.pool.START_S", 3.0)
    told = bench.folder / "set-up"
    told.write_text(how)
    worker = await bench.worker()
    (job_id,) = await bench.send(runs.job())
    (record,) = await bench.ends(job_id)
    assert (record.outcome, record.attempt, record.deliveries) == ("handed_back", 1, 1)
    assert said in record.detail
    assert said in worker.lanes["fragile"].problem
    told.write_text("")
    *_, record = await bench.ends(job_id, 2)
    while record.outcome == "handed_back":  # what was tried before we mended it
        *_, record = await bench.ends(job_id, len(await bench.ends(job_id)) + 1)
    assert (record.outcome, record.attempt, record.deliveries) == ("succeeded", 1, 1)
    assert not worker.lanes["fragile"].problem


async def test_a_drain_does_not_wait_for_a_child_that_cannot_be_set_up(bench):
    """CR-01: it does the other queues' work, complains, and leaves the jobs where they are."""
    (bench.folder / "set-up").write_text("raise")
    ids = await bench.send(runs.job(), runs.job(), tasks.in_worker.job())
    worker = await bench.worker(drain=True)
    await bench.ended(worker, within=WITHIN)
    with pytest.raises(LifespanFailed, match="no database"):
        worker.complain()
    (record,) = await bench.ends(ids[2])
    assert record.outcome == "succeeded"
    assert await bench.unsettled("fragile") == 2


@pytest.mark.parametrize("how", ["orphan", "session"])
async def test_a_job_that_leaves_a_process_behind_gets_its_child_replaced(bench, how):
    """LQ-13: what it still says must not look like the next job's words; its own group is killed."""
    await bench.worker(concurrency=1)
    path = bench.folder / "pid"
    first = await bench.value_of(tasks.leaves.job(str(path), how))
    (left,) = await pids_in(path)
    try:
        assert await bench.value_of(tasks.keeps.job(0)) != first
        await eventually(lambda: is_gone(first), within=WITHIN)
        if how == "orphan":
            await eventually(lambda: is_gone(left), within=WITHIN)
    finally:
        _end(left)


async def test_a_process_that_escapes_does_not_keep_its_job(bench):
    """It holds the dead child's streams open; the death is known and judged all the same."""
    await bench.worker()
    path = bench.folder / "pid"
    (job_id,) = await bench.send(tasks.leaves.job(str(path), "and dies"))
    record, *_ = await bench.ends(job_id)
    assert record.detail == "its process ended by itself with exit code 7"
    for left in await pids_in(path):
        _end(left)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def test_a_handler_may_fork(bench, caplog):
    """A copy of the child is an ordinary process: it cannot speak for the job, and is not mixed up."""
    caplog.set_level(logging.INFO)
    await bench.worker(concurrency=1)
    path = bench.folder / "pid"
    (job_id,) = await bench.send(tasks.forks.job(str(path)))
    (record,) = await bench.ends(job_id)
    assert record.outcome == "succeeded"
    await eventually(lambda: all(map(is_gone, [int(path.read_text())])), within=WITHIN)
    lines = [each.get("line", "") for each in said(caplog.records, job_id)]
    assert "said by a copy" in lines
    assert any('"event": "logged by a copy"' in line for line in lines)
    assert await bench.value_of(tasks.pools.job()) == [n * n for n in range(8)]


async def test_a_log_line_without_end_is_cut(bench, caplog):
    """One record of megabytes is no reason for the worker to stand still, nor to lose it."""
    caplog.set_level(logging.INFO)
    await bench.worker()
    await bench.value_of(tasks.logs.job(2_000_000))
    (cut,) = [each for each in said(caplog.records) if "too long" in each["event"]]
    assert 60_000 < len(cut["line"]) < 70_000


@pytest.mark.system
@pytest.mark.parametrize("task", [tasks.floods, tasks.blocks_loop])
async def test_the_loop_turns_whatever_children_do(bench, task, caplog):
    """B-15: children that keep every core busy, or print without end: it never stands still for 50 ms."""
    caplog.set_level(logging.INFO)  # a line that nobody keeps would cost next to nothing
    worker = await bench.worker(concurrency=4)
    args = [(20_000,)] * 4 if task is tasks.floods else [(str(bench.folder / "p"), 1.0)] * 4
    lags: list[float] = []
    # What children do to the loop they do each time; what the machine's owner does, now and then.
    while len(lags) < 3 and (not lags or lags[-1] >= 0.05):
        caplog.clear()
        ids = await bench.send(*(task.job(*each) for each in args))
        watch = LoopWatch()
        for job_id in ids:
            (record,) = await bench.ends(job_id)
            assert record.outcome == "succeeded"
        lags.append(watch.stop())
    assert min(lags) < 0.05, lags
    assert len(worker.lanes["proc"].running) == 0
