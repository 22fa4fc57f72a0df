"""A coordinator that was away while workers ran at full speed: they did not need it, and it catches up."""

from __future__ import annotations

import time

import pytest

from support.eventually import eventually
from support.ledger import Ledger
from support.rig import Rig

pytestmark = [pytest.mark.system, pytest.mark.slow]

NUMBER = 100_000
#: Issue 6: at least so many jobs a second.
PER_SECOND = 5_000


@pytest.mark.timeout(600)
async def test_a_hundred_thousand_jobs_later(broker_url, taskyard, tmp_path, postgres_url):
    """Issue 6: nothing is missing from anybody's history, and 100 000 jobs take less than 20 s."""
    rig = Rig(broker_url, taskyard, tmp_path, ledger=True)
    ledger = Ledger(rig, taskyard, postgres_url)
    async with rig:
        first = await ledger.coordinator()  # makes the tables
        first.terminate()
        assert await first.wait_exit(within=20) == 0
        worker = await rig.worker("--concurrency", "200")
        began_s = time.monotonic()
        ids = await rig.send(*(rig.job("noop", {"n": n}) for n in range(NUMBER)))
        await rig.emptied(within=200)
        print(f"{NUMBER / (time.monotonic() - began_s):,.0f} jobs/s sent and run")
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0

        await ledger.coordinator()
        began_s = time.monotonic()

        async def all_there() -> bool:
            assert await ledger.states() == {"succeeded": NUMBER}
            return True

        await eventually(all_there, within=NUMBER / PER_SECOND, every=0.25)
        print(f"{NUMBER / (time.monotonic() - began_s):,.0f} jobs/s written")
        rows = await ledger.jobs()
        assert rows.keys() == set(ids)
        assert all(
            row["started_ms"] and row["ended_ms"] and row["envelope"] for row in rows.values()
        )
