"""A worker on a memory broker inside the test: quick, and everything about it can be looked at."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from taskyard.shared import Job, Queue
from taskyard.shared.adapters.memory import MemoryBroker, MemoryState
from taskyard.shared.broker import FeedConsumer, ParkedJob, PublishStatus, QueueSpec, SetupSpec
from taskyard.shared.control import ControlRecord
from taskyard.shared.envelope import Envelope, Parking
from taskyard.shared.feed import FeedRecord
from taskyard.shared.settings import Settings
from taskyard.shared.topology import plan
from taskyard.workers.worker import Worker, WorkerOptions


class Workbench:
    """`async with Workbench(queue, …) as bench:` has the queues set up; workers are started on it."""

    def __init__(self, *queues: Queue[Any], folder: Path, recording: bool = True) -> None:
        self.queues = queues
        self.folder = folder
        self.state = MemoryState()
        self.broker = MemoryBroker(self.state)
        self._recording = recording
        self._told: list[FeedRecord] = []
        self._listening: asyncio.Task[None] | None = None
        #: The broker handle of each worker: it can crash, and lose its connection.
        self.handles: dict[Worker, MemoryBroker] = {}
        self._running: list[tuple[Worker, asyncio.Task[None]]] = []

    async def __aenter__(self) -> Self:
        await self.broker.open()
        spec = SetupSpec(
            queues=tuple(QueueSpec(name=queue.name) for queue in self.queues),
            ledger=self._recording,
        )
        observed = await self.broker.observe(spec)
        await self.broker.apply(plan(self.broker.desired(spec, observed), observed))
        if self._recording:
            feed = await self.broker.feed(credit=1000)
            self._listening = asyncio.create_task(self._listen(feed))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.state.fault = None
        self.state.unblock()
        for worker, task in self._running:
            worker.hurry()
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)
        await self.broker.close()
        if self._listening is not None:
            await self._listening

    async def worker(
        self, *queues: Queue[Any], broker: MemoryBroker | None = None, **options: Any
    ) -> Worker:
        """Start a worker of some queues (all, unless named) with a broker handle of its own."""
        own = broker or MemoryBroker(self.state)
        await own.open()
        worker = Worker(
            own,
            queues or self.queues,
            settings=Settings(broker_url="memory://", state_dir=self.folder, publish_deadline=2.0),
            options=WorkerOptions(**options),
        )
        self.handles[worker] = own
        self._running.append((worker, asyncio.create_task(worker.run())))
        return worker

    async def ended(self, worker: Worker, *, within: float = 10.0) -> None:
        """Wait until a worker has ended by itself; raise what it raised."""
        task = next(task for known, task in self._running if known is worker)
        await asyncio.wait_for(asyncio.shield(task), within)

    async def send(self, *jobs: Job[Any]) -> list[str]:
        """Publish jobs and return their ids."""
        return await self.publish(*(job.envelope(self.broker.now_ms()) for job in jobs))

    async def publish(self, *envelopes: Envelope) -> list[str]:
        """Publish envelopes as they are and return their ids."""
        receipts = await self.broker.publish(envelopes, deadline_s=5)
        assert all(receipt.status is PublishStatus.CONFIRMED for receipt in receipts), receipts
        return [envelope.id for envelope in envelopes]

    async def intend(self, *records: ControlRecord) -> None:
        """Write operators' intents."""
        await self.broker.append_control(records)

    async def parked(self, queue: str) -> list[ParkedJob]:
        """Return what is parked."""
        return [job async for job in self.broker.parked(queue)]

    async def parking(self, queue: str) -> list[Parking]:
        """Return why each parked job is parked."""
        return [job.envelope.parking for job in await self.parked(queue) if job.envelope.parking]

    async def unsettled(self, queue: str) -> int:
        """Return how many jobs are ready or handed over."""
        stats = (await self.broker.stats([queue]))[queue]
        return stats.ready + (stats.unsettled or 0)

    async def records(self, job_id: str | None = None) -> list[FeedRecord]:
        """Return what the feed has told so far, of one job or of all."""
        return [record for record in self._told if job_id is None or record.job == job_id]

    async def _listen(self, feed: FeedConsumer) -> None:
        """Read the feed as the coordinator would, keeping what it tells."""
        while batch := await feed.take():
            self._told.extend(record for item in batch for record in item.records)
            await feed.ack(batch)
