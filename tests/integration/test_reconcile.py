"""The ledger against the broker: lost jobs are noticed and, if asked, published again (issue 6, 9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select

from support.eventually import eventually
from support.ledger import ledger, ledger_url
from support.losses import Managed, purge, wipe
from support.process import Program
from support.rig import QUEUE, Rig
from taskyard.ledger import rebuilding
from taskyard.ledger.database import Database
from taskyard.ledger.evidence import NOTICED, REBUILT, recall
from taskyard.ledger.history import unpack
from taskyard.ledger.noticing import Noticer
from taskyard.ledger.rebuilding import Rebuilder, Tally
from taskyard.ledger.reconciling import LOCK, Reconciler
from taskyard.ledger.schema import audit
from taskyard.ledger.surveying import LedgerBehind, Surveyor
from taskyard.shared.broker import Held, Owner
from taskyard.shared.metrics import Metrics

__all__ = ["ledger", "ledger_url"]


ON_SQLITE = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
ON_POSTGRESQL = pytest.mark.parametrize(
    "ledger_url",
    [pytest.param("postgresql", marks=pytest.mark.postgresql)],
    indirect=True,
)

#: Each waits for the numbers of RabbitMQ's management API, which lag.
pytestmark = [pytest.mark.slow, pytest.mark.pairs]


@pytest.fixture
def rig(broker_url, taskyard, tmp_path):
    """A broker that records, with its management API."""
    return Managed(broker_url, taskyard, tmp_path, ledger=True)


@pytest.fixture
def reconcile(rig, taskyard, ledger_url):
    """Run `taskyard reconcile` on jobs of any age: its exit code and what it said."""

    async def run(*words: str, of: Rig = rig) -> tuple[int, dict[str, Any]]:
        env = of.env(TASKYARD_LEDGER_URL=ledger_url)
        command = ("reconcile", "--older-than", "0s", "--json", *words)
        program = taskyard(*command, env=env, cwd=of.folder)
        code = await program.wait_exit(within=60)
        assert code in (0, 1), program.output
        return code, json.loads(program.output[program.output.index("{\n") :])

    return run


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a ledger's database."""
    database = Database(url)
    try:
        yield database
    finally:
        await database.close()


def surveyor(rig: Rig, database: Database) -> Surveyor:
    """Return one that takes jobs of any age, and waits for nothing but the broker's own numbers."""
    gap_s = 0.0 if rig.target.kind == "sqlite" else 6.0
    return Surveyor(rig.broker, database, margin_s=0, gap_s=gap_s, patience_s=20)


async def counted(rig: Rig) -> None:
    """Wait until the broker tells the numbers of a queue that was just made."""

    async def told() -> bool:
        return (await rig.broker.stats([QUEUE]))[QUEUE].unsettled is not None

    await eventually(told, within=30, every=0.2)


async def stop(program: Program) -> None:
    """End a process in good order."""
    program.terminate()
    assert await program.wait_exit(within=30) == 0


def reconciler(rig: Rig, database: Database, surveyor: Surveyor, **options: Any) -> Reconciler:
    return Reconciler(
        broker=rig.broker,
        database=database,
        surveyor=surveyor,
        by="me@here",
        deadline_s=10,
        **options,
    )


async def test_a_purged_queue(rig, ledger, reconcile):
    """B-33: a queue is emptied by hand: that is told, and after a rebuild every job runs once."""
    async with rig:
        await ledger.coordinator()
        ids = await rig.send(*(rig.note(str(n)) for n in range(12)))
        await ledger.until({"queued": 12})
        await purge(rig.target, QUEUE)
        code, said = await reconcile()
        assert code == 1
        (found,) = said["queues"]
        assert (found["queue"], found["missing"], found["at_least"]) == (QUEUE, 12, 0)
        assert (await rig.broker.stats([QUEUE]))[QUEUE].ready == 0
        code, said = await reconcile("--rebuild")
        assert (code, said["rebuilt"]["done"], said["rebuilt"]["refused"]) == (0, 12, 0)
        await rig.worker()
        await ledger.until({"succeeded": 12})
        assert sorted(run["job"] for run in rig.seen()) == sorted(ids)
        rows = (await ledger.jobs()).values()
        assert {(row["attempt"], row["deliveries"], row["generation"]) for row in rows} == {
            (1, 1, 2)
        }
        assert await reconcile() == (0, {"queues": [], "rebuilt": None})


