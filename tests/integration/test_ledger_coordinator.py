"""The coordinator as a process: what happens to jobs gets into the ledger, whatever dies."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import select

from support.eventually import eventually
from support.ledger import Ledger, ledger, ledger_url, rig
from support.rig import Rig
from taskyard.ledger.history import unpack
from taskyard.ledger.schema import audit
from taskyard.shared.control import cancel_record
from taskyard.shared.feed import FINISHED, FeedRecord

__all__ = ["ledger", "ledger_url", "rig"]


async def test_what_became_of_each_job(rig, ledger):
    """B-12, ZS-43, ZS-61, ZP-35: each way to end, with its kind, its error, and all attempts."""
    async with rig:
        cancelled = rig.job("record", {"path": str(rig.notes)}, app="shop")
        await rig.intend(cancel_record(cancelled.id, by="me", at_ms=rig.broker.now_ms()))
        sent = {
            "succeeded": rig.job("test", {"message": "hello"}, app="shop", priority="high"),
            "said": rig.job("flaky", {"failures": 1}),
            "logical": rig.job("fail", {"reason": "no such card"}),
            "exhausted": rig.job("error", {"message": "boom"}),
            "held": rig.job("hold"),
            "later": rig.job("ok", delay=600),
            "cancelled": cancelled,
        }
        await rig.send(*sent.values())
        await rig.worker()
        coordinator = await ledger.coordinator()
        await ledger.until({"succeeded": 2, "failed": 1, "parked": 2, "queued": 1, "cancelled": 1})
        rows = await ledger.jobs()
        found = {name: rows[job.id] for name, job in sent.items()}

        succeeded = found["succeeded"]
        assert (succeeded["app"], succeeded["priority"], succeeded["task"]) == (
            "shop",
            7,
            "default.test",
        )
        facets = succeeded["facets"]
        assert (facets if isinstance(facets, dict) else json.loads(facets)) == {"message": "hello"}
        assert unpack(succeeded["envelope"]).body == b'{"message":"hello"}'
        assert succeeded["created_ms"] <= succeeded["started_ms"] <= succeeded["ended_ms"]
        assert (await ledger.runs(sent["succeeded"].id))[0]["value"] == '"hello"'

        assert [run["outcome"] for run in await ledger.runs(sent["said"].id)] == [
            "retried",
            "succeeded",
        ]
        assert (found["said"]["attempt"], found["said"]["error_type"]) == (2, None)
        assert found["logical"]["detail"] == "logical"
        exhausted = await ledger.runs(sent["exhausted"].id)
        assert [run["outcome"] for run in exhausted] == ["retried", "retried", "parked"]
        assert all(
            "boom" in run["error_message"] and "SelftestError" in run["traceback"]
            for run in exhausted
        )
        assert len({run["fingerprint"] for run in exhausted}) == 1
        assert (found["exhausted"]["detail"], found["held"]["detail"]) == ("exhausted", "held")
        assert found["later"]["due_ms"] > rig.broker.now_ms() + 500_000
        assert found["cancelled"]["started_ms"] is None
        assert not rig.notes.exists()

        coordinator.terminate()
        assert await coordinator.wait_exit(within=20) == 0


async def test_a_running_job_is_seen_running(rig, ledger):
    """GM-08: while it runs, and afterwards no more."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        (job_id,) = await rig.send(rig.job("sleep", {"seconds": 3}))
        await ledger.when(job_id, lambda row: row["state"] == "running")
        await ledger.when(job_id, lambda row: row["state"] == "succeeded")


async def test_progress_is_seen_while_it_runs(rig, ledger):
    """GM-07: 30 of 100, while the job runs; what is no number hurts nobody."""
    (rig.folder / "far.py").write_text(
        "import asyncio\n"
        "from pathlib import Path\n"
        "from taskyard.shared import Context, Queue\n"
        "default = Queue('default')\n"
        "@default.task\n"
        "async def far(ctx: Context, path: str) -> None:\n"
        "    ctx.progress(float('nan'))\n"
        "    await asyncio.sleep(1.2)\n"
        "    ctx.progress(30, 100, 'pages')\n"
        "    while not Path(path).exists():\n"
        "        await asyncio.sleep(0.05)\n"
    )
    async with rig:
        await rig.worker(module="far")
        await ledger.coordinator()
        go_on = rig.folder / "go"
        (job_id,) = await rig.send(rig.job("far", {"path": str(go_on)}))

        async def told() -> bool:
            (run,) = await ledger.runs(job_id)
            return (run["progress_done"], run["progress_of"], run["progress_note"]) == (
                30,
                100,
                "pages",
            )

        await eventually(told, within=20)
        assert (await ledger.jobs())[job_id]["state"] == "running"
        go_on.touch()
        await ledger.when(job_id, lambda row: row["state"] == "succeeded")
        (run,) = await ledger.runs(job_id)
        assert (run["progress_done"], run["outcome"]) == (30, "succeeded")
        assert run["run_ms"] > 1000


