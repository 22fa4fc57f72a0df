"""The life of worker processes, on every broker: stop, drain, intents, alarms, set-up, scale."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from support.eventually import eventually, written
from support.ports import free_port
from support.process import Program, run_taskyard
from support.rig import QUEUE, SELFTEST, Rig
from taskyard.shared import Job
from taskyard.shared.control import cancel_record, pause_record, resume_record


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return Rig(broker_url, taskyard, tmp_path)


async def running(rig, worker, number=1):
    """Wait until so many attempts run."""

    async def enough():
        return await rig.metric(worker, "jobs_running", queue=QUEUE) == number

    await eventually(enough)


async def test_sigterm_lets_running_jobs_finish(rig):
    """Pain 19: B-13: three running jobs finish, exit 0; what had not started stays."""
    async with rig:
        worker = await rig.worker("--concurrency", "3")
        await rig.send(*(rig.job("sleep", {"seconds": 2}) for _ in range(5)))
        await running(rig, worker, 3)
        worker.terminate()
        assert await worker.wait_exit() == 0

        async def left():
            stats = (await rig.broker.stats([QUEUE]))[QUEUE]
            return stats.ready == 2 and not stats.unsettled

        await eventually(left)
        assert "handed back" not in worker.output


async def test_too_short_a_grace_gives_the_job_to_another(rig):
    """Pain 19: B-13: it runs elsewhere with the same attempt and deliveries; the worker exits 0 in time."""
    async with rig:
        first = await rig.worker("--grace", "0.5")
        (on_loop, in_thread) = await rig.send(
            rig.job("sleep", {"seconds": 30}), rig.job("spin", {"seconds": 30})
        )
        await running(rig, first, 2)
        since = time.monotonic()
        first.terminate()
        assert await first.wait_exit() == 0
        assert time.monotonic() - since < 5
        second = await rig.worker("--grace", "0")
        await running(rig, second, 2)
        second.interrupt()
        assert await second.wait_exit() == 0
        handed = [line for line in first.lines + second.lines if "attempt handed back" in line]
        assert len(handed) == 4
        assert all('"attempt": 1, "deliveries": 1' in line for line in handed)
        assert {on_loop in line or in_thread in line for line in handed} == {True}


async def test_a_second_signal_is_at_once(rig):
    """The default grace of half a minute is cut short."""
    async with rig:
        worker = await rig.worker()
        await rig.send(rig.job("sleep", {"seconds": 40}))
        await running(rig, worker)
        worker.terminate()
        await worker.wait_line("worker stops")
        worker.terminate()
        assert await worker.wait_exit(within=5) == 0


async def test_pause_and_cancel_outlive_the_workers(rig):
    """Promise 5: written while no worker runs, honoured by one that starts later, and by the next."""
    async with rig:
        (cancelled,) = await rig.send(rig.note("cancelled"))
        await rig.intend(
            pause_record(QUEUE, by="ann", at_ms=1), cancel_record(cancelled, by="ann", at_ms=1)
        )
        await rig.send(rig.note("kept"))
        for _ in range(2):
            worker = await rig.worker()
            assert await rig.metric(worker, "queue_paused", queue=QUEUE) == 1
            assert rig.seen() == []
            worker.kill()
            await worker.wait_exit()
        await rig.worker()
        await rig.intend(resume_record(QUEUE, by="ann", at_ms=2))
        await rig.noted(1)
        await rig.emptied()
        assert [run["line"] for run in rig.seen()] == ["kept"]


@pytest.mark.breaks_broker
@pytest.mark.slow
async def test_intents_and_jobs_outlive_the_broker(rig):
    """ZS-30, promise 5: a thousand jobs and the operators' intents survive `kill -9` of everything."""
    async with rig:
        ids = await rig.send(*(rig.note(str(n)) for n in range(1000)))
        await rig.intend(
            pause_record(QUEUE, by="ann", at_ms=1),
            *(cancel_record(job_id, by="ann", at_ms=1) for job_id in ids[:10]),
        )
        worker = await rig.worker()
        worker.kill()
        await rig.target.kill_broker()
        worker = await rig.worker()
        assert rig.seen() == []

    async with Rig(rig.target, rig._start, rig.folder) as after:
        await after.intend(resume_record(QUEUE, by="ann", at_ms=2))
        runs = await after.noted(990, within=60)
        await after.emptied(within=60)
        assert {run["job"] for run in runs} == set(ids[10:])


