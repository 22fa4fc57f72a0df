"""Handlers in child processes, with a worker on the memory broker: what they may ask, how they end."""

from __future__ import annotations

import logging
import os

import msgspec
import pytest

from support import process_tasks as tasks
from support.children import NOTES, WITHIN, Bench, said
from support.eventually import eventually
from support.process import is_gone
from taskyard.shared import Queue, Secret
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.keyring import new_key, parse_keys
from taskyard.shared.propagation import bind_values
from taskyard.shared.sealing import seal


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    async with Bench(tasks.queue, folder=tmp_path) as bench:
        monkeypatch.setenv(NOTES, str(bench.notes))
        yield bench


async def test_handlers_of_both_kinds_run_in_one_child_with_one_lifespan(bench):
    """B-15, LQ-11: `def` and `async def`, values and resources; entered once per child, and left."""
    worker = await bench.worker(concurrency=1)
    with bind_values(tenant="a"):
        first = await bench.value_of(tasks.in_thread.job(1))
    second = await bench.value_of(tasks.on_loop.job(2))
    assert first == [first[0], 1, 1, {"tenant": "a"}]
    assert second == [first[0], 2, 1, {}]
    assert first[0] != os.getpid()
    assert await bench.value_of(tasks.in_worker.job()) == os.getpid()
    worker.stop()
    await bench.ended(worker, within=WITHIN)
    child = str(first[0])
    assert [text for pid, text in bench.noted() if pid == child] == [
        "entered",
        "ran 1",
        "ran 2",
        "left",
    ]
    assert [text for pid, text in bench.noted() if pid == str(os.getpid())] == ["entered", "left"]
    assert is_gone(first[0])


async def test_middleware_runs_beside_the_handler(bench):
    """Around the handler, in the child: what it binds or measures is the handler's own process."""
    await bench.worker()
    outer, inner = await bench.value_of(tasks.traced.job())
    assert outer == inner != os.getpid()


async def test_what_a_handler_raises_decides_as_anywhere(bench):
    """SQ-04: hold, fail, an error, `sys.exit`: the child decides, and goes on with the next job."""
    await bench.worker()
    seen = []
    for how in ("hold", "fail", "error", "exit"):
        (job_id,) = await bench.send(tasks.verdict.job(how))
        (record,) = await bench.ends(job_id)
        seen.append((record.outcome, record.detail, record.error and record.error.type))
    assert seen == [
        ("parked", "held", None),
        ("failed", "logical", "logical"),
        ("parked", "exhausted", "ValueError"),
        ("parked", "exhausted", "SystemExit"),
    ]
    parked = await bench.parked("proc")
    errors = [job.envelope.parking.error for job in parked if job.envelope.parking]
    assert any(error and "process_tasks.py" in error.traceback for error in errors)
    assert len({pid for pid, text in bench.noted() if text == "entered"}) == 2  # one, and ours


async def test_results_that_cannot_travel(bench):
    """The work is done: a value without a JSON form, or one too large, is left out with a reason."""
    await bench.worker()
    for kind, why in (("odd", "no JSON form"), ("large", "exceeds"), ("none", "")):
        (job_id,) = await bench.send(tasks.result.job(kind))
        (record,) = await bench.ends(job_id)
        assert (record.outcome, record.value) == ("succeeded", None)
        assert why in record.detail


async def test_touch_and_progress_move_the_deadline(bench):
    """SQ-07: a handler in a child that touches outlives its time to run."""
    worker = await bench.worker()
    (job_id,) = await bench.send(tasks.long.job())

    def reported():
        running = list(worker.lanes["proc"].running)
        return running and running[0].progress_seen

    assert await eventually(reported, within=WITHIN)
    (record,) = await bench.ends(job_id)
    assert record.outcome == "succeeded"
    assert record.value is not None
    moved_s, _ = msgspec.json.decode(record.value)
    assert moved_s > 2


async def test_a_deadline_is_announced_in_the_child(bench):
    """`on_deadline_soon` is called on the child's loop before the time is up."""
    await bench.worker()
    assert await bench.value_of(tasks.warned.job()) is True


async def test_children_of_jobs_are_sent_through_the_worker(bench):
    """From the loop and from threads: parent, priority and values are set; an error keeps its class."""
    await bench.worker()
    with bind_values(tenant="b"):
        (job_id,) = await bench.send(tasks.sends.job())
    (record,) = await bench.ends(job_id)
    assert record.outcome == "succeeded", record.error
    one, two, refused = msgspec.json.decode(record.value)
    assert "nosuch" in refused
    for child, value in ((one, 1), (two, 2)):
        (record,) = await bench.ends(child)
        assert msgspec.json.decode(record.value)[1:] == [value, 1, {"tenant": "b"}]
    three = await bench.value_of(tasks.sends_from_thread.job())
    (record,) = await bench.ends(three)
    assert msgspec.json.decode(record.value)[1] == 3


