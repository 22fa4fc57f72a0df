"""`taskyard explain`: why a job is not running, on every broker (issue 6, 8)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.eventually import eventually
from support.ledger import Ledger
from support.rig import Rig
from taskyard.shared.control import cancel_record

APP = """
import asyncio
from pathlib import Path
from taskyard.shared import Queue

default = Queue("default")

@default.task
async def until(path: str) -> None:
    while not Path(path).exists():
        await asyncio.sleep(0.05)

@default.task
async def ok() -> None:
    pass
"""


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    (tmp_path / "waits.py").write_text(APP)
    return Rig(broker_url, taskyard, tmp_path, ledger=True)


@pytest.fixture
def ledger(rig, taskyard, tmp_path):
    return Ledger(rig, taskyard, f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def explained(rig, ledger, taskyard):
    """Wait until a job is explained by a cause, and return all of the explanation."""

    async def explain(job_id: str, cause: str) -> dict[str, Any]:
        async def found() -> dict[str, Any]:
            env = rig.env(TASKYARD_LEDGER_URL=ledger.url)
            program = taskyard("explain", job_id, "--json", env=env, cwd=rig.folder)
            assert await program.wait_exit(within=20) == 0, program.output
            document = json.loads(program.output)
            assert document["cause"] == cause, document
            return document

        return await eventually(found, within=30, every=0.2)

    return explain


async def test_one_cause_after_another(rig, ledger, explained, taskyard):
    """Paused, without a worker, behind others, next, running, over: each in its turn, with evidence."""
    async with rig:
        await ledger.coordinator()
        first, second, high = (
            rig.job("until", {"path": str(rig.folder / "go")}), rig.job("ok"), rig.job("ok", priority="high")
        )  # fmt: skip
        await rig.send(first)
        await ledger.until({"queued": 1})
        assert "no worker consumes" in (await explained(first.id, "no_worker"))["text"]
        env = rig.env(TASKYARD_LEDGER_URL=ledger.url)
        paused = taskyard("queues", "pause", "default", "--reason", "stocktaking", env=env)
        assert await paused.wait_exit(within=20) == 0
        found = await explained(first.id, "paused")
        assert "stocktaking" in found["text"]
        assert "@" in found["by"]
        resumed = taskyard("queues", "resume", "default", env=env)
        assert await resumed.wait_exit(within=20) == 0
        await rig.worker("--concurrency", "1", module="waits")
        running = await explained(first.id, "running")
        assert running["worker"] in running["text"]
        await rig.send(second, high)
        await ledger.when(second.id, lambda row: row["state"] == "queued")
        await ledger.when(high.id, lambda row: row["state"] == "queued")
        found = await explained(second.id, "behind")
        assert (found["ahead"], found["running"]) == (1, 1)
        assert (await explained(high.id, "next"))["ahead"] == 0
        (rig.folder / "go").touch()
        await ledger.until({"succeeded": 3})
        assert "it is over: succeeded" in (await explained(second.id, "succeeded"))["text"]


async def test_what_is_not_due(rig, ledger, explained):
    """Due later, to be tried again, parked, cancelled by an intent."""
    async with rig:
        await ledger.coordinator()
        later, flaky, held = (
            rig.job("ok", delay=600),
            rig.job("retry", {"in_seconds": 600}),
            rig.job("hold"),
        )
        await rig.send(later, flaky, held)
        await rig.worker()
        found = await explained(later.id, "scheduled")
        assert 500_000 < found["in_ms"] <= 600_000
        found = await explained(flaky.id, "retry")
        assert found["attempt"] == 1
        found = await explained(held.id, "parked")
        assert found["reason"] == "held"
        assert "taskyard parked release" in found["text"]
        await rig.intend(cancel_record(later.id, by="me@here", at_ms=rig.broker.now_ms()))
        assert "me@here has cancelled it" in (await explained(later.id, "cancelled"))["text"]


async def test_what_nobody_knows(rig, ledger, taskyard):
    """An unknown id is not pending: exit 1, in words."""
    async with rig:
        await ledger.coordinator()
        env = rig.env(TASKYARD_LEDGER_URL=ledger.url)
        program = taskyard("explain", "nosuch", env=env, cwd=rig.folder)
        assert await program.wait_exit(within=20) == 1
        assert "never sent" in program.output