async def test_a_wiped_broker(rig, ledger, reconcile, broker_url, taskyard, tmp_path):
    """B-34: everything on the broker is lost; set up again, what waited runs, what was scheduled
    runs when it is due, and what was parked is in its lot again, with its error.
    """
    async with rig:
        coordinator = await ledger.coordinator()
        worker = await rig.worker()
        (held, exhausted, retried) = await rig.send(
            rig.job("hold"),
            rig.job("error"),
            rig.job("retry", {"in_seconds": 3600}),
        )
        await ledger.until({"parked": 2, "queued": 1})
        await ledger.when(retried, lambda row: row["attempt"] == 2)
        await stop(worker)
        waiting = await rig.send(*(rig.note("now") for _ in range(5)))
        due_ms = rig.broker.now_ms() + 20_000
        soon, late = await rig.send(rig.note("soon", delay=20.0), rig.note("late", delay=3600.0))
        await ledger.until({"parked": 2, "queued": 8})
        before = await ledger.jobs()
        await stop(coordinator)
    await wipe(broker_url)
    async with Managed(broker_url, taskyard, tmp_path, ledger=True) as again:
        await ledger.coordinator()
        code, said = await reconcile("--rebuild", of=again)
        (found,) = said["queues"]
        assert (code, found["missing"], found["parked"]) == (0, 8, 2), said
        assert said["rebuilt"] == {"done": 10, "refused": 0, "why": {}}
        lot = {parked.envelope.id: parked.envelope async for parked in again.broker.parked(QUEUE)}
        assert lot.keys() == {held, exhausted}
        parking = lot[exhausted].parking
        assert parking is not None
        assert parking.error is not None
        row = before[exhausted]
        assert (parking.reason, parking.at_ms) == ("exhausted", row["ended_ms"])
        assert (parking.error.type, parking.error.fingerprint) == (
            row["error_type"],
            row["fingerprint"],
        )
        await again.worker()
        runs = await again.noted(6, within=60)
        assert sorted(run["job"] for run in runs) == sorted([*waiting, soon])
        (ran_soon,) = again.seen(soon)
        assert ran_soon["started"] * 1000 >= due_ms
        rows = await ledger.jobs([late, retried])
        for job_id in (late, retried):
            assert rows[job_id]["state"] == "queued"
            assert rows[job_id]["due_ms"] == before[job_id]["due_ms"]
        assert rows[retried]["attempt"] == 2
        assert (await reconcile(of=again))[0] == 0


@ON_SQLITE
async def test_what_cannot_be_told_apart(rig, ledger, reconcile):
    """B-33: of a queue that is not empty the number is told, and nothing published without --force;
    then each job runs once, as workers give up the messages from before.
    """
    async with rig:
        await ledger.coordinator()
        lost = await rig.send(*(rig.note("lost") for _ in range(4)))
        await ledger.until({"queued": 4})
        await purge(rig.target, QUEUE)
        there = await rig.send(*(rig.note("there") for _ in range(2)))
        await ledger.until({"queued": 6})
        code, said = await reconcile("--rebuild")
        (found,) = said["queues"]
        assert (code, found["missing"], found["at_least"], found["doubtful"]) == (1, 0, 4, 6)
        assert said["rebuilt"]["done"] == 0
        code, said = await reconcile("--rebuild", "--force", "--queue", QUEUE)
        assert (code, said["rebuilt"]["done"]) == (0, 6)
        await rig.worker()
        await ledger.until({"succeeded": 6})
        await rig.emptied()
        assert sorted(run["job"] for run in rig.seen()) == sorted([*lost, *there])


