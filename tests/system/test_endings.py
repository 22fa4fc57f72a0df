"""How jobs end, watched from outside: what each selftest task promises, gaps, identity, releases."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import pika
import pytest

from support.broker import BrokerUnderTest
from support.eventually import written
from support.process import Program
from support.rig import QUEUE, Rig
from taskyard.shared import JobFailed, JobParked
from taskyard.shared.broker import PublishStatus
from taskyard.shared.envelope import Envelope, mint_id

pytestmark = pytest.mark.system


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    return Rig(broker_url, taskyard, tmp_path)


async def command(rig: Rig, *arguments: str) -> str:
    """Run a command that must succeed and return what it printed."""
    name = "-".join(arguments[:2])
    log = rig.folder / f"{name}-{mint_id()}.log"
    env = rig.env(TASKYARD_MANAGEMENT_URL=rig.target.management_url or "")
    with Program.taskyard(*arguments, log=log, env=env, cwd=rig.folder) as program:
        assert await program.wait_exit(within=20) == 0, program.output
        return program.output


def failures(worker: Program, job_id: str) -> list[float]:
    """Return when a job's attempts failed, in seconds since the epoch, as the log tells."""
    lines = [json.loads(line) for line in worker.lines if line.startswith("{")]
    found = [
        line for line in lines if line.get("job_id") == job_id and line["event"] == "attempt failed"
    ]
    return [datetime.fromisoformat(line["timestamp"]).timestamp() for line in found]


async def test_every_selftest_task_does_what_it_says(rig):
    """LQ-02, LQ-09, ZS-32, ZP-03, SQ-03, ZS-33: results, failures and parked jobs reach whoever asked,
    an error with growing gaps and its traceback; nothing that is final is tried again.
    """
    tasks = {
        "test": {"message": "a:b"},
        "ok": {},
        "flaky": {"failures": 2},
        "retry": {"times": 2, "in_seconds": 0},
        "sleep": {"seconds": 0.2, "touch_every": 0.05},
        "spin": {"seconds": 0.2},
        "leak": {"mib": 64},
        "noop": {"n": 7},
        "record": {"path": str(rig.notes), "line": "noted"},
        "error": {"message": "boom"},
        "hold": {"reason": "look at it"},
        "fail": {"reason": "no such order"},
    }
    async with rig:
        worker = await rig.worker("--concurrency", "20")
        before = worker.resident_bytes()
        handles = {
            task: await rig.producer.send(rig.job(task, args, reply=True))
            for task, args in tasks.items()
        }
        ended = await asyncio.gather(
            *(handle.result(timeout=20) for handle in handles.values()), return_exceptions=True
        )
        results = dict(zip(tasks, ended, strict=True))
        values = {
            task: value for task, value in results.items() if task not in {"error", "hold", "fail"}
        }
        assert values == {
            "test": "a:b",
            "ok": None,
            "flaky": 3,
            "retry": 3,
            "sleep": None,
            "spin": None,
            "leak": 64,
            "noop": None,
            "record": None,
        }
        assert worker.resident_bytes() - before > 60 * 2**20

        error, hold, fail = results["error"], results["hold"], results["fail"]
        assert isinstance(error, JobParked)
        assert error.kind == "exhausted"
        assert "boom" in error.traceback
        assert "selftest.py" in error.traceback
        assert isinstance(hold, JobParked)
        assert (hold.kind, "look at it" in str(hold)) == ("held", True)
        assert isinstance(fail, JobFailed)
        assert (fail.kind, "no such order" in str(fail)) == ("logical", True)

        first, second, third = failures(worker, handles["error"].id)
        # The line is written a moment after the end from which the gap counts.
        assert 0.45 <= second - first < 1.4
        assert 0.95 <= third - second < 1.9
        assert len(failures(worker, handles["fail"].id)) == 1
        assert len(failures(worker, handles["hold"].id)) == 1
        assert len(failures(worker, handles["retry"].id)) == 2

        (note,) = rig.seen(handles["record"].id)
        assert list(note) == [
            "job", "attempt", "deliveries", "queue", "priority", "line", "due", "started", "worker",
        ]  # fmt: skip
        assert note["started"] >= note["due"]


async def test_a_retry_is_the_same_job(rig):
    """GM-04, BS-05: id, priority and tenant stay over retries; the attempt counts, deliveries do not."""
    folder = rig.folder / "later"
    args = {"path": str(folder / "notes.jsonl"), "line": "again"}
    async with rig:
        worker = await rig.worker()
        (job_id,) = await rig.send(rig.job("record", args, priority="urgent"))
        await worker.wait_line("attempt failed")
        folder.mkdir()
        (run,) = map(json.loads, (await written(folder / "notes.jsonl")).splitlines())
        assert (run["job"], run["priority"], run["deliveries"]) == (job_id, 9, 1)
        assert run["attempt"] in {2, 3}
        await rig.emptied()


