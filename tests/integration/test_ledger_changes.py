"""What operators do to jobs that have not started: suspend, resume, change, run now, cancel."""

from __future__ import annotations

from typing import Any

import pytest

from support.eventually import eventually
from support.ledger import command, ledger, ledger_url, rig

__all__ = ["command", "ledger", "ledger_url", "rig"]

pytestmark = pytest.mark.pairs


async def test_one_of_three_is_suspended(rig, ledger, command):
    """ZP-20: two run, it does not; resumed it runs, once; what is not suspended is not resumed."""
    async with rig:
        await ledger.coordinator()
        assert (await command("queues", "pause", "default"))[0] == 0
        ids = await rig.send(*(rig.note(str(n)) for n in range(3)))
        await rig.worker()
        await ledger.until({"queued": 3})
        code, said = await command("jobs", "suspend", ids[1], "--json")
        assert (code, said) == (0, {"done": {ids[1]: "suspended"}, "refused": {}, "recorded": []})
        assert (await command("queues", "resume", "default"))[0] == 0
        await ledger.until({"succeeded": 2, "suspended": 1})
        assert {run["job"] for run in rig.seen()} == {ids[0], ids[2]}
        code, found = await command("explain", ids[1], "--json")
        assert (code, found["cause"]) == (0, "suspended")
        code, found = await command("jobs", "list", "--state", "suspended", "--json")
        assert [job["id"] for job in found["jobs"]] == [ids[1]]
        assert (await command("jobs", "resume", ids[1]))[0] == 0
        await ledger.until({"succeeded": 3})
        code, said = await command("jobs", "resume", ids[1], "nosuch", "--json")
        assert (code, said["done"]) == (1, {})
        assert said["refused"] == {
            ids[1]: "it is over: succeeded",
            "nosuch": "the ledger knows no such job",
        }
        await rig.emptied()
        assert [run["job"] for run in rig.seen()].count(ids[1]) == 1
        assert [run["attempt"] for run in rig.seen()] == [1, 1, 1]


async def test_a_delayed_job_runs_earlier(rig, ledger, command):
    """ZP-23, B-32: due in 6 s, changed to 1 s: it runs once, then, and not when it was to run."""
    async with rig:
        await ledger.coordinator()
        worker = await rig.worker()
        (job_id, twin) = await rig.send(rig.note("early", delay=6), rig.note("twin", delay=7))
        await ledger.until({"queued": 2})
        code, said = await command("jobs", "change", job_id, "--to-delay", "1s", "line=changed")
        assert code == 0, said
        runs = await rig.noted(1)
        assert (runs[0]["job"], runs[0]["line"], runs[0]["attempt"]) == (job_id, "changed", 1)
        await rig.noted(2)  # the twin, whose message comes after the old one of the other
        assert [run["job"] for run in rig.seen()] == [job_id, twin]
        await ledger.until({"succeeded": 2})
        assert await rig.metric(worker, "superseded_total", queue="default") == 1
        row = (await ledger.jobs([job_id]))[job_id]
        assert row["generation"] == 2


async def test_a_delayed_job_runs_now(rig, ledger, command):
    """BS-04, BS-07: due in an hour, it runs at once."""
    async with rig:
        await ledger.coordinator()
        await rig.worker()
        (job_id, other) = await rig.send(rig.note(delay=3600), rig.note(delay=3600))
        await ledger.until({"queued": 2})
        assert (await command("jobs", "run", job_id))[0] == 0
        assert [run["job"] for run in await rig.noted(1)] == [job_id]
        await ledger.until({"succeeded": 1, "queued": 1})
        assert (await command("jobs", "cancel", other))[0] == 0
        await ledger.until({"succeeded": 1, "cancelled": 1})


async def test_priority_is_changed(rig, ledger, command):
    """The last of four that wait becomes the first."""
    async with rig:
        await ledger.coordinator()
        assert (await command("queues", "pause", "default"))[0] == 0
        ids = await rig.send(*(rig.note(str(n)) for n in range(4)))
        await ledger.until({"queued": 4})
        assert (await command("jobs", "change", ids[3], "--to-priority", "urgent"))[0] == 0
        await rig.worker("--concurrency", "1")
        assert (await command("queues", "resume", "default"))[0] == 0
        runs = await rig.noted(4)
        assert [run["job"] for run in runs] == [ids[3], *ids[:3]]


