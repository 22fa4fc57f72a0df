"""Rows that a failing disk or a foreign hand has changed, on SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from support import foreign
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.rig import QUEUE, Rig

NUMBER = 600
GOOD = 40
ENDS = ("succeeded", "failed", "cancelled")


def spoil(file: Path, random: Random) -> None:
    """Change every envelope, and some bodies."""
    with closing(sqlite3.connect(file)) as database, database:
        rows = database.execute("SELECT seq, envelope FROM taskyard_payloads").fetchall()
        for seq, blob in rows:
            database.execute(
                "UPDATE taskyard_payloads SET envelope = ? WHERE seq = ?",
                (foreign.stored(random, blob), seq),
            )
            if random.random() < 0.2:
                database.execute(
                    "UPDATE taskyard_payloads SET body = ? WHERE seq = ?",
                    (foreign.body(random), seq),
                )


def kept(file: Path) -> int:
    """Return how many jobs are on disk, waiting or parked."""
    with closing(sqlite3.connect(file)) as database:
        (waiting,) = database.execute(
            "SELECT COUNT(*) FROM taskyard_jobs WHERE state = 0"
        ).fetchone()
        (parked,) = database.execute("SELECT COUNT(*) FROM taskyard_parked").fetchone()
        return int(waiting + parked)


@pytest.mark.parametrize("seed", range(2))
async def test_spoilt_rows_are_accounted_for(taskyard, tmp_path: Path, seed: int) -> None:
    """Each is run, parked with a reason, or waits; the worker lives on and does the good ones."""
    file = tmp_path / "broker.db"
    target = BrokerUnderTest(url=f"sqlite:///{file}", kind="sqlite", version="")
    async with Rig(target, taskyard, tmp_path) as rig:
        await rig.send(*(rig.job("test", {"message": "kept"}) for _ in range(NUMBER)))
        spoil(file, Random(seed))
        await rig.send(*(rig.note(f"good {n}") for n in range(GOOD)))
        worker = await rig.worker("--concurrency", "20")

        async def accounted() -> bool:
            ended = sum([await rig.ended_as(worker, outcome) for outcome in ENDS])
            aside = kept(file)
            assert ended + aside == NUMBER + GOOD, (ended, aside)
            return True

        await eventually(accounted, within=30, every=0.2)
        assert len({run["line"] for run in rig.seen()}) == GOOD
        assert (await rig.probe(worker, "/readyz")).status_code == 200
        browsed = [job async for job in rig.broker.parked(QUEUE)]
        assert browsed
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        assert "Traceback" not in worker.output
