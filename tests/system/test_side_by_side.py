"""Jobs beside each other in one worker process: tenants, and a handler that blocks its thread."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from support.eventually import eventually
from support.rig import QUEUE, Rig
from taskyard.shared import Job, bind_values

pytestmark = pytest.mark.system

TENANTS = """
import asyncio, json, os
from taskyard.shared import Context, Queue, current_job, current_values

default = Queue("default", concurrency=20)

def note(ctx, path, tenant, at):
    job = current_job()
    line = json.dumps({
        "tenant": tenant,
        "values": dict(current_values()),
        "ctx": dict(ctx.values),
        "same job": job is not None and job.job_id == ctx.job_id,
        "job": ctx.job_id,
        "at": at,
    })
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode() + b"\\n")
    os.close(file)

@default.task
async def on_loop(ctx: Context, path: str, tenant: str, n: int) -> None:
    note(ctx, path, tenant, "start")
    await asyncio.sleep(0.002 * (n % 5))
    note(ctx, path, tenant, "end")
    await ctx.send(Job(queue="default", task="child", args={"path": path, "tenant": tenant}))

@default.task
def in_thread(ctx: Context, path: str, tenant: str, n: int) -> None:
    note(ctx, path, tenant, "thread")

@default.task
async def child(ctx: Context, path: str, tenant: str) -> None:
    note(ctx, path, tenant, "child")

from taskyard.shared import Job
"""


async def test_tenants_do_not_mix(broker_url, taskyard, tmp_path):
    """LQ-13, B-08, ZS-23: two tenants interleaved 100 times each, on the loop, in threads and in the
    jobs that they send: each sees its own values and its own job.
    """
    (tmp_path / "tenants.py").write_text(TENANTS)
    rig = Rig(broker_url, taskyard, tmp_path)
    async with rig:
        ids: dict[str, str] = {}
        for n in range(100):
            for tenant in ("acme", "globex"):
                args = {"path": str(rig.notes), "tenant": tenant, "n": n}
                task = "in_thread" if n % 2 else "on_loop"
                job: Job[object] = Job(queue=QUEUE, task=task, args=args)
                with bind_values(tenant=tenant, store=f"{tenant}-{n}"):
                    await rig.producer.send(job)
                ids[job.id] = f"{tenant}-{n}"
        await rig.worker(module="tenants")
        lines = await rig.noted(2 * (50 * 3 + 50), within=30)
        await rig.emptied()
    for line in lines:
        assert line["values"] == line["ctx"]
        assert line["values"]["tenant"] == line["tenant"]
        assert line["same job"]
        if line["at"] != "child":
            assert line["values"]["store"] == ids[line["job"]]
    assert len(lines) == 400
    order = [line["tenant"] for line in lines]
    assert sum(a != b for a, b in pairwise(order)) > 50, json.dumps(order)


async def test_a_blocking_handler_stalls_nobody(broker_url, taskyard, tmp_path):
    """Pain 16: B-15: two busy threads for four heartbeats: the connection stays, and other jobs run on time."""
    rig = Rig(broker_url, taskyard, tmp_path)
    async with rig:
        worker = await rig.worker("--concurrency", "8", env={"TASKYARD_HEARTBEAT": "1"})
        await rig.send(*(rig.job("spin", {"seconds": 4}) for _ in range(2)))
        await rig.send(*(rig.note(str(n), delay=0.2 * n) for n in range(1, 16)))
        runs = await rig.noted(15)
        late = max(run["started"] - run["due"] for run in runs)
        assert late < 1.0
        assert (await rig.probe(worker, "/livez")).status_code == 200

        async def spun() -> bool:
            spins = {"task": "spin", "outcome": "succeeded"}
            return await rig.metric(worker, "jobs_finished_total", **spins) == 2

        await eventually(spun)
        assert await rig.metric(worker, "broker_reconnects_total") == 0
        assert await rig.metric(worker, "deliveries_lost_total", queue=QUEUE) == 0
