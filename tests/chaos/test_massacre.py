"""Workers, senders, connections and the broker are killed all the time: nothing is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.accounting import BROKER_KILLED
from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.numbered import BATCH
from support.schedule import schedule
from support.siege import Siege
from support.strikes import CONNECTIONS_CUT, SENDER_KILLED, WORKER_KILLED


@pytest.mark.breaks_broker
async def test_nothing_is_lost_in_a_massacre(
    size: Size, seed: int, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """Promises 1 and 2: each confirmed job is done; it runs a second time only where its process or
    its connection died with it in flight, and says so; none is taken for poison.
    """
    jobs, lasting_s = size.of((2_000, 8.0), (200_000, 320.0))
    strikes = {
        WORKER_KILLED: size.of(4, 110),
        SENDER_KILLED: size.of(1, 8),
        CONNECTIONS_CUT: size.of(2, 10),
        BROKER_KILLED: size.of(1, 3),
    }
    async with Siege(broker_url, taskyard, tmp_path, workers=size.of(2, 4)) as siege:
        await siege.send(jobs, per_second=jobs / lasting_s)
        await siege.strike(schedule(seed, strikes, lasting_s=lasting_s))
        found = await siege.account(within=size.of(60, 600))
    print(found)
    assert not found.missing
    assert not found.parked
    assert not found.unexplained
    assert not found.unmarked
    assert not found.charged
    assert len(found.once) + len(found.more) + len(found.unsent) == jobs
    assert len(found.unsent) <= strikes[SENDER_KILLED] * BATCH
    struck = Counter(fault.kind for fault in siege.faults)
    assert struck[WORKER_KILLED] == strikes[WORKER_KILLED]
    if broker_url.kind == "rabbitmq":
        assert struck == strikes
