"""What operators do to jobs that are over: restart, delete, keep; and what the audit says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from support.eventually import eventually
from support.ledger import command, ledger, ledger_url, rig
from taskyard.ledger.audit import audited, entries
from taskyard.ledger.database import Database
from taskyard.ledger.migrate import prepare
from taskyard.ledger.restarting import restart
from taskyard.ledger.schema import jobs
from taskyard.shared.clock import VirtualClock
from taskyard.shared.control import cancel_record
from taskyard.shared.intents import Intents

__all__ = ["command", "ledger", "ledger_url", "rig"]

#: What became of the cancel of a job that nobody has heard of: the intent itself holds.
UNKNOWN_CANCELLED = "the ledger knows no such job; no worker that meets it will start it"


async def test_three_good_and_one_bad(rig, ledger, command):
    """ZS-37, ZP-22: three run again, the same jobs one attempt on; one is named as refused; exit 1."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        ids = await rig.send(*(rig.note(str(n)) for n in range(3)))
        await ledger.until({"succeeded": 3})
        code, done = await command("jobs", "restart", *ids, "nosuch", "--json")
        assert (code, sorted(done["done"])) == (1, sorted(ids))
        assert done["refused"] == {"nosuch": "the ledger knows no such job"}
        runs = await rig.noted(6)
        assert sorted((run["job"], run["attempt"], run["deliveries"]) for run in runs) == sorted(
            (job_id, attempt, 1) for job_id in ids for attempt in (1, 2)
        )

        async def told() -> bool:
            rows = (await ledger.jobs()).values()
            return {(row["state"], row["attempt"]) for row in rows} == {("succeeded", 2)}

        await eventually(told)


async def test_by_filter(rig, ledger, command):
    """A filter means what failed, unless it says otherwise; a dry run changes nothing."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        failed = await rig.send(*(rig.job("fail") for _ in range(3)))
        await rig.send(*(rig.job("ok") for _ in range(4)), rig.job("hold"))
        await ledger.until({"failed": 3, "succeeded": 4, "parked": 1})
        code, done = await command("jobs", "restart", "--queue", "default", "--dry-run", "--json")
        assert (code, sorted(done["done"])) == (0, sorted(failed))
        assert await ledger.states() == {"failed": 3, "succeeded": 4, "parked": 1}
        code, done = await command("jobs", "restart", "--queue", "default", "--json")
        assert (code, sorted(done["done"]), done["refused"]) == (0, sorted(failed), {})

        async def again() -> bool:
            rows = (await ledger.jobs(failed)).values()
            return {(row["state"], row["attempt"]) for row in rows} == {("failed", 2)}

        await eventually(again)
        code, said = await command("jobs", "restart")
        assert code == 2
        assert "which" in said


async def test_what_is_not_over_is_not_restarted(rig, ledger, command):
    """Each is named with what it is, and what to do."""
    async with rig:
        await ledger.coordinator()
        (parked, waiting) = await rig.send(rig.job("hold"), rig.job("ok", delay=600))
        await rig.worker()
        await ledger.until({"parked": 1, "queued": 1})
        code, done = await command("jobs", "restart", parked, waiting, "--json")
        assert (code, done["done"]) == (1, [])
        assert "taskyard parked release" in done["refused"][parked]
        assert "it is queued" in done["refused"][waiting]


async def test_a_cancelled_job_runs_again(rig, ledger, command):
    """A cancel from before the restart is void, one from after it holds; both outlive the workers."""
    async with rig:
        await ledger.coordinator()
        job = rig.note()
        ahead_ms = rig.broker.now_ms() + 1000  # by a clock that is ahead
        await rig.intend(cancel_record(job.id, by="me", at_ms=ahead_ms))
        await rig.send(job)
        first = await rig.worker()
        await ledger.until({"cancelled": 1})
        first.kill()
        await first.wait_exit()
        assert (await command("jobs", "restart", job.id))[0] == 0
        await rig.worker()
        await ledger.until({"succeeded": 1})
        assert [run["attempt"] for run in await rig.noted(1)] == [2]
        assert (await command("queues", "pause", "default"))[0] == 0
        assert (await command("jobs", "restart", job.id))[0] == 0
        assert (await command("jobs", "cancel", job.id))[0] == 0
        assert (await command("queues", "resume", "default"))[0] == 0
        await ledger.until({"cancelled": 1})
        assert len(rig.seen()) == 1


async def test_an_abort_that_is_told_again_is_not_meant(rig, ledger, command):
    """Live intents are written again from time to time: a restarted job that runs goes on."""
    async with rig:
        await ledger.coordinator()
        job = rig.job("sleep", {"seconds": 3})
        abort = cancel_record(job.id, by="me", at_ms=rig.broker.now_ms(), abort=True)
        await rig.intend(abort)
        await rig.send(job)
        await rig.worker()
        await ledger.until({"cancelled": 1})
        assert (await command("jobs", "restart", job.id))[0] == 0
        await ledger.when(job.id, lambda row: row["state"] == "running")
        await rig.intend(abort)
        await ledger.until({"succeeded": 1})


async def test_two_that_restart_at_once(rig, ledger, command):
    """The second finds it queued: it runs once more, not twice."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        (job_id,) = await rig.send(rig.note())
        await ledger.until({"succeeded": 1})
        assert (await command("queues", "pause", "default"))[0] == 0
        found = await asyncio.gather(*(command("jobs", "restart", job_id) for _ in range(3)))
        assert sorted(code for code, _ in found) == [0, 1, 1]
        assert (await command("queues", "resume", "default"))[0] == 0
        await rig.noted(2)
        await rig.emptied()
        assert len(rig.seen()) == 2