@pytest.mark.system
@pytest.mark.slow
async def test_a_hundred_thousand_intents_are_read_in_seconds(rig):
    """Promise 5: a worker starts in under 5 s, and misses none of a thousand written meanwhile."""
    async with rig:
        for start in range(0, 100_000, 10_000):
            await rig.intend(
                *(
                    cancel_record(f"job-{n}", by="ann", at_ms=1)
                    for n in range(start, start + 10_000)
                )
            )
        ids = await rig.send(*(rig.note(str(n)) for n in range(1000)))
        # A paused queue shows when the log is read; the cancels come while it is being read.
        await rig.intend(pause_record(QUEUE, by="ann", at_ms=1))
        worker = rig.start_worker()
        await worker.wait_line("worker started", within=20)
        since = time.monotonic()
        writing = asyncio.create_task(
            rig.intend(*(cancel_record(job_id, by="ann", at_ms=2) for job_id in ids))
        )
        await rig.ready(worker)
        assert time.monotonic() - since < 5
        await writing
        await rig.intend(resume_record(QUEUE, by="ann", at_ms=3))
        await rig.emptied()
        assert rig.seen() == []


@pytest.mark.system
@pytest.mark.breaks_broker
@pytest.mark.slow
@pytest.mark.server_only
async def test_an_alarm_lets_the_queue_drain(broker_url, taskyard, tmp_path):
    """Promise 7: while the broker takes no publishes, workers go on; afterwards all is told."""
    rig = Rig(broker_url, taskyard, tmp_path, ledger=True)
    node = broker_url.own_node()
    # Long enough to be under way still when the alarm has been set: about 15 s of work.
    load, retries = 3000, 300

    def some(n: int) -> Job[Any]:
        if n % (load // retries):
            return rig.job("sleep", {"seconds": 0.1})
        return rig.job("flaky", {"failures": 1})

    async with rig:
        await rig.send(*(some(n) for n in range(load)))
        worker = await rig.worker("--concurrency", "20")
        await asyncio.to_thread(node.set_memory_alarm, on=True)
        await worker.wait_line("takes no publishes", within=20)
        before = worker.resident_bytes()

        async def drained():
            stats = (await rig.broker.stats([QUEUE]))[QUEUE]
            return stats.ready == 0

        await eventually(drained, within=60, every=0.2)
        assert worker.resident_bytes() - before < 30 * 1024 * 1024
        assert (await rig.probe(worker, "/livez")).status_code == 200
        await asyncio.to_thread(node.set_memory_alarm, on=False)

        async def finished():
            ended = [
                await rig.metric(worker, "jobs_finished_total", task=task, outcome=outcome)
                for task, outcome in (
                    ("sleep", "succeeded"),
                    ("flaky", "succeeded"),
                    ("flaky", "retried"),
                )
            ]
            assert ended == [load - retries, retries, retries], ended
            return True

        await eventually(finished, within=60, every=0.2)
        await rig.emptied(within=60)
        assert await rig.metric(worker, "unrecorded_total") == 0
        feed = await rig.broker.feed(credit=2000)
        ended: set[str] = set()

        async def told():
            while len(ended) < load:
                items = await feed.take()
                for item in items:
                    ended.update(r.job for r in item.records if r.outcome == "succeeded")
                await feed.ack(items)

        await asyncio.wait_for(told(), 30)
        await feed.stop()


async def test_a_drain_does_what_is_ready_and_ends(rig):
    """CR-01, CR-09: ten jobs, exit 0, all done, process gone; a later job stays."""
    async with rig:
        await rig.send(*(rig.note(str(n)) for n in range(10)), rig.note("later", delay=3600))
        worker = rig.start_worker("--drain")
        assert await worker.wait_exit(within=20) == 0
        assert sorted(int(run["line"]) for run in rig.seen()) == list(range(10))


@pytest.mark.system
@pytest.mark.slow
async def test_a_drain_ends_in_time_under_inflow(rig):
    """CR-04: twenty jobs a second for ever, `--max-time 4`: it ends after 4 to 5 s."""
    async with rig:

        async def inflow():
            while True:
                await rig.send(rig.note())
                await asyncio.sleep(0.05)

        flowing = asyncio.create_task(inflow())
        worker = rig.start_worker("--drain", "--max-time", "4")
        await worker.wait_line("worker started", within=20)
        since = time.monotonic()
        assert await worker.wait_exit(within=10) == 0
        assert 3.8 < time.monotonic() - since < 5.5
        flowing.cancel()
        assert len(rig.seen()) > 40


async def test_an_idle_worker_is_there_at_once(rig):
    """LQ-25: nothing wears out while a queue is empty."""
    async with rig:
        await rig.worker()
        await rig.send(rig.note("first"))
        await rig.noted(1)
        await asyncio.sleep(3)  # the idleness itself is what is tested
        await rig.send(rig.note("second"))
        (_, run) = await rig.noted(2)
        assert run["started"] - run["due"] < 1


@pytest.mark.system
@pytest.mark.slow
async def test_more_workers_do_more(rig):
    """LQ-19: four processes do at least three times the work of one, for jobs that wait."""

    async def seconds(workers: int) -> float:
        started = [await rig.worker("--concurrency", "2") for _ in range(workers)]
        await rig.intend(pause_record(QUEUE, by="t", at_ms=1))

        async def all_paused():
            states = [await rig.metric(worker, "queue_paused", queue=QUEUE) for worker in started]
            return all(states)

        await eventually(all_paused)
        await rig.send(*(rig.job("sleep", {"seconds": 0.1}) for _ in range(160)))
        since = time.monotonic()
        await rig.intend(resume_record(QUEUE, by="t", at_ms=2))
        await rig.emptied(within=60)
        took = time.monotonic() - since
        for worker in started:
            worker.terminate()
        for worker in started:
            assert await worker.wait_exit() == 0
        return took

    async with rig:
        one, four = await seconds(1), await seconds(4)
        assert one / four >= 3


LIFESPAN = """
import os
from contextlib import asynccontextmanager
from pathlib import Path
from taskyard.shared import Context, Queue

folder = Path(__file__).parent

@asynccontextmanager
async def lifespan():
    with (folder / "entered").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    yield "resource"

@asynccontextmanager
async def broken():
    raise OSError("no database")
    yield

good = Queue("good", lifespan=lifespan)
bad = Queue("bad", lifespan=broken)

@good.task
async def uses(ctx: Context[str], n: int) -> None:
    assert ctx.resources == "resource"

@bad.task
async def never() -> None: ...
"""


async def test_lifespans_in_processes(broker_url, taskyard, tmp_path):
    """LQ-11, B-06: entered once per worker process, never by a sender; a failing one stops its queue."""
    (tmp_path / "spans.py").write_text(LIFESPAN)
    rig = Rig(broker_url, taskyard, tmp_path, queues=["good", "bad"])
    async with rig:
        await rig.send(*(Job(queue="good", task="uses", args={"n": n}) for n in range(100)))
        await rig.send(Job(queue="bad", task="never"))
        workers = [rig.start_worker(module="spans") for _ in range(2)]
        await rig.emptied(queue="good")
        for worker in workers:

            async def settled(worker: Program = worker) -> bool:
                """The queue that is in order may still be opened when the other has failed."""
                problems = (await rig.probe(worker, "/readyz")).json()["problems"]
                assert problems == ["set-up of queue bad failed: OSError: no database"]
                return True

            await worker.wait_line("set-up of a queue failed", within=20)
            await eventually(settled, within=20)
            assert (await rig.probe(worker, "/livez")).status_code == 200
        pids = (tmp_path / "entered").read_text().split()
        assert sorted(map(int, pids)) == sorted(worker.pid for worker in workers)
        assert (await rig.broker.stats(["bad"]))["bad"].ready == 1


@pytest.mark.server_only
async def test_a_foreign_client_needs_no_more_than_a_name(broker_url, taskyard, tmp_path):
    """`amqp-publish` with a header and a JSON body is a job: it gets an id, and runs."""
    command = shutil.which("amqp-publish")
    assert command is not None, "install amqp-tools (scripts/ensure-rabbitmq does)"
    rig = Rig(broker_url, taskyard, tmp_path)
    parts = urlsplit(broker_url.url)
    async with rig:
        await rig.worker()
        subprocess.run(
            [
                command,
                f"--server={parts.hostname}",
                f"--port={parts.port}",
                f"--vhost={unquote(parts.path[1:])}",
                f"--username={parts.username}",
                f"--password={parts.password}",
                "--exchange=taskyard.tasks",
                f"--routing-key={QUEUE}",
                "--header=ty-task: record",
                "--persistent",
                f'--body={{"path": "{rig.notes}", "line": "foreign"}}',
            ],
            check=True,
            timeout=20,
        )
        (run,) = await rig.noted(1)
        assert (run["line"], run["priority"], run["attempt"]) == ("foreign", 4, 1)
        assert len(run["job"]) == 36


STUBBORN = """
import asyncio
from taskyard.shared import Queue

queue = Queue("q")

@queue.task
async def stubborn() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


@pytest.mark.slow
async def test_a_handler_that_refuses_to_end_does_not_keep_the_process(
    broker_url, taskyard, tmp_path
):
    """B-13: its job is handed back uncharged, and the worker exits 0 all the same."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    rig = Rig(broker_url, taskyard, tmp_path, queues=["q"])
    async with rig:
        worker = await rig.worker("--grace", "0", module="stubborn")
        await rig.send(Job(queue="q", task="stubborn"))

        async def runs():
            return await rig.metric(worker, "jobs_running", queue="q") == 1

        await eventually(runs)
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        assert "attempt handed back" in worker.output

        async def back():
            return (await rig.broker.stats(["q"]))["q"].ready == 1

        await eventually(back)


# What the command says when it cannot work


def failing(tmp_path, *arguments: str, **env: str) -> tuple[int, str]:
    return run_taskyard(*arguments, log=tmp_path / "out.log", env=env)


def test_no_broker_is_configured(tmp_path):
    """ZS-19: exit 2, and the text names the setting."""
    code, output = failing(tmp_path, "worker", SELFTEST)
    assert code == 2
    assert "TASKYARD_BROKER_URL" in output


def test_an_unknown_queue_is_refused(tmp_path):
    """LQ-18: exit 2, and the text lists those that are declared."""
    code, output = failing(
        tmp_path,
        "worker",
        SELFTEST,
        "--queues",
        "nope",
        TASKYARD_BROKER_URL=f"sqlite:///{tmp_path}/b.db",
    )
    assert code == 2
    assert "nope" in output
    assert "default" in output


def test_a_module_that_cannot_be_imported(tmp_path):
    """Exit 2, and the text says what is wanted."""
    code, output = failing(
        tmp_path, "worker", "no.such.module", TASKYARD_BROKER_URL=f"sqlite:///{tmp_path}/b.db"
    )
    assert code == 2
    assert "no.such.module" in output


def test_a_broker_that_is_away(tmp_path):
    """Exit 69."""
    code, output = failing(
        tmp_path, "worker", SELFTEST, TASKYARD_BROKER_URL=f"amqp://127.0.0.1:{free_port()}/"
    )
    assert code == 69, output


def test_a_log_folder_that_cannot_be_written(tmp_path):
    """CR-05: exit 2, and the text names the folder (root may write anywhere that there is)."""
    folder = tmp_path / "logs"
    folder.write_text("a file, where a folder is meant")
    code, output = failing(
        tmp_path,
        "worker",
        SELFTEST,
        TASKYARD_BROKER_URL=f"sqlite:///{tmp_path}/b.db",
        TASKYARD_LOG_FILE=str(folder / "worker.log"),
    )
    assert code == 2
    assert str(folder) in output


async def test_a_queue_that_was_never_set_up(broker_url, tmp_path):
    """Exit 2, naming the command that creates it."""
    code, output = await asyncio.to_thread(
        failing,
        tmp_path,
        "worker",
        SELFTEST,
        TASKYARD_BROKER_URL=broker_url.url,
        TASKYARD_METRICS_PORT="0",
    )
    assert code == 2, output
    assert "taskyard broker apply" in output


async def test_a_port_in_use(rig):
    """CR-05: exit 2, naming the setting."""
    async with rig:
        first = await rig.worker()
        line = await first.wait_line("health server listens")
        port = line.partition('"port": ')[2].partition(",")[0]
        second = rig.start_worker(env={"TASKYARD_METRICS_PORT": port})
        assert await second.wait_exit(within=20) == 2
        assert "TASKYARD_METRICS_PORT" in second.output


async def test_up_needs_nothing_set_up(taskyard, tmp_path):
    """`up` runs every installed role: it creates the queues and works, on the embedded broker."""
    program = taskyard("up", SELFTEST, env={"TASKYARD_METRICS_PORT": "0"}, cwd=tmp_path)
    await program.wait_line("worker started", within=20)
    url = f"sqlite:///{tmp_path}/.taskyard/broker.db"
    code, output = await asyncio.to_thread(
        failing,
        tmp_path,
        "send",
        "default:record",
        "--args",
        f'{{"path": "{tmp_path}/notes"}}',
        TASKYARD_BROKER_URL=url,
    )
    assert code == 0, output
    await written(tmp_path / "notes")
    program.terminate()
    assert await program.wait_exit(within=20) == 0