async def test_a_released_job_goes_on(rig, ledger, taskyard):
    """LQ-16, B-12: parked, released, done: one job, all of its runs."""
    async with rig:
        await rig.worker()
        await ledger.coordinator()
        missing = rig.folder / "later"
        args = {"path": str(missing / "notes.jsonl")}
        (job_id,) = await rig.send(rig.job("record", args))
        await ledger.when(job_id, lambda row: row["state"] == "parked")
        missing.mkdir()
        words = ("parked", "release", job_id, "--queue", "default")
        released = taskyard(*words, env=rig.env(), cwd=rig.folder)
        assert await released.wait_exit(within=20) == 0, released.output
        await ledger.when(job_id, lambda row: row["state"] == "succeeded")
        outcomes = [run["outcome"] for run in await ledger.runs(job_id)]
        assert outcomes == ["retried", "retried", "parked", "succeeded"]


async def test_coordinators_share_the_work_and_may_die(rig, ledger):
    """Issue 6, 2: two at once, killed again and again: no job is missing, none is there twice."""
    number = 3000
    async with rig:
        await rig.worker("--concurrency", "50")
        coordinators = [await ledger.coordinator() for _ in range(2)]
        sending = asyncio.create_task(rig.send(*(rig.job("noop", {"n": n}) for n in range(number))))
        for reached in (100, 1000, 2000):

            async def at_least(reached: int = reached) -> bool:
                return sum((await ledger.states()).values()) >= reached

            await eventually(at_least, within=30)
            coordinators.pop(0).kill()
            coordinators.append(await ledger.coordinator())
        ids = await sending
        await ledger.until({"succeeded": number}, within=60)
        assert (await ledger.jobs()).keys() == set(ids)


async def test_history_catches_up(rig, ledger):
    """Promise 4: workers do not need the coordinator; what happened without it is known later."""
    async with rig:
        worker = await rig.worker()
        await rig.send(*(rig.job("ok") for _ in range(500)))
        await rig.emptied()
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        await ledger.coordinator()
        await ledger.until({"succeeded": 500})


async def test_health_and_metrics(rig, ledger):
    """The lag is a metric; a probe says what is wrong, and with what."""
    async with rig:
        coordinator = await ledger.coordinator()
        await rig.worker()
        await rig.send(*(rig.job("ok") for _ in range(10)))
        await ledger.until({"succeeded": 10})
        assert (await rig.probe(coordinator, "/livez")).status_code == 200
        text = (await rig.probe(coordinator, "/metrics")).text
        assert 'taskyard_ledger_items_total{kind="job"} 10' in text
        assert "taskyard_ledger_lag_seconds 0" in text
        assert "taskyard_ledger_connected 1" in text


async def test_an_outage_of_the_database(broker_url, taskyard, tmp_path, private_postgres):
    """Promise 4: the coordinator says so, waits, and goes on by itself; jobs do not notice."""
    rig = Rig(broker_url, taskyard, tmp_path, ledger=True)
    ledger = Ledger(rig, taskyard, private_postgres.create_database())
    async with rig:
        coordinator = await ledger.coordinator()
        await rig.worker()
        await rig.send(*(rig.job("ok") for _ in range(20)))
        await ledger.until({"succeeded": 20})
        private_postgres.kill()
        await rig.send(*(rig.job("ok") for _ in range(20)))
        await rig.emptied()

        async def says_so() -> bool:
            answer = await rig.probe(coordinator, "/readyz")
            return answer.status_code == 503 and "does not answer" in answer.text

        await eventually(says_so)
        assert (await rig.probe(coordinator, "/livez")).status_code == 200
        private_postgres.start()
        await ledger.until({"succeeded": 40})
        await rig.ready(coordinator)


@pytest.mark.breaks_broker
@pytest.mark.server_only
async def test_an_outage_of_the_broker(rig, ledger):
    """The feed is read again by itself; what was not acknowledged comes again and changes nothing."""
    async with rig:
        coordinator = await ledger.coordinator()
        await rig.worker()
        await rig.send(*(rig.job("ok") for _ in range(200)))
        assert rig.target.node is not None
        await asyncio.to_thread(rig.target.node.kill)
        await asyncio.to_thread(rig.target.node.start)
        await rig.send(*(rig.job("ok") for _ in range(200)))
        await ledger.until({"succeeded": 400}, within=60)
        await rig.ready(coordinator)


