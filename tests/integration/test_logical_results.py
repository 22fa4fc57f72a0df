"""What a job says of its own success: `ok`, `completed` or failed by its logic (ZS-31, ZP-11)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.eventually import eventually
from support.rig import Rig
from support.workbench import Workbench
from taskyard.producer import Producer
from taskyard.shared import Context, Queue, RetryPolicy
from taskyard.shared.settings import Settings

APP = '''
"""Three ways to end."""

from __future__ import annotations

from taskyard.shared import Context, Queue

orders = Queue("orders")


@orders.task
async def good(ctx: Context) -> int:
    ctx.ok("7 sent")
    return 7


@orders.task
async def plain() -> int:
    return 7


@orders.task
async def bad(ctx: Context) -> int:
    ctx.fail("none was left")
'''


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    (tmp_path / "orders.py").write_text(APP)
    return Rig(broker_url, taskyard, tmp_path, queues=("orders",))


async def test_three_jobs_three_results(rig, taskyard):
    """ZS-31: seen from a shell on every broker: ok, completed, and failed with its message."""
    async with rig:
        await rig.worker(module="orders")
        found: dict[str, Any] = {}
        for task, code in (("good", 0), ("plain", 0), ("bad", 1)):
            sent = taskyard("send", f"orders:{task}", "--wait", "--json", env=rig.env())
            assert await sent.wait_exit(within=30) == code
            found[task] = json.loads(next(line for line in sent.lines if line.startswith("{")))
            del found[task]["id"]
            if task == "bad":
                assert "failed (logical): none was left" in "\n".join(sent.lines)
        assert found == {
            "good": {"outcome": "succeeded", "logical": "ok", "said": "7 sent", "result": 7},
            "plain": {"outcome": "succeeded", "logical": "completed", "result": 7},
            "bad": {"outcome": "failed", "kind": "logical"},
        }


class Ends:
    """A queue whose tasks say how they ended, in coroutines and threads."""

    def __init__(self) -> None:
        self.queue = queue = Queue("q", retry=RetryPolicy(attempts=1))

        @queue.task
        async def good(ctx: Context) -> int:
            ctx.ok("sent\ud800\x00")
            return 1

        @queue.task
        def threaded(ctx: Context) -> None:
            ctx.ok()

        @queue.task
        async def plain() -> None: ...

        @queue.task
        async def bad(ctx: Context) -> None:
            ctx.ok("too early")
            ctx.fail("none")

        @queue.task
        async def broken(ctx: Context) -> None:
            ctx.ok("too early")
            raise KeyError

        self.tasks: list[Any] = [good, threaded, plain, bad, broken]


#: The outcome, its detail, what the handler said, and the handle's word for it; by task.
EXPECTED = {
    "q.good": ("succeeded", "", "sent??", "ok"),
    "q.threaded": ("succeeded", "", "", "ok"),
    "q.plain": ("succeeded", "", None, "completed"),
    "q.bad": ("failed", "logical", None, "failed"),
    "q.broken": ("parked", "exhausted", None, ""),
}


async def test_the_record_says_how_a_job_ended(tmp_path):
    """ZS-31, ZP-11: also in threads; what was said before an exception counts for nothing."""
    ends = Ends()
    async with Workbench(ends.queue, folder=tmp_path) as bench:
        await bench.worker()
        await bench.send(*(task.job() for task in ends.tasks))

        async def ended():
            records = [r for r in await bench.records() if r.event == "finished"]
            return records if len(records) == len(EXPECTED) else []

        for record in await eventually(ended):
            outcome, detail, ok, _ = EXPECTED[record.task]
            assert (record.outcome, record.detail) == (outcome, detail)
            assert (record.ok is None) == (ok is None)
            assert (record.ok or "").replace("\ufffd", "?") == (ok or "")


def test_the_handle_says_how_a_job_ended():
    """ZS-31: whoever asked for the result reads it from the handle; eager mode means the same."""
    ends = Ends()
    with Producer(settings=Settings(mode="eager")) as producer:
        for task in ends.tasks:
            handle = producer.send(task.job().options(reply=True))
            _, _, ok, logical = EXPECTED[task.name]
            assert handle.logical == logical
            assert handle.said.replace("\ufffd", "?") == (ok or "")
        assert producer.send(ends.tasks[0].job()).logical == ""