async def test_what_cannot_be_changed_is_refused_in_words(rig, ledger, command):
    """Running, over and parked jobs; each is named with what it is; the others are changed."""
    async with rig:
        await ledger.coordinator()
        worker = await rig.worker()
        (busy, over, parked, later) = await rig.send(
            rig.job("sleep", {"seconds": 60}),
            rig.job("ok"),
            rig.job("hold"),
            rig.note(delay=3600),
        )
        await ledger.until({"running": 1, "succeeded": 1, "parked": 1, "queued": 1})
        words = ("jobs", "change", busy, over, parked, later, "--to-priority", "1", "--json")
        code, said = await command(*words)
        assert (code, said["done"]) == (1, {later: "changed"})
        assert "running" in said["refused"][busy]
        assert "over" in said["refused"][over]
        assert "taskyard parked" in said["refused"][parked]
        worker.kill()


async def test_by_filter(rig, ledger, command):
    """What a filter means and has not started; a dry run changes nothing; done again, none is left."""
    async with rig:
        await ledger.coordinator()
        jobs = [rig.note(str(n), delay=3600, priority=n % 2) for n in range(40)]
        await rig.send(*jobs)
        await ledger.until({"queued": 40})
        words = ("jobs", "suspend", "--queue", "default", "--priority", "1", "--json")
        code, said = await command(*words, "--dry-run")
        assert (code, len(said["done"])) == (0, 20)
        assert await ledger.states() == {"queued": 40}
        code, said = await command(*words)
        assert (code, len(said["done"])) == (0, 20)
        assert await ledger.states() == {"queued": 20, "suspended": 20}
        assert (await command(*words))[1] == {"done": {}, "refused": {}, "recorded": []}
        code, said = await command("jobs", "cancel", "--queue", "default", "--json")
        assert (code, len(said["done"])) == (0, 40)
        assert await ledger.states() == {"cancelled": 40}
        assert [found async for found in rig.broker.parked("default")] == []


async def test_who_does_not_wait_is_not_told_to_wait(rig, ledger, command):
    """It is recorded, as was wanted: that is no failure. Who waits in vain hears of it by 124."""
    async with rig:
        coordinator = await ledger.coordinator()
        ids = await rig.send(*(rig.note(delay=3600) for _ in range(3)))
        await ledger.until({"queued": 3})
        coordinator.terminate()
        assert await coordinator.wait_exit() == 0
        code, said = await command("jobs", "suspend", ids[0], "--wait", "0")
        assert (code, said.strip()) == (0, f"{ids[0]}: recorded")
        words = ("jobs", "change", ids[1], "--to-due", "1960-01-01", "--wait", "0", "--json")
        assert await command(*words) == (0, {"done": {}, "refused": {}, "recorded": [ids[1]]})
        code, said = await command("jobs", "suspend", ids[2], "--wait", "0.2s")
        assert (code, "no coordinator has answered yet" in said) == (124, True)
        await ledger.coordinator()
        await ledger.until({"queued": 1, "suspended": 2})
        due_ms = (await ledger.jobs())[ids[1]]["due_ms"]
        assert due_ms <= rig.broker.now_ms()


async def test_a_cancel_says_what_happened(rig, ledger, command):
    """ZS-35: before it started, while it ran (it finishes), when it was over; and of an unknown job."""
    async with rig:
        await ledger.coordinator()
        await rig.worker()
        (later, busy, over) = await rig.send(
            rig.note(delay=3600), rig.job("sleep", {"seconds": 4}), rig.job("ok")
        )
        await ledger.until({"queued": 1, "running": 1, "succeeded": 1})
        code, said = await command("jobs", "cancel", later, busy, over, "nosuch", "--json")
        assert code == 1
        assert said["done"][later] == "cancelled before attempt 1 started"
        assert "attempt 1 was running" in said["done"][busy]
        assert said["refused"] == {over: "it is over: succeeded"}
        assert "knows no such job" in said["done"]["nosuch"]
        await ledger.until({"cancelled": 1, "succeeded": 2})


async def test_the_audit_tells_of_changes(rig, ledger, command):
    """ZS-83: who suspended and changed what, and how it ended; the values of arguments are not in it."""
    async with rig:
        await ledger.coordinator()
        (job_id, over) = await rig.send(rig.note(delay=3600), rig.note(delay=3600))
        await ledger.until({"queued": 2})
        assert (await command("jobs", "change", job_id, "line=verysecret"))[0] == 0
        assert (await command("jobs", "suspend", job_id))[0] == 0
        assert (await command("jobs", "cancel", over))[0] == 0

        async def noted() -> dict[str, Any]:
            code, found = await command("audit", "--json")
            assert code == 0
            rows = {entry["action"]: entry for entry in found}
            assert rows.keys() == {"change", "suspend", "cancel"}
            assert all(entry["result"] for entry in rows.values())
            return rows

        rows = await eventually(noted, within=20)
        assert rows["change"]["subject"] == f"job:{job_id}"
        assert rows["suspend"]["result"] == "suspended"
        assert rows["cancel"]["result"] == "cancelled before attempt 1 started"
        assert "verysecret" not in str(rows)
        assert "line" in str(rows["change"])
