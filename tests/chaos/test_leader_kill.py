"""The node that leads the queue is killed every 30 s: the others go on, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import median

from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.recovery import recoveries, table
from support.schedule import Strike
from support.siege import Siege
from support.strikes import LEADER_KILLED

MEDIAN_S, WORST_S = 10.0, 30.0


async def test_nothing_is_lost_with_the_leader(
    size: Size, seed: int, cluster_broker: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """Promise 1: each confirmed job survives the death of a minority; the workers consume again
    from those that are left, in ≤ 10 s for the most part and ≤ 30 s at worst.
    """
    kills, every_s, per_second = size.of((2, 20.0, 60), (10, 30.0, 150))
    least_s, most_s = size.of((8.0, 10.0), (12.0, 16.0))
    jobs = round(kills * every_s * per_second)
    random = Random(seed)
    strikes = [
        Strike(place * every_s + 4.0, LEADER_KILLED, 0, random.uniform(least_s, most_s))
        for place in range(kills)
    ]
    cluster = cluster_broker.cluster
    assert cluster is not None
    async with Siege(cluster_broker, taskyard, tmp_path, workers=size.of(2, 3)) as siege:
        before = len(cluster.kills)
        await siege.send(jobs, per_second=per_second)
        await siege.strike(strikes)
        found = await siege.account(within=size.of(60, 300))
        workers = {program.pid for program in siege.workers.members.values()}
    print(found)
    again = recoveries(siege.books, cluster.kills[before:], workers)
    print(table(again))
    assert not found.missing
    assert not found.parked
    assert not found.unexplained
    assert not found.unmarked
    assert not found.charged
    assert len(found.once) + len(found.more) == jobs
    assert len(again) == kills
    assert median(one.first_s for one in again) <= MEDIAN_S
    assert max(one.last_s for one in again) <= WORST_S
    # Not by the return of the dead: each worker goes on with those that are left.
    assert all(one.last_s < strike.for_s for one, strike in zip(again, strikes, strict=True))