async def test_what_cannot_run_is_parked_and_the_rest_goes_on(rig):
    """LQ-10, GM-02, GM-03, B-28: undecodable, wrong, unknown, expired: parked, and why, in words."""
    late = {"not_before_ms": rig.broker.now_ms() + 300, "expires_ms": rig.broker.now_ms() + 200}
    record = f"{QUEUE}.record"
    wrong = {
        "invalid": Envelope(id=mint_id(), queue=QUEUE, task=record, body=b"\xff{"),
        "invalid ": Envelope(id=mint_id(), queue=QUEUE, task=record, body=b"[1, 2]"),
        "invalid  ": Envelope(id=mint_id(), queue=QUEUE, task=record, body=b'{"path": 7}'),
        "unknown_task": Envelope(id=mint_id(), queue=QUEUE, task=f"{QUEUE}.nosuch"),
        "expired": Envelope(id=mint_id(), queue=QUEUE, task=record, **late),
    }
    async with rig:
        receipts = await rig.broker.publish(list(wrong.values()), deadline_s=10)
        assert {receipt.status for receipt in receipts} == {PublishStatus.CONFIRMED}
        await rig.worker()
        await rig.send(rig.note("alive"))
        await rig.noted(1)
        found = {job.envelope.id: job.envelope.parking for job in await rig.parked(len(wrong))}
        for reason, envelope in wrong.items():
            assert found[envelope.id].reason == reason.strip()
            assert found[envelope.id].detail
        assert "nosuch" in found[wrong["unknown_task"].id].detail
        listed = json.loads(await command(rig, "parked", "list", "--json"))
        assert {job["id"] for job in listed} == set(found)


async def test_a_task_that_comes_later_runs_what_was_parked(rig):
    """LQ-10, LQ-16, LQ-17: deploy the handler, release, and the job runs: the same, one attempt on."""
    declared = "from taskyard.shared import Context, Queue\ndefault = Queue('default')\n"
    handler = (
        "@default.task\n"
        "async def greet(ctx: Context, path: str) -> None:\n"
        "    open(path, 'a').write(f'{ctx.job_id} {ctx.attempt} {ctx.deliveries}\\n')\n"
    )
    old, new = rig.folder / "shop_old.py", rig.folder / "shop_new.py"
    old.write_text(declared + handler.replace("greet", "wave"))
    new.write_text(declared + handler)
    greeted = rig.folder / "greeted"
    async with rig:
        worker = await rig.worker(module="shop_old")
        kept, given_up = await rig.send(
            *(rig.job("greet", {"path": str(greeted)}) for _ in range(2))
        )
        parked = await rig.parked(2)
        assert {job.envelope.parking.reason for job in parked} == {"unknown_task"}
        worker.terminate()
        assert await worker.wait_exit() == 0
        await rig.worker(module="shop_new")
        await command(rig, "parked", "discard", given_up)
        await command(rig, "parked", "release", kept)
        await written(greeted)
        await rig.emptied()
        assert greeted.read_text().split() == [kept, "2", "1"]
        assert [job async for job in rig.broker.parked(QUEUE)] == []


async def test_a_newer_wire_format_is_parked(amqp_url, rabbitmq_node, taskyard, tmp_path):
    """B-27: a message of a later version, or of nonsense, ends parked in words; the worker goes on."""
    target = BrokerUnderTest(url=amqp_url, kind="rabbitmq", version=rabbitmq_node.version)
    rig = Rig(target, taskyard, tmp_path)
    messages = [
        ({"ty-task": "record", "ty-v": 2}, b"{}"),
        ({"ty-task": "record", "ty-attempt": "many"}, b"{}"),
        ({}, b"no task at all"),
    ]

    def publish() -> None:
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for headers, body in messages:
                properties = pika.BasicProperties(headers=headers, delivery_mode=2)
                channel.basic_publish("taskyard.tasks", QUEUE, body, properties, mandatory=True)

    async with rig:
        worker = await rig.worker()
        await asyncio.to_thread(publish)
        parked = await rig.parked(3)
        why = [job.envelope.parking for job in parked if job.envelope.parking is not None]
        assert [parking.reason for parking in why] == ["invalid"] * 3
        assert any("version 1" in parking.detail for parking in why)
        assert {job.envelope.body for job in parked} == {b"{}", b"no task at all"}
        await rig.send(rig.note("alive"))
        await rig.noted(1)
        assert worker.is_running