async def test_one_bad_record_does_not_stop_the_feed(rig, ledger):
    """A record that no database can hold is left out, in words; those beside it are written."""
    async with rig:
        coordinator = await ledger.coordinator()
        jobs = [rig.job("ok", delay=600) for _ in range(5)]
        await rig.send(*jobs)
        await ledger.until({"queued": 5})
        bad, *good = (_retried(job.id, due_ms=2**70 if job is jobs[0] else 5) for job in jobs)
        await rig.broker.record([*good[:2], bad, *good[2:]], deadline_s=10)
        await coordinator.wait_line("left out of the ledger", within=20)
        for record in good:
            await ledger.when(record.job, lambda row: row["due_ms"] == 5)
        rows = await ledger.jobs()
        assert rows[bad.job]["due_ms"] != 5
        assert len(rows) == 5


def _retried(job_id: str, *, due_ms: int) -> FeedRecord:
    return FeedRecord(
        event=FINISHED, job=job_id, queue="default", task="default.ok", attempt=1, deliveries=1,
        message="m", at=1, outcome="retried", due=due_ms, worker="w",
    )  # fmt: skip


async def test_without_a_feed_it_says_what_to_do(broker_url, taskyard, tmp_path, ledger_url):
    """CR-05: exit 2, and the command that makes one."""
    rig = Rig(broker_url, taskyard, tmp_path)
    async with rig:
        program = Ledger(rig, taskyard, ledger_url).start()
        assert await program.wait_exit(within=30) == 2
        assert "taskyard broker apply --ledger" in program.output


async def test_output_is_in_the_ledger(rig, ledger):
    """ZP-33: what a failed attempt printed can be read afterwards; that of others is not kept."""
    (rig.folder / "talking.py").write_text(
        "from taskyard.shared import Fail, Queue\n"
        "default = Queue('default')\n"
        "@default.task\n"
        "async def talks(fails: bool) -> None:\n"
        "    print('on the way')\n"
        "    if fails:\n"
        "        raise Fail('lost')\n"
    )
    async with rig:
        await rig.worker(module="talking")
        await ledger.coordinator()
        ids = await rig.send(*(rig.job("talks", {"fails": fails}) for fails in (True, False)))
        await ledger.until({"failed": 1, "succeeded": 1})
        outputs = [[run["output"] for run in await ledger.runs(job_id)] for job_id in ids]
        assert outputs == [["on the way\n"], [None]]


async def test_any_job_can_be_waited_for(rig, ledger, taskyard):
    """ZS-04: by its id, from anywhere: its value, its error, or not yet; unknown is not pending."""

    async def wait(job_id: str, *options: str) -> tuple[int, str]:
        env = rig.env(TASKYARD_LEDGER_URL=ledger.url)
        program = taskyard("jobs", "wait", job_id, *options, env=env, cwd=rig.folder)
        return await program.wait_exit(within=30), program.output.strip()

    async with rig:
        await ledger.coordinator()
        good, bad, later = await rig.send(
            rig.job("test", {"message": "hello"}), rig.job("fail", {"reason": "no card"}), rig.job("ok", delay=600)
        )  # fmt: skip
        waiting = asyncio.create_task(wait(good))
        await rig.worker()
        assert await waiting == (0, '"hello"')
        code, said = await wait(bad)
        assert code == 1
        assert "failed (logical)" in said
        assert (await wait(later, "--timeout", "1s"))[0] == 124
        code, said = await wait("nosuch", "--timeout", "1s")
        assert code == 1
        assert "knows no job" in said


async def test_one_bad_intent_stops_neither_the_audit_nor_the_coordinator(rig, ledger):
    """An intent that no database can hold is left out, in words; all others are written."""
    async with rig:
        job = rig.job("ok", delay=600)
        for at_ms, job_id in ((1, "before"), (2**63, "odd"), (2, "after")):
            await rig.intend(cancel_record(job_id, by="me", at_ms=at_ms))
        coordinator = await ledger.coordinator()
        await coordinator.wait_line("left out of the audit", within=20)
        await rig.send(job)
        await ledger.until({"queued": 1})

        async def both() -> bool:
            found = await ledger.rows(select(audit.c.subject))
            return {row["subject"] for row in found} >= {"job:before", "job:after"}

        await eventually(both)
