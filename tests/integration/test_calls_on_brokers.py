"""`ctx.call` in worker processes, on every broker (ZS-22)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.eventually import written
from support.rig import Rig
from taskyard.shared import Job

APP = '''
"""Parents and children, in one queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

from taskyard.shared import Context, Queue

family = Queue("family")


@family.task
async def double(n: int) -> int:
    return n * 2


@family.task
async def parent(ctx: Context, n: int) -> int:
    return await ctx.call(double.job(n))


@family.task
def threaded(ctx: Context, n: int) -> int:
    return ctx.call_from_thread(double.job(n))


@family.task
async def nested(ctx: Context, depth: int) -> int:
    return 1 + (await ctx.call(nested.job(depth - 1)) if depth else 0)


@family.task
async def until(ctx: Context, path: str) -> str:
    with Path(path + ".children").open("a") as children:
        children.write(ctx.job_id + "\\n")
    while not Path(path).exists():
        await asyncio.sleep(0.05)
    return "there"


@family.task
async def asks(ctx: Context, path: str) -> list[object]:
    with Path(path + ".asked").open("a") as asked:
        asked.write(f"{ctx.attempt} {ctx.deliveries}\\n")
    return [ctx.attempt, ctx.deliveries, await ctx.call(until.job(path))]
'''


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    (tmp_path / "family.py").write_text(APP)
    return Rig(broker_url, taskyard, tmp_path, queues=("family",))


def job(task: str, **args: object) -> Job[Any]:
    return Job(queue="family", task=task, args=args, reply=True)


async def test_one_slot_is_enough(rig):
    """ZS-22: concurrency 1: a parent and its child of one queue, by task and by thread, three deep."""
    async with rig:
        await rig.worker("--concurrency", "1", module="family")
        for sent, expected in (
            (job("parent", n=21), 42),
            (job("threaded", n=4), 8),
            (job("nested", depth=3), 4),
        ):
            handle = await rig.producer.send(sent)
            assert await handle.result(timeout=20) == expected
        await rig.emptied(queue="family")


async def test_fifty_parents(rig):
    """ZS-22: all of them wait in front of their children, and all of them end."""
    async with rig:
        handles = [await rig.producer.send(job("parent", n=n)) for n in range(50)]
        await rig.worker("--concurrency", "2", module="family")
        for n, handle in enumerate(handles):
            assert await handle.result(timeout=60) == 2 * n
        await rig.emptied(queue="family")


@pytest.mark.parametrize("end", ["terminated", "killed"])
async def test_a_waiting_parent_outlives_its_worker(rig, end):
    """ZS-22, B-13, BS-19: handed back uncharged, or run again after a death; it calls the same child."""
    path = rig.folder / "flag"
    asked, children = Path(f"{path}.asked"), Path(f"{path}.children")
    async with rig:
        first = await rig.worker("--concurrency", "1", "--grace", "0", module="family")
        handle = await rig.producer.send(job("asks", path=str(path)))
        await written(children, within=20)
        if end == "terminated":
            first.terminate()
            assert await first.wait_exit(within=20) == 0
        else:
            first.kill()
            await first.wait_exit()
        path.touch()
        await rig.worker("--concurrency", "1", module="family")
        deliveries = 1 if end == "terminated" else 2
        assert await handle.result(timeout=60) == [1, deliveries, "there"]
        assert len(set(children.read_text().split())) == 1, "it means the same child"
        assert asked.read_text().split("\n")[:-1] == ["1 1", f"1 {deliveries}"]
        await rig.emptied(queue="family", within=40)