@ON_POSTGRESQL
async def test_what_was_noticed_before(rig, ledger, reconcile):
    """B-33: what the coordinator saw of an empty queue is enough to rebuild it when it has filled
    again; it tells once, in a metric, the log and the audit.
    """
    async with rig, opened(ledger.url) as database:
        await ledger.coordinator()
        lost = await rig.send(*(rig.note("lost") for _ in range(5)))
        await ledger.until({"queued": 5})
        await counted(rig)
        await purge(rig.target, QUEUE)
        metrics = Metrics()
        noticer = Noticer(rig.broker, database, surveyor(rig, database), metrics)
        for _ in range(2):
            await noticer.round()
            assert f'taskyard_ledger_missing_jobs{{queue="{QUEUE}"}} 5' in metrics.expose().decode()
        (entry,) = await ledger.rows(select(audit).where(audit.c.action == NOTICED))
        assert entry["subject"] == f"queue:{QUEUE}"
        await rig.send(*(rig.note("new") for _ in range(3)))
        await ledger.until({"queued": 8})
        code, said = await reconcile("--rebuild")
        (found,) = said["queues"]
        assert (code, found["missing"], found["at_least"]) == (0, 5, 0)
        await rig.worker()
        await ledger.until({"succeeded": 8})
        assert sorted(r["job"] for r in rig.seen() if r["line"] == "lost") == sorted(lost)
        assert len(rig.seen()) == 8
        await noticer.round()
        assert f'taskyard_ledger_missing_jobs{{queue="{QUEUE}"}} 0' in metrics.expose().decode()


@ON_POSTGRESQL
async def test_a_rebuild_that_dies(rig, ledger, reconcile, monkeypatch):
    """B-33: killed between publish and commit, and run again: every job runs once."""

    class Dead(Exception):
        pass

    class DiesAfter:
        """The rig's broker, which confirms so many publishes, and then the process is gone."""

        left = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(rig.broker, name)

        async def publish(self, jobs: Sequence[Any], *, deadline_s: float) -> Any:
            receipts = await rig.broker.publish(jobs, deadline_s=deadline_s)
            self.left -= 1
            if not self.left:
                raise Dead
            return receipts

    monkeypatch.setattr(rebuilding, "PAGE", 3)
    async with rig, opened(ledger.url) as database:
        await ledger.coordinator()
        ids = await rig.send(*(rig.note() for _ in range(10)))
        await ledger.until({"queued": 10})
        await purge(rig.target, QUEUE)
        looks = surveyor(rig, database)
        drifts = await looks.survey([QUEUE])
        assert [drift.missing for drift in drifts] == [10]
        dying = reconciler(rig, database, looks)
        dying.broker = DiesAfter()
        with pytest.raises(Dead):
            await dying.rebuild(drifts, Tally())
        assert (await rig.broker.stats([QUEUE]))[QUEUE].ready == 6

        async def told() -> bool:
            rows = (await ledger.jobs()).values()
            return sum(row["generation"] == 2 for row in rows) == 6

        await eventually(told, within=20, every=0.1)
        code, said = await reconcile("--rebuild")
        assert (code, said["rebuilt"]["done"]) == (0, 4)
        await rig.worker()
        await ledger.until({"succeeded": 10})
        assert sorted(run["job"] for run in rig.seen()) == sorted(ids)
        entries = await ledger.rows(select(audit.c.result).where(audit.c.action == REBUILT))
        assert sorted(entry["result"] for entry in entries) == ["Dead", "done"]