async def test_a_restart_that_dies_after_the_publish(rig, ledger, command):
    """Confirmed, and nothing written: the feed tells the ledger."""

    class Dead(Exception):
        pass

    async with rig:
        await rig.worker()
        await ledger.coordinator()
        (job_id,) = await rig.send(rig.note())
        await ledger.until({"succeeded": 1})
        database = Database(ledger.url)
        with pytest.raises(Dead):
            async with database.begin_writing() as connection:
                done = await restart(
                    rig.broker, connection, [job_id], intents=Intents(), deadline_s=10
                )
                assert done == {job_id: ""}
                raise Dead
        await database.close()
        await rig.noted(2)
        await ledger.when(job_id, lambda row: row["attempt"] == 2 and row["state"] == "succeeded")


async def test_delete_and_keep(rig, ledger, command):
    """ZP-14, ZP-19, ZP-24: what failed by its logic is deleted by query; what is kept, by force only."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        failed = await rig.send(*(rig.job("fail") for _ in range(5)))
        (fine, parked) = await rig.send(rig.job("ok"), rig.job("hold"))
        await ledger.until({"failed": 5, "succeeded": 1, "parked": 1})
        assert (await command("jobs", "keep", failed[0]))[0] == 0
        code, done = await command(
            "jobs", "delete", "--state", "failed", "--reason", "logical", "--json"
        )
        assert (code, sorted(done["done"])) == (1, sorted(failed[1:]))
        assert "--force" in done["refused"][failed[0]]
        assert (await ledger.jobs()).keys() == {failed[0], fine, parked}
        assert await ledger.runs(failed[1]) == []
        code, done = await command("jobs", "delete", parked, failed[0], "--force", "--json")
        assert (code, done["done"]) == (1, [failed[0]])
        assert "not over" in done["refused"][parked]
        assert (await command("jobs", "keep", fine, "nosuch"))[0] == 1
        assert (await command("jobs", "delete", fine))[0] == 1
        assert (await command("jobs", "keep", fine, "--off"))[0] == 0
        assert (await command("jobs", "delete", fine))[0] == 0


async def test_the_audit(rig, ledger, command):
    """ZS-83: pause, cancel and delete are in it: who, when, what, and how it ended."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        (job_id,) = await rig.send(rig.job("ok"))
        await ledger.until({"succeeded": 1})
        assert (await command("queues", "pause", "default", "--reason", "look"))[0] == 0
        assert (await command("jobs", "cancel", "some-job", "--abort"))[0] == 0
        assert (await command("jobs", "delete", job_id))[0] == 0
        assert (await command("jobs", "delete", job_id))[0] == 1

        async def noted() -> list[dict[str, Any]]:
            code, found = await command("audit", "--json")
            assert code == 0
            return found if len(found) >= 4 and all(each["result"] for each in found) else []

        found = await eventually(noted)
        told = [(each["action"], each["subject"], each["result"]) for each in reversed(found)]
        assert sorted(told) == sorted(
            [
                ("pause", "queue:default", "done"),
                ("cancel", "job:some-job", UNKNOWN_CANCELLED),
                ("delete", job_id, "done"),
                ("delete", job_id, "done"),
            ]
        )
        assert all("@" in each["by"] and each["at"] for each in found)
        by_action = {each["action"]: each["details"] for each in found}
        assert by_action["pause"] == {"reason": "look"}
        assert by_action["cancel"]["abort"] is True
        deletes = [each["details"] for each in reversed(found) if each["action"] == "delete"]
        assert [(each["done"], each["refused"]) for each in deletes] == [(1, 0), (0, 1)]
        _, only = await command("audit", "--action", "pause", "--subject", "default", "--json")
        assert [each["action"] for each in only] == ["pause"]


