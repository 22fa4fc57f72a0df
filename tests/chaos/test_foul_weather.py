"""Processes stand still, networks fall silent, the broker goes and comes: nothing is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.schedule import schedule
from support.siege import Siege
from support.strikes import (
    BROKER_RESTARTED,
    CONNECTIONS_CLOSED,
    HALF_OPEN,
    HEARTBEAT_S,
    MEMORY_ALARM,
    SENDER_FROZEN,
    STALLED,
    WORKER_FROZEN,
)


@pytest.mark.in_full
@pytest.mark.breaks_broker
async def test_nothing_is_lost_in_foul_weather(
    size: Size, seed: int, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """Promises 1, 2 and 7: what is cut off without dying loses no job and charges none; a job runs
    a second time only where its process or connection was cut off with it in flight, and says so.
    """
    jobs, lasting_s, longest_s = size.of((1_500, 12.0, 3.0), (60_000, 300.0, 15.0))
    strikes = dict.fromkeys((WORKER_FROZEN, SENDER_FROZEN), size.of(1, 6))
    strikes |= dict.fromkeys((CONNECTIONS_CLOSED, HALF_OPEN, STALLED), size.of(1, 4))
    strikes |= dict.fromkeys((BROKER_RESTARTED, MEMORY_ALARM), size.of(1, 3))
    env = {"TASKYARD_HEARTBEAT": str(HEARTBEAT_S)}
    async with Siege(broker_url, taskyard, tmp_path, workers=size.of(2, 4), env=env) as siege:
        await siege.send(jobs, per_second=jobs / lasting_s)
        await siege.strike(schedule(seed, strikes, lasting_s=lasting_s, longest_s=longest_s))
        found = await siege.account(within=size.of(60, 600))
    print(found)
    assert not found.missing
    assert not found.unsent
    assert not found.parked
    assert not found.unexplained
    assert not found.unmarked
    assert not found.charged
    assert len(found.once) + len(found.more) == jobs
    if broker_url.kind == "rabbitmq":
        assert Counter(fault.kind for fault in siege.faults) == strikes
