"""Cancels and changes that race against starts: what happened is one of the three, and is what was said."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from support.eventually import eventually
from support.ledger import ledger, ledger_url, rig
from taskyard.broker_setup.asking import Asking
from taskyard.broker_setup.intents import cancel_records
from taskyard.ledger.asking import ask, plan as plan_changes
from taskyard.ledger.database import Database
from taskyard.ledger.history import unpack
from taskyard.shared.changes import Answer, Change

__all__ = ["ledger", "ledger_url", "rig"]

NUMBER = 100
#: Between the due times of two jobs, in seconds; and how far off the requests are at most.
GAP_S, OFF_S = 0.05, 0.15
TASKS = "support.race_tasks"
TESTS = str(Path(__file__).parents[1])


@pytest.mark.slow
@pytest.mark.system
async def test_a_hundred_cancels_and_changes_race_against_starts(rig, ledger):
    """Issue 6: each job ran once as it was, or never, or once as changed, and the answer matches."""
    rng = random.Random(20261128)
    async with rig:
        await ledger.coordinator()
        for _ in range(2):
            await rig.worker("--concurrency", "5", module=TASKS, env={"PYTHONPATH": TESTS})
        # The first are due when all are sent and known.
        jobs = [
            rig.job(
                "noted",
                {"path": str(rig.notes), "line": "as it was", "seconds": rng.choice((0, 0.05, 1))},
                delay=6 + n * GAP_S,
            )
            for n in range(NUMBER)
        ]
        ids = await rig.send(*jobs)
        began_ms = rig.broker.now_ms()
        await ledger.until({"queued": NUMBER})
        assert rig.broker.now_ms() < began_ms + 5000, "the machine is too slow for this race"
        database = Database(ledger.url)
        answers = await asyncio.gather(
            *(
                _request(rig.broker, database, job, n, began_ms + (6 + n * GAP_S) * 1000, rng)
                for n, job in enumerate(ids)
            )
        )
        await database.close()

        async def over() -> bool:
            states = await ledger.states()
            assert states.keys() <= {"succeeded", "cancelled"}
            assert sum(states.values()) == NUMBER
            return True

        await eventually(over, within=30, every=0.2)
        await rig.emptied()
        runs: dict[str, list[str]] = {job: [] for job in ids}
        for run in rig.seen():
            runs[run["job"]].append(run["line"])
        rows = await ledger.jobs()
        seen: Counter[tuple[str, ...]] = Counter()
        for job, (what, answer) in zip(ids, answers, strict=True):
            assert len(runs[job]) <= 1, (job, what, runs[job], answer)
            if what == "cancel" and answer.text.startswith("cancelled before"):
                expected, state = [], "cancelled"
            elif what == "change" and answer.done:
                expected, state = ["changed"], "succeeded"
            else:
                expected, state = ["as it was"], "succeeded"
            assert runs[job] == expected, (job, what, answer)
            assert rows[job]["state"] == state, (job, what, answer)
            seen[what, *expected] += 1
        # It was a race: of both kinds some came in time, and some too late.
        assert len(seen) == 4, seen


async def _request(broker, database, job, number, due_ms, rng):
    """Ask for a cancel or a change around the instant at which a job starts; return the answer."""
    at_ms = due_ms + rng.uniform(-OFF_S, OFF_S) * 1000
    await asyncio.sleep((at_ms - broker.now_ms()) / 1000)
    asking = Asking()
    if number % 2:
        await asking.ask(
            broker, lambda _: cancel_records(broker, [job], by="me", abort=False), wait_s=30
        )
        return "cancel", asking.answers[job]

    def changed(row):
        arguments = {**json.loads(unpack(row["envelope"]).body), "line": "changed"}
        return Change(arguments=arguments)

    asked, refused = await plan_changes(broker, database, [job], changed, by="me")
    if refused:
        return "change", Answer(of="", done=False, text=refused[job])
    await ask(broker, asking, asked, by="me", wait_s=30)
    return "change", asking.answers[job]
