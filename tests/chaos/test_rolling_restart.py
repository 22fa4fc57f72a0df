"""All workers are stopped and started again in good order, one after another, under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.siege import Siege


@pytest.mark.on_cluster
async def test_a_rolling_restart_costs_nothing(
    size: Size, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """B-13, pain 19: no job is lost, charged, parked, or run a second time, and each worker ends
    with 0.
    """
    jobs, per_second, workers = size.of((10_000, 200.0, 2), (20_000, 250.0, 4))
    rolls = 0
    async with Siege(broker_url, taskyard, tmp_path, workers=workers) as siege:
        await siege.send(jobs, per_second=per_second)
        while rolls < 1 or (size.full and siege.sending):
            await siege.roll()
            rolls += 1
        siege.enough()
        codes = list(siege.workers.codes)
        found = await siege.account(within=60)
    print(found, f"restarts {len(codes)}", sep="\n")
    assert codes == [0] * workers * rolls
    assert not found.missing
    assert not found.more
    assert not found.parked
    assert not found.charged
    assert len(found.once) >= size.of(100, jobs)