async def test_the_audit_tells_of_queues_and_producers(rig, ledger, command):
    """ZS-83, ZS-53, BS-15: who paused all, drained, and set slots, and who took it back."""
    async with rig:
        await ledger.coordinator()
        for arguments in (
            ("queues", "pause", "--all", "--for", "1h"),
            ("queues", "resume", "--all"),
            ("drain", "on", "--reason", "upgrade"),
            ("drain", "off"),
            ("queues", "concurrency", "default", "7"),
            ("queues", "concurrency", "default", "--reset"),
        ):
            assert (await command(*arguments))[0] == 0

        async def noted() -> list[dict[str, Any]]:
            _, found = await command("audit", "--json")
            return found if len(found) >= 6 else []

        found = await eventually(noted)
        assert [(each["action"], each["subject"]) for each in reversed(found)] == [
            ("pause", "queue:*"),
            ("resume", "queue:*"),
            ("drain", "queue:*"),
            ("undrain", "queue:*"),
            ("concurrency", "queue:default"),
            ("reset", "queue:default"),
        ]
        assert all("@" in each["by"] for each in found)
        details = {each["action"]: each["details"] for each in found}
        assert details["drain"] == {"reason": "upgrade"}
        assert details["concurrency"] == {"slots": 7}
        assert details["pause"]["until"]


async def test_what_cannot_be_read_stops_nobody_else(rig, ledger, command):
    """A row of another version: it is named, and the others run."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        good, odd = await rig.send(rig.note(), rig.note())
        await ledger.until({"succeeded": 2})
        database = Database(ledger.url)
        async with database.begin() as connection:
            spoilt = update(jobs).where(jobs.c.id == odd).values(envelope=b"nonsense")
            await connection.execute(spoilt)
        await database.close()
        code, done = await command("jobs", "restart", good, odd, "--json")
        assert (code, done["done"]) == (1, [good])
        assert "cannot read" in done["refused"][odd]
        await rig.noted(3)


async def test_the_same_twice_in_one_millisecond(ledger_url):
    """Two entries of one user about one subject at once are two entries."""
    database = Database(ledger_url)
    await prepare(database)
    clock = VirtualClock()
    for _ in range(2):
        async with audited(database, clock, by="me", action="delete", subject="x" * 10_000):
            pass
    async with database.begin() as connection:
        assert len(await entries(connection, limit=10)) == 2
    await database.close()
