"""What jobs print and log, kept apart, in their records (ZS-42, ZP-33, B-11)."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.children import Bench
from support.eventually import eventually
from taskyard.shared import Context, Queue
from taskyard.shared.control import cancel_record
from taskyard.shared.errors import ConfigurationError
from taskyard.workers.capture import capturing

said = Queue("said", output="all", concurrency=20)
unsaid = Queue("unsaid")
silent = Queue("silent", output="none")
alone = Queue("alone", output="all", concurrency=1, lookahead=5)

meeting: list[asyncio.Barrier] = []

log = logging.getLogger("shop.mail")


@said.task
async def chatters(ctx: Context, times: int) -> str:
    for _ in range(times):
        print(ctx.job_id)
        await asyncio.sleep(0)
    return ctx.job_id


@said.task
def chatters_in_thread(ctx: Context, times: int) -> str:
    for _ in range(times):
        print(ctx.job_id)
    return ctx.job_id


@said.task
async def floods(size: int) -> None:
    for _ in range(size // 1024):
        print("x" * 1023)


@said.task
async def mixes() -> None:
    print("to standard output")
    sys.stderr.writelines(["to standard ", "error\n"])
    log.warning("to the %s", "log")
    try:
        raise ValueError("with its traceback")
    except ValueError:
        log.exception("failed")
    await asyncio.create_task(in_a_task())
    await asyncio.to_thread(print, "in a thread of its own")


async def in_a_task() -> None:
    print("in a task of its own")


@said.task(mode="process")
def in_a_process() -> None:
    print("printed elsewhere")
    log.warning("logged elsewhere")
    try:
        raise ValueError("with its traceback")
    except ValueError:
        log.exception("failed elsewhere")


@said.task
async def writes_bytes() -> None:
    print("on the way")
    sys.stdout.write(b"bytes")  # type: ignore[arg-type]


@said.task(ttr=30)
async def is_warned(ctx: Context, before: float) -> None:
    def soon() -> None:
        print(ctx.job_id)
        warned.set()

    warned = asyncio.Event()
    ctx.on_deadline_soon(soon, before=before)
    await warned.wait()
    await meeting[-1].wait()


@alone.task
async def calls_and_waits(ctx: Context) -> None:
    print("it calls")
    await meeting[-1].wait()
    await ctx.call(is_called.job())


@alone.task
async def is_called() -> None:
    """Do nothing."""


@unsaid.task
async def may_fail(fails: bool) -> None:
    print("on the way")
    if fails:
        raise ValueError("lost")


@silent.task
async def keeps_quiet() -> None:
    print("a secret")
    raise ValueError("lost")


@asynccontextmanager
async def talking(folder) -> AsyncIterator[Bench]:
    """A worker whose jobs' output is captured. No fixture: pytest changes the streams after these."""
    with capturing():
        async with Bench(said, unsaid, silent, alone, folder=folder) as bench:
            await bench.worker(concurrency=20)
            yield bench


async def output_of(bench, job_id) -> str:
    return (await bench.ends(job_id))[-1].output


@pytest.mark.parametrize("task", [chatters, chatters_in_thread])
async def test_each_job_has_its_own(tmp_path, task):
    """ZS-42: twenty at once print their ids a hundred times: each output has its own id only."""
    async with talking(tmp_path) as bench:
        ids = await bench.send(*(task.job(times=100) for _ in range(20)))
        for job_id in ids:
            assert await output_of(bench, job_id) == f"{job_id}\n" * 100


async def test_a_flood_is_cut_and_marked(tmp_path):
    """ZS-42: 1 MiB with a cap of 64 KiB."""
    async with talking(tmp_path) as bench:
        (job_id,) = await bench.send(floods.job(size=1024 * 1024))
        output = await output_of(bench, job_id)
        kept, _, mark = output.rpartition("\n[")
        assert len(kept) <= 64 * 1024
        assert mark == f"{1024 * 1024 - 64 * 1024} bytes more were left out]"


