"""Parking lots on a real RabbitMQ: looked at and emptied by many, by the killed among others."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec
import pytest

from support.amqp_site import DEADLINE_S, Site, browse, jobs, on_disk, park, publish, start
from support.eventually import eventually
from taskyard.shared.broker import Selection, Settlement, SettleStatus
from taskyard.shared.errors import TaskyardError

pytestmark = pytest.mark.rabbitmq


ALL = Selection()


async def release(broker, queue: str, select: Selection = ALL) -> list[str]:
    """Send selected jobs back and return their ids in order."""
    gone: list[str] = []
    async with aclosing(broker.take_parked(queue, select)) as batches:
        async for batch in batches:
            settlements = [
                Settlement(
                    delivery=delivery,
                    copies=(
                        msgspec.structs.replace(
                            delivery.envelope, attempt=delivery.envelope.attempt + 1, parking=None
                        ),
                    ),
                )
                for delivery in batch
            ]
            statuses = await broker.settle(settlements, deadline_s=DEADLINE_S)
            assert set(statuses) == {SettleStatus.SETTLED}
            gone += [delivery.envelope.id for delivery in batch]
    return gone


async def contents(broker, queue: str) -> list[tuple[str, int, bytes, str]]:
    return [
        (job.envelope.id, job.envelope.priority, job.envelope.body, job.envelope.parking.reason)
        async for job in broker.parked(queue)
    ]


async def test_thirty_browses_and_thirty_deaths_leave_no_trace(
    amqp_url: str, tmp_path: Path
) -> None:
    """Order, number and content stay, past any default delivery limit (BS-11, LQ-15)."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        parked = await park(broker, "default", 40)
        before = await contents(broker, "default")
        assert [each[0] for each in before] == parked
        assert {priority for _, priority, _, _ in before} == set(range(10))
        for _ in range(30):
            assert await browse(broker, "default") == parked
        for _ in range(30):
            victim = await site.open()
            looking = victim.parked("default")
            await anext(looking)
            await victim.crash()
            with suppress(TaskyardError):
                async for _ in looking:
                    pass
        for number in range(3):
            log = tmp_path / f"victim-{number}.log"
            with start(log, "browse", amqp_url, "default", "7") as process:
                await process.wait_line("seen", within=20)
                process.kill()
                await process.wait_exit()

        async def unchanged() -> bool:
            return await contents(broker, "default") == before

        await eventually(unchanged, within=20, hint="all as before")


async def test_a_lot_larger_than_one_consumer_may_hold(amqp_url: str) -> None:
    """RabbitMQ gives a consumer at most 2 000 jobs of a quorum queue; a longer lot is whole too."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        parked = await park(broker, "default", 4500)
        assert await browse(broker, "default") == parked
        first = await release(broker, "default", Selection(limit=3))
        assert first == parked[:3]
        async with aclosing(broker.parked("default")) as looking:
            assert (await anext(looking)).envelope.id == parked[3]
        assert await browse(broker, "default") == parked[3:]


async def test_two_who_look_at_once_both_see_all(amqp_url: str) -> None:
    """Readers of one lot take turns, in one process and in several."""
    async with Site(amqp_url) as site:
        one = await site.set_up("default")
        two = await site.open()
        parked = await park(one, "default", 20)
        seen = await asyncio.gather(*(browse(each, "default") for each in (one, one, two)))
        assert seen == [parked] * 3


async def test_a_release_that_was_killed_loses_nothing(amqp_url: str, tmp_path: Path) -> None:
    """SIGKILL in the middle: released jobs are in their queue, the others parked, in order."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        parked = await park(broker, "default", 30)
        with start(tmp_path / "victim.log", "release", amqp_url, "default", "11") as process:
            await process.wait_line("released", within=20)
            process.kill()
            await process.wait_exit()

        async def rest() -> bool:
            return await browse(broker, "default") == parked[11:]

        await eventually(rest, within=20, hint="the rest, in order")
        assert (await broker.stats(["default"]))["default"].ready == 11
        assert await release(broker, "default") == parked[11:]


async def test_what_is_parked_again_meanwhile_is_not_met_twice(amqp_url: str) -> None:
    """A release of all ends, though each released job is parked again at once (BS-07)."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        parked = await park(broker, "default", 25)
        met: list[str] = []
        async for batch in broker.take_parked("default", Selection()):
            settlements = [Settlement(delivery=d, park=d.envelope) for d in batch]
            statuses = await broker.settle(settlements, deadline_s=DEADLINE_S)
            assert set(statuses) == {SettleStatus.SETTLED}
            met += [delivery.envelope.id for delivery in batch]
        assert met == parked
        assert await browse(broker, "default") == parked


async def test_what_the_broker_parks_has_no_parking(amqp_url: str) -> None:
    """A job past the broker's own delivery limit is in the lot, readable, without `ty-park-*`."""
    async with Site(amqp_url, kind="quorum") as site:
        broker = await site.set_up("default")
        (poison,) = jobs("default", 1, priority=7)
        await publish(broker, [poison])
        channel = await (await broker.core.reader()).channel()

        def reject(message) -> None:
            channel.raw.basic_reject(message.tag, requeue=True)

        await channel.consume("taskyard.q.default", reject)

        async def lot() -> bool:
            return (await broker.stats(["default"]))["default"].parked == 1

        await eventually(lot, within=20, hint="parked by the broker")
        await channel.close()
        (found,) = [job async for job in broker.parked("default")]
        assert found.envelope.parking is None
        assert (found.envelope.id, found.envelope.body) == (poison.id, poison.body)
        assert await release(broker, "default", Selection(reason="poison")) == [poison.id]
        assert (await broker.stats(["default"]))["default"].ready == 1


async def test_a_lot_survives_the_broker(private_amqp_url: str, private_node) -> None:
    """Parked jobs and their order survive `kill -9` of RabbitMQ (promise 1)."""
    async with Site(private_amqp_url) as site:
        broker = await site.set_up("default")
        parked = await park(broker, "default", 50)
        looking = broker.parked("default")
        await anext(looking)
        await on_disk(private_node.blocking)
        await private_node.kill_and_start()
        with suppress(TaskyardError):
            async for _ in looking:
                pass

        async def again() -> bool:
            return await browse(broker, "default") == parked

        await eventually(again, within=60, hint="the lot as it was")


async def test_what_is_released_is_gone_even_where_other_jobs_stay(amqp_url: str) -> None:
    """Hundreds of acks that cannot be one reach the queue before their channel closes.

    A quorum queue's channel keeps acks beyond the 32nd for later, and loses them when it ends.
    """
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        stays = await park(broker, "default", 1)
        parked = await park(broker, "default", 300)
        for start_at in (0, 100, 200):
            chosen = parked[start_at : start_at + 100]
            assert await release(broker, "default", Selection(ids=frozenset(chosen))) == chosen
            assert await browse(broker, "default") == stays + parked[start_at + 100 :]
