"""The control log on a real RabbitMQ stream: nothing missed, quickly read, honestly lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.amqp_site import Site, on_disk
from support.eventually import eventually
from support.rabbitmq import Server
from taskyard.shared.adapters.amqp.survey import Questions
from taskyard.shared.control import ControlRecord, ControlUnavailable, cancel_record
from taskyard.shared.topology import QueueObject, arguments

pytestmark = pytest.mark.rabbitmq


def cancels(prefix: str, count: int) -> list[ControlRecord]:
    return [
        cancel_record(f"{prefix}-{n:032}", by="someone@somewhere", at_ms=n) for n in range(count)
    ]


async def replay(broker, after: int | None = None) -> tuple[list[ControlRecord], int]:
    """Return what is read until it has caught up, and the position."""
    records: list[ControlRecord] = []
    async for batch in broker.follow_control(after):
        records += batch.records
        if batch.caught_up:
            return records, batch.position
    raise AssertionError("the log ended")


@pytest.mark.system
@pytest.mark.slow
async def test_a_hundred_thousand_records_are_read_in_seconds(amqp_url: str) -> None:
    """A worker that starts with 100 000 bulk records has read them in well under 5 s."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        written = cancels("bulk", 100_000)
        await broker.append_control(written, deadline_s=30)
        reader = await site.open()
        began = time.monotonic()
        records, _ = await replay(reader)
        assert time.monotonic() - began < 5
        assert records[1:] == written


async def test_changes_of_many_long_arguments_are_written(amqp_url: str) -> None:
    """Together they are more than RabbitMQ takes in one message (16 MiB from 4.0 on)."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        body: dict[str, object] = {"arguments": "x" * 200_000}
        written = [ControlRecord(key=f"job:{n}:change", op="change", body=body) for n in range(100)]
        await broker.append_control(written, deadline_s=30)
        records, _ = await replay(await site.open())
        assert records[1:] == written


async def test_none_of_those_written_meanwhile_is_missed(amqp_url: str) -> None:
    """Whatever was confirmed before following began is there once it says that it caught up."""
    async with Site(amqp_url) as site:
        writer = await site.set_up("default")
        confirmed: list[str] = []
        done = asyncio.Event()

        async def write() -> None:
            for record in cancels("late", 1000):
                await writer.append_control([record], deadline_s=20)
                confirmed.append(record.key)
            done.set()

        writing = asyncio.create_task(write())
        rounds = 0
        while not done.is_set():
            reader = await site.open()
            for _ in range(10):
                before = list(confirmed)
                records, _ = await replay(reader)
                keys = [record.key for record in records[1:]]
                assert keys[: len(before)] == before
                rounds += 1
            await reader.close()
        await writing
        assert [record.key for record in (await replay(writer))[0][1:]] == confirmed
        assert rounds > 5


async def test_following_goes_on_behind_a_position(amqp_url: str) -> None:
    """A position leads on behind what was read, also when nothing new is there."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        await broker.append_control(cancels("one", 600), deadline_s=20)
        _, position = await replay(broker)
        assert await replay(broker, position) == ([], position)
        await broker.append_control(cancels("two", 3), deadline_s=20)
        records, later = await replay(broker, position)
        assert records == cancels("two", 3)
        assert later > position


async def test_an_empty_log_gets_its_first_record(amqp_url: str) -> None:
    """`apply` after one that was interrupted before the first record writes it."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        actions = await site.plan(broker, "default")
        async with Questions(await broker.core.reader()) as questions:
            for action in actions:
                if isinstance(action.entity, QueueObject) and action.entity.name.endswith(
                    "control"
                ):
                    await questions.declare(action.entity)
        log = ("queue", "taskyard.control")
        await broker.apply([a for a in actions if a.entity.key != log])
        await broker.apply(await site.plan(broker, "default"))
        await broker.apply(await site.plan(broker, "default"))
        records, _ = await replay(broker)
        assert [record.op for record in records] == ["genesis"]


async def test_without_a_log_it_says_so(amqp_url: str, rabbitmq_node: Server) -> None:
    """A log that was never made, or deleted under its reader, is unavailable, in words."""
    async with Site(amqp_url) as site:
        bare = await site.open()
        with pytest.raises(ControlUnavailable, match="broker apply"):
            await replay(bare)
        broker = await site.set_up("default")
        ended: list[str] = []

        async def follow() -> None:
            try:
                async for _ in broker.follow_control():
                    pass
            except ControlUnavailable as error:
                ended.append(str(error))

        following = asyncio.create_task(follow())
        await replay(broker)
        rabbitmq_node.blocking.delete_queue(amqp_url, "taskyard.control")
        async with asyncio.timeout(20):
            await following
        assert ended
        with pytest.raises(ControlUnavailable, match="broker apply"):
            await broker.append_control(cancels("lost", 1), deadline_s=10)


async def test_a_log_made_anew_is_read_from_its_start(amqp_url: str, rabbitmq_node: Server) -> None:
    """A position of a log that was deleted means nothing in the next one."""
    async with Site(amqp_url) as site:
        broker = await site.set_up("default")
        for _ in range(30):
            await broker.append_control(cancels("old", 1), deadline_s=20)
        _, position = await replay(broker)
        rabbitmq_node.blocking.delete_queue(amqp_url, "taskyard.control")
        broker = await site.set_up("default")
        await broker.append_control(cancels("new", 2), deadline_s=20)
        records, _ = await replay(broker, position)
        assert [record.op for record in records] == ["genesis", "cancel", "cancel"]


async def test_what_retention_forgot_is_passed_over(amqp_url: str) -> None:
    """A position that the log no longer holds goes on with the oldest record left."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        small = arguments(
            {
                "x-queue-type": "stream",
                "x-max-length-bytes": 100_000,
                "x-stream-max-segment-size-bytes": 50_000,
            }
        )
        log = ("queue", "taskyard.control")
        actions = [a for a in await site.plan(broker, "default") if a.entity.key != log]
        async with Questions(await broker.core.reader()) as questions:
            await questions.declare(QueueObject("taskyard.control", arguments=small))
        await broker.apply(actions)
        for n in range(100):
            await broker.append_control(cancels(f"batch-{n}", 200), deadline_s=20)
        records, _ = await replay(broker, 0)
        assert records[-1].key == cancels("batch-99", 200)[-1].key
        assert len(records) < 100 * 200


async def test_a_lost_connection_is_said_and_following_again_works(
    private_amqp_url: str, private_node
) -> None:
    """`kill -9` of RabbitMQ ends the follower in words; afterwards it goes on behind its position."""
    async with Site(private_amqp_url) as site:
        broker = await site.set_up("default")
        await broker.append_control(cancels("before", 5), deadline_s=20)
        positions: list[int] = []

        async def follow() -> None:
            async for batch in broker.follow_control():
                positions.append(batch.position)  # noqa: PERF401  # seen while it goes on

        following = asyncio.create_task(follow())
        await eventually(lambda: positions, hint="the log followed")
        await on_disk(private_node.blocking)
        await private_node.kill_and_start()
        with pytest.raises(ControlUnavailable):
            async with asyncio.timeout(30):
                await following

        async def again() -> bool:
            await broker.append_control(cancels("after", 1), deadline_s=5)
            records, _ = await replay(broker, positions[-1])
            return records[-1] == cancels("after", 1)[0]

        await eventually(again, within=60, hint="the log followed again")
