"""What a worker does when jobs are to be changed: it waits, gives up what is old, says what it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.shared import Context, Queue
from taskyard.shared.changes import Asked, Change, change_record, changed_record, start_of
from taskyard.shared.wire import CHANGED

TOKEN = "t"
ASKED = Asked(generation=2, token=TOKEN, change=Change(priority=9))


def wanted(job: str, at_ms: int = 1) -> Any:
    return change_record(job, ASKED, by="ann", at_ms=at_ms)


def done(job: str) -> Any:
    return changed_record(job, ASKED, by="ann", at_ms=2, until_ms=2)


async def test_an_old_message_waits_and_is_then_given_up(tmp_path):
    """ZP-23, B-32: nothing runs that may be old; the new form runs, once; the old one is counted."""
    queue, runs = Queue("q"), []

    @queue.task
    async def note(ctx: Context) -> None:
        runs.append(ctx.priority)

    async with Workbench(queue, folder=tmp_path) as bench:
        old = note.job().envelope(bench.broker.now_ms())
        await bench.intend(wanted(old.id, bench.broker.now_ms()))
        worker = await bench.worker()
        await bench.publish(old)
        # It is sent back, again and again.
        await eventually(lambda: worker.lanes["q"].taken >= 2, within=20)
        assert runs == []
        text = msgspec.json.encode({"token": TOKEN}).decode()
        new = msgspec.structs.replace(old, generation=2, priority=9, extra={CHANGED: text})
        await bench.publish(new)
        await bench.intend(done(old.id))
        await eventually(lambda: runs == [9])
        await eventually(lambda: _superseded(worker) == 1, within=20)
        assert await bench.unsettled("q") == 0
        assert runs == [9]


async def test_a_job_that_runs_when_its_change_is_read_too_late(tmp_path):
    """It says so; what was published for the change is given up; its end is the later word."""
    queue, go, runs = Queue("q"), asyncio.Event(), []

    @queue.task
    async def slow(ctx: Context) -> None:
        runs.append(ctx.priority)
        await go.wait()

    async with Workbench(queue, folder=tmp_path) as bench:
        worker = await bench.worker()
        old = slow.job().envelope(bench.broker.now_ms())
        await bench.publish(old)
        await eventually(lambda: runs == [4])
        await bench.intend(wanted(old.id), done(old.id))

        async def said() -> bool:
            async for batch in bench.broker.follow_control():
                starts = [start_of(r) for r in batch.records if r.op == "started"]
                if batch.caught_up:
                    return any(start is not None and start.of == TOKEN for start in starts)
            return False

        await eventually(said)
        text = msgspec.json.encode({"token": TOKEN}).decode()
        new = msgspec.structs.replace(old, generation=2, priority=9, extra={CHANGED: text})
        await bench.publish(new)
        await eventually(lambda: _superseded(worker) == 1)
        go.set()

        async def ended() -> bool:
            (record,) = [r for r in await bench.records(old.id) if r.event == "finished"]
            assert (record.outcome, record.generation) == ("succeeded", 2)
            return True

        await eventually(ended)
        assert runs == [4]


def _superseded(worker: Any) -> float:
    return worker.metrics.count("superseded", "q").value