async def test_whatever_writes_it(tmp_path):
    """Both streams, logging with tracebacks, tasks and threads that the handler starts."""
    async with talking(tmp_path) as bench:
        (job_id,) = await bench.send(mixes.job())
        output = await output_of(bench, job_id)
        assert output.startswith("to standard output\nto standard error\n")
        assert "warning shop.mail: to the log\n" in output
        assert "error shop.mail: failed\nTraceback" in output
        assert "ValueError: with its traceback\n" in output
        assert output.endswith("in a task of its own\nin a thread of its own\n")


async def test_a_child_process(tmp_path):
    """What a job in a process of its own prints and logs is its output as well."""
    async with talking(tmp_path) as bench:
        (job_id,) = await bench.send(in_a_process.job())
        output = await output_of(bench, job_id)
        assert "printed elsewhere\n" in output
        assert "warning shop.mail: logged elsewhere\n" in output
        assert "error shop.mail: failed elsewhere\nTraceback" in output
        assert "ValueError: with its traceback\n" in output


async def test_what_failed_is_kept_unless_the_queue_says_otherwise(tmp_path):
    """ZS-42: by default none of a success; all or none where a queue says so."""
    async with talking(tmp_path) as bench:
        good, bad, quiet = await bench.send(
            may_fail.job(fails=False), may_fail.job(fails=True), keeps_quiet.job()
        )
        assert await output_of(bench, good) == ""
        assert await output_of(bench, bad) == "on the way\n"
        assert await output_of(bench, quiet) == ""


async def test_it_still_goes_where_it_went(tmp_path, capfd):
    """The worker's own streams have it, as before."""
    async with talking(tmp_path) as bench:
        (job_id,) = await bench.send(may_fail.job(fails=False))
        await bench.ends(job_id)
        assert "on the way" in capfd.readouterr().out


async def test_what_is_no_text_fails_the_job_as_without_capture(tmp_path):
    """A handler's mistake ends its attempt, whose output is what was text before."""
    async with talking(tmp_path) as bench:
        (job_id,) = await bench.send(writes_bytes.job())
        (end,) = await bench.ends(job_id)
        assert end.error is not None
        assert end.error.type.endswith("TypeError")
        assert end.output == "on the way\n"


async def test_a_worker_without_standard_streams(tmp_path, monkeypatch):
    """One that was started with them closed has None for each: jobs print as before, and it is kept."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    async with talking(tmp_path) as bench:
        (job_id,) = await bench.send(mixes.job())
        assert (await output_of(bench, job_id)).startswith(
            "to standard output\nto standard error\n"
        )
    assert (sys.stdout, sys.stderr) == (None, None)


async def test_a_warning_before_the_deadline_is_its_own_job_s(tmp_path):
    """One timer wakes them all: whoever it was set for, each callback runs as its own job."""
    meeting.append(asyncio.Barrier(2))
    async with talking(tmp_path) as bench:
        ids = await bench.send(is_warned.job(before=29.9), is_warned.job(before=29.7))
        for job_id in ids:
            assert await output_of(bench, job_id) == f"{job_id}\n"


async def test_what_becomes_of_others_is_not_its_output(tmp_path, caplog):
    """A job lends its slot while it runs; another that waited for one is refused, and that is logged."""
    caplog.set_level(logging.INFO)
    meeting.append(asyncio.Barrier(2))
    async with talking(tmp_path) as bench:
        (worker,) = bench.handles
        lane = worker.lanes["alone"]
        calls, waits = await bench.send(calls_and_waits.job(), is_called.job())
        await eventually(lambda: not lane.idle and lane.taken == 2)
        await bench.intend(cancel_record(waits, by="me", at_ms=bench.broker.now_ms()))
        await eventually(lambda: lane._intents.about_jobs)
        await meeting[-1].wait()
        assert await output_of(bench, calls) == "it calls\n"
        assert "job cancelled" in caplog.text


def test_a_wrong_word_is_refused():
    with pytest.raises(ConfigurationError, match="all, failed or none"):
        Queue("wrong", output="some")  # type: ignore[arg-type]


def test_streams_are_given_back():
    before = sys.stdout, sys.stderr, list(logging.getLogger().handlers)
    with capturing():
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, list(logging.getLogger().handlers)) == before