async def test_a_child_calls_jobs_and_says_how_it_went(bench):
    """ZS-22, ZS-31: with one slot, from the loop and from threads; errors keep their class and kind."""
    await bench.worker(concurrency=1)
    (job_id,) = await bench.send(tasks.calls.job())
    (record,) = await bench.ends(job_id)
    assert record.outcome == "succeeded", record.error
    assert msgspec.json.decode(record.value) == [1, 2, os.getpid(), "logical", 0.2]
    assert record.ok == "all called"


async def test_secrets_reach_handlers_in_children(tmp_path, monkeypatch):
    """ZS-21: decrypted in the child, sealed by the worker when the child sends one on."""
    key = new_key("k1")
    monkeypatch.setenv("TASKYARD_ENCRYPTION_KEYS", key)
    async with Bench(tasks.queue, folder=tmp_path) as bench:
        await bench.worker(concurrency=1)
        job = tasks.pays.job(Secret("4111"))
        assert job.secrets is not None
        clear = job.envelope(bench.broker.now_ms())
        await bench.publish(seal(clear, job.secrets, parse_keys(key), whole=False))
        (record,) = await bench.ends(job.id)
        assert (record.outcome, record.value) == ("succeeded", msgspec.Raw(b"true")), record.error


@pytest.mark.parametrize("task", [tasks.in_worker, tasks.thread_in_worker, tasks.traced])
async def test_a_suspect_runs_alone_in_a_child_of_its_own(bench, task):
    """B-14: from the third delivery on, whatever the task's mode; a success is a success."""
    await bench.worker()
    usual = await bench.value_of(tasks.traced.job())
    envelope = task.job().envelope(bench.broker.now_ms())
    await bench.publish(msgspec.structs.replace(envelope, deliveries=3))
    (record,) = await bench.ends(envelope.id)
    assert record.outcome == "succeeded"
    assert record.deliveries == 3
    value = msgspec.json.decode(record.value)
    alone = value[1] if isinstance(value, list) else value
    assert alone not in (os.getpid(), usual[1])
    await eventually(lambda: is_gone(alone), within=WITHIN)
    assert await bench.value_of(tasks.traced.job()) == usual
    pids = [pid for pid, text in bench.noted() if text == "entered"]
    assert pids.count(str(alone)) == 1
    assert (str(alone), "left") in bench.noted()


async def test_a_suspect_that_no_child_can_import_runs_in_the_worker(tmp_path, caplog):
    """B-14: better there than never; the log says so."""
    local = Queue("local")

    @local.task
    async def here() -> int:
        return os.getpid()

    async with Bench(local, folder=tmp_path) as bench:
        await bench.worker()
        envelope = here.job().envelope(bench.broker.now_ms())
        await bench.publish(msgspec.structs.replace(envelope, deliveries=4))
        (record,) = await bench.ends(envelope.id)
        assert record.value is not None
        assert msgspec.json.decode(record.value) == os.getpid()
    assert "no attribute of its modules" in caplog.text


async def test_a_process_task_that_no_child_can_import_is_refused(tmp_path):
    """At start, in words."""
    local = Queue("local")

    @local.task(mode="process")
    async def here() -> None: ...

    async with Bench(local, folder=tmp_path) as bench:
        with pytest.raises(ConfigurationError, match=r"local\.here: mode 'process' needs a queue"):
            await bench.worker()


async def test_output_belongs_to_its_job(bench, caplog):
    """ZS-42, LQ-13: Python, C, programs, raw writes: line by line with the job's fields, never mixed."""
    caplog.set_level(logging.INFO)
    await bench.worker()
    ids = {word: (await bench.send(tasks.talks.job(word)))[0] for word in ("red", "green", "blue")}
    for job_id in ids.values():
        await bench.ends(job_id)
    for word, job_id in ids.items():
        lines = said(caplog.records, job_id)
        output = [each["line"] for each in lines if each["event"] == "job output"]
        kinds = ["libc", "print", "program", "raw", "unfinished"]
        assert sorted(output) == [f"{word} {kind}" for kind in kinds]
        (order,) = [each for each in lines if each["event"] == "an order"]
        assert (order["word"], order["logger"], order["level"]) == (word, "app.orders", "warning")
        assert order["task"] == "proc.talks"


async def test_a_flood_of_output_is_cut(bench, caplog):
    """A job that prints without end costs a bounded number of log lines, and says what was left out."""
    caplog.set_level(logging.INFO)
    await bench.worker()
    (job_id,) = await bench.send(tasks.floods.job(20_000))
    await bench.ends(job_id)

    def events() -> list[str]:
        return [each["event"] for each in said(caplog.records, job_id)]

    # A job's end is not held up by its output: some is logged later.
    await eventually(lambda: events().count("job output") >= 1000, within=WITHIN)
    assert events().count("job output") < 5000
    assert events().count("job output left out: there was too much") == 1