@ON_POSTGRESQL
async def test_two_at_once(rig, ledger, taskyard):
    """B-33: of two that rebuild at once the second finds nothing missing; a command does not begin
    while another has the lock (75, naming who).
    """
    async with rig, opened(ledger.url) as database:
        await ledger.coordinator()
        await rig.send(*(rig.note() for _ in range(20)))
        await ledger.until({"queued": 20})
        await purge(rig.target, QUEUE)
        looks = surveyor(rig, database)
        (drift,) = await looks.survey([QUEUE])
        assert drift.missing == 20
        missing = looks.gone(drift.evidence)
        two = [
            Rebuilder(broker=rig.broker, database=database, by=by, deadline_s=10)
            for by in ("one", "other")
        ]
        await asyncio.gather(*(each.rebuild(missing) for each in two))
        assert sum(each.tally.done for each in two) == 20
        assert (await rig.broker.stats([QUEUE]))[QUEUE].ready == 20
        owner = Owner(host="far", pid=7, since_ms=rig.broker.now_ms())
        lease = await rig.broker.lock(LOCK, owner)
        assert not isinstance(lease, Held)
        program = taskyard("reconcile", "--rebuild", env=rig.env(TASKYARD_LEDGER_URL=ledger.url))
        assert await program.wait_exit(within=30) == 75, program.output
        await lease.release()


@ON_SQLITE
async def test_a_ledger_that_is_behind(rig, ledger):
    """B-33: while the feed waits, nobody knows what has run, and nothing is told to be missing."""
    async with rig, opened(ledger.url) as database:
        coordinator = await ledger.coordinator()
        await rig.send(*(rig.note() for _ in range(3)))
        await ledger.until({"queued": 3})
        await stop(coordinator)
        await rig.worker()
        await rig.noted(3)
        await rig.emptied()
        looks = surveyor(rig, database)
        looks.patience_s = 0.5
        with pytest.raises(LedgerBehind, match="not in the ledger yet"):
            await looks.survey([QUEUE])
        await ledger.coordinator()
        await ledger.until({"succeeded": 3})
        assert await looks.suspects() == []


@ON_SQLITE
async def test_what_is_scheduled_and_what_runs(rig, ledger, reconcile):
    """B-33: jobs that run or are due later are not missing; nor is anything while jobs flow."""
    async with rig:
        await ledger.coordinator()
        await rig.worker("--concurrency", "2")
        (later,) = await rig.send(rig.note("later", delay=3600.0))
        await rig.send(rig.job("sleep", {"seconds": 12}), rig.job("hold"))
        await ledger.until({"queued": 1, "running": 1, "parked": 1})
        code, said = await reconcile()
        assert (code, [q["missing"] for q in said["queues"]]) == (0, [0]), said
        assert said["queues"][0]["parked"] == 0
        assert (await ledger.jobs([later]))[later]["generation"] == 1


@ON_SQLITE
async def test_a_job_published_twice(rig, ledger):
    """B-33: two publishes of one attempt are one job in the ledger, with a run for each."""
    async with rig:
        await ledger.coordinator()
        (job_id,) = await rig.send(rig.note())
        row = await ledger.when(job_id, lambda row: row["envelope"] and row)
        await rig.broker.publish([unpack(row["envelope"])], deadline_s=10)
        await rig.worker()
        await rig.noted(2)

        async def both() -> bool:
            return [run["outcome"] for run in await ledger.runs(job_id)] == ["succeeded"] * 2

        await eventually(both, within=20, every=0.1)
        assert (await ledger.jobs()).keys() == {job_id}
        assert await ledger.states() == {"succeeded": 1}


@ON_SQLITE
async def test_evidence_that_proves_nothing_is_not_recalled(ledger_url, ledger, rig):
    """What is remembered of other queues, or cannot be read, is passed over."""
    async with rig, opened(ledger_url) as database:
        await ledger.coordinator()
        async with database.begin() as connection:
            for details in ('{"seen_ms": 5, "empty": false, "undelayed": true}', "nonsense", None):
                await connection.execute(
                    audit.insert().values(
                        at_ms=1, by="x", action=NOTICED, subject=f"queue:{QUEUE}", details=details
                    )
                )
            assert await recall(connection, [QUEUE]) == {}
