"""How much of one `send_many` is under way at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from support.eventually import eventually
from taskyard.producer import AsyncProducer
from taskyard.producer.bulk import WINDOW
from taskyard.shared import Job
from taskyard.shared.broker import PublishStatus, Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.envelope import Envelope


class SlowBroker:
    """Confirms nothing before the test says so."""

    connected, blocked = True, False

    async def draining(self, *, deadline_s: float) -> None:
        del deadline_s

    def __init__(self) -> None:
        self.calls: list[Sequence[Envelope]] = []
        self.confirming = asyncio.Event()

    def now_ms(self) -> int:
        return 1

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        del deadline_s
        self.calls.append(jobs)
        await self.confirming.wait()
        return [Receipt(status=PublishStatus.CONFIRMED, message_id=job.id) for job in jobs]


async def test_all_that_is_under_way_can_be_confirmed_in_time() -> None:
    """Each call has its deadline from its start on, and shares the line with all others."""
    broker: Any = SlowBroker()
    producer = AsyncProducer(broker=broker)
    large = {"data": "x" * 64 * 1024}
    jobs = (Job[Any](queue="q", task="q.t", args=large) for _ in range(100))
    sending = asyncio.create_task(producer.send_many(jobs))
    await eventually(lambda: len(broker.calls) == WINDOW)
    under_way = [job for call in broker.calls for job in call]
    assert sum(len(job.body) for job in under_way) <= 5 * 1024 * 1024
    broker.confirming.set()
    assert len(await sending) == 100
