"""Workers, senders, connections and the broker are killed all the time: nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.accounting import BROKER_KILLED
from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.numbered import BATCH
from support.schedule import schedule
from support.siege import Siege
from support.strikes import (
    CONNECTIONS_CLOSED,
    CONNECTIONS_CUT,
    LEADER_KILLED,
    SENDER_KILLED,
    WORKER_KILLED,
)

#: How long at most a killed node of a cluster is away, in seconds.
DOWN_S = 16.0


@pytest.mark.breaks_broker
async def test_nothing_is_lost_in_a_massacre(
    size: Size, seed: int, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """Promises 1 and 2: each confirmed job is done; it runs a second time only where its process or
    its connection died with it in flight, and says so; none is taken for poison.
    """
    strikes = {
        WORKER_KILLED: size.of(4, 110),
        SENDER_KILLED: size.of(1, 8),
        CONNECTIONS_CUT: size.of(2, 10),
        BROKER_KILLED: size.of(1, 3),
    }
    async with Siege(broker_url, taskyard, tmp_path, workers=size.of(2, 4)) as siege:
        struck = await massacre(siege, strikes, size, seed)
    assert struck[WORKER_KILLED] == strikes[WORKER_KILLED]
    if broker_url.kind == "rabbitmq":
        assert struck == strikes


@pytest.mark.in_full
async def test_nothing_is_lost_in_a_massacre_on_a_cluster(
    size: Size, seed: int, cluster_broker: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """The same on three nodes, of which the one that leads the queue is killed."""
    strikes = {
        WORKER_KILLED: size.of(4, 110),
        SENDER_KILLED: size.of(1, 8),
        CONNECTIONS_CLOSED: size.of(2, 10),
        LEADER_KILLED: size.of(1, 3),
    }
    async with Siege(cluster_broker, taskyard, tmp_path, workers=size.of(2, 4)) as siege:
        assert await massacre(siege, strikes, size, seed) == strikes


async def massacre(siege: Siege, strikes: Mapping[str, int], size: Size, seed: int) -> Counter[str]:
    """Strike under load, account for each job, and return how often what has struck."""
    jobs, lasting_s = size.of((2_000, 8.0), (200_000, 320.0))
    await siege.send(jobs, per_second=jobs / lasting_s)
    await siege.strike(schedule(seed, strikes, lasting_s=lasting_s, longest_s=DOWN_S))
    found = await siege.account(within=size.of(60, 600))
    print(found)
    assert not found.missing
    assert not found.parked
    assert not found.unexplained
    assert not found.unmarked
    assert not found.charged
    assert len(found.once) + len(found.more) + len(found.unsent) == jobs
    assert len(found.unsent) <= strikes[SENDER_KILLED] * BATCH
    return Counter(fault.kind for fault in siege.faults)
