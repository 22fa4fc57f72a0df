"""Intents about jobs outlive everything: broker, workers and coordinator, all at once."""

from __future__ import annotations

import pytest

from support.eventually import eventually
from support.ledger import command, ledger, ledger_url, rig

__all__ = ["command", "ledger", "ledger_url", "rig"]


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.breaks_broker
@pytest.mark.pairs
async def test_cancelled_suspended_and_retimed_jobs_survive_a_restart_of_everything(
    rig, ledger, command
):
    """Issue 6: each is after it what it was before, and each runs as often as it should."""
    async with rig:
        coordinator = await ledger.coordinator()
        worker = await rig.worker()
        jobs = [rig.note(line, delay=3600) for line in ("cancelled", "suspended", "put off")]
        early = rig.note("sooner", delay=3600)
        (cancelled, suspended, later, sooner) = await rig.send(*jobs, early)
        await ledger.until({"queued": 4})
        assert (await command("jobs", "cancel", cancelled))[0] == 0
        assert (await command("jobs", "suspend", suspended))[0] == 0
        assert (await command("jobs", "change", later, "--to-delay", "2h"))[0] == 0
        assert (await command("queues", "pause", "default"))[0] == 0
        assert (await command("jobs", "change", sooner, "--to-delay", "1s"))[0] == 0
        for program in (coordinator, worker):
            program.kill()
            await program.wait_exit()
        await rig.target.restart_broker()
        await ledger.coordinator()
        await rig.worker()
        expected = {cancelled: "cancelled", suspended: "suspended", later: "queued"}

        async def as_before() -> bool:
            rows = await ledger.jobs()
            assert {job: rows[job]["state"] for job in expected} == expected
            return rows[later]["due_ms"] - rows[later]["created_ms"] > 7_000_000

        assert await eventually(as_before)
        assert rig.seen() == []
        assert (await command("queues", "resume", "default"))[0] == 0
        assert [run["line"] for run in await rig.noted(1)] == ["sooner"]
        # All of them due at once: what was cancelled and what is old must not run.
        assert (await command("jobs", "run", later, suspended))[0] == 0
        runs = await rig.noted(3)
        assert [run["line"] for run in runs][1:] in (
            ["put off", "suspended"],
            ["suspended", "put off"],
        )
        await ledger.until({"cancelled": 1, "succeeded": 3})
        assert len(rig.seen()) == 3
