"""A small world for model checks: a memory broker, workers that die, and the truth about all jobs.

The truth is read from the broker's own state, not from what anybody was told: a worker that died
in the middle of a settle knows nothing. Whatever commits outcomes can be put in by `commit`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from taskyard.shared.adapters.memory import MemoryBroker, MemoryState, SimulatedCrash
from taskyard.shared.adapters.memory.flow import MemoryConsumer
from taskyard.shared.adapters.memory.lane import Handover, Stored
from taskyard.shared.broker import (
    Delivery,
    PublishStatus,
    QueueSpec,
    Settlement,
    SettleStatus,
    SetupSpec,
)
from taskyard.shared.clock import VirtualClock
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.feed import FINISHED, FeedRecord
from taskyard.shared.topology import plan

QUEUE = "work"
OUTCOMES = ("succeeded", "retried", "parked", "handed_back")

#: (job, attempt, deliveries, message): what tells two runs apart (design §12).
Identity = tuple[str, int, int, str]
Commit = Callable[[MemoryBroker, Sequence[Settlement]], Awaitable[list[SettleStatus]]]


async def settle(broker: MemoryBroker, batch: Sequence[Settlement]) -> list[SettleStatus]:
    """Commit outcomes by the port alone."""
    return await broker.settle(batch, deadline_s=0.0)


@dataclass(eq=False)
class ModelWorker:
    """A process with one consumer; `running` holds what it has taken and not given up."""

    broker: MemoryBroker
    consumer: MemoryConsumer
    running: list[Delivery] = field(default_factory=list)


class World:
    """Runs jobs on a memory broker and says what must always be true of them."""

    def __init__(self, commit: Commit = settle) -> None:
        self.state = MemoryState(VirtualClock())
        self.workers: list[ModelWorker] = []
        self.confirmed: set[str] = set()
        self.started: Counter[Identity] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self._commit = commit
        self._finish = self.state.finish
        self.state.finish = self._note_acknowledged  # type: ignore[method-assign]

    def _note_acknowledged(self, handover: Handover) -> None:
        self.acknowledged[handover.stored.envelope.message_id] += 1
        self._finish(handover)

    # ------------------------------------------------------------ what happens

    async def begin(self) -> None:
        """Set the queue and the feed up."""
        broker = MemoryBroker(self.state)
        await broker.open()
        spec = SetupSpec(queues=(QueueSpec(name=QUEUE),), ledger=True)
        observed = await broker.observe(spec)
        await broker.apply(plan(broker.desired(spec, observed), observed))
        await broker.close()

    async def publish(self, count: int, *, delay_ms: int = 0) -> None:
        """Publish jobs from a process of their own, which ends afterwards."""
        broker = MemoryBroker(self.state)
        await broker.open()
        due_ms = self.state.clock.now_ms() + delay_ms if delay_ms else None
        sent = [
            Envelope(id=mint_id(), queue=QUEUE, task="work.do", not_before_ms=due_ms)
            for _ in range(count)
        ]
        with suppress(SimulatedCrash):
            receipts = await broker.publish(sent, deadline_s=0.0)
            for job, receipt in zip(sent, receipts, strict=True):
                if receipt.status is PublishStatus.CONFIRMED:
                    self.confirmed.add(job.id)
        await broker.close()

    async def start_worker(self, credit: int) -> ModelWorker:
        """Start a worker of so much credit."""
        broker = MemoryBroker(self.state)
        await broker.open()
        worker = ModelWorker(broker, await broker.consume(QUEUE, credit=credit))
        self.workers.append(worker)
        return worker

    async def take(self, worker: ModelWorker) -> None:
        """Let a worker start whatever has arrived."""
        taking = asyncio.create_task(self._take(worker), name="take")
        for _ in range(3):
            await asyncio.sleep(0)
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await taking

    async def _take(self, worker: ModelWorker) -> None:
        for delivery in await worker.consumer.take():
            self.started[identity(delivery)] += 1
            worker.running.append(delivery)

    async def end_attempts(self, worker: ModelWorker, outcomes: Sequence[str]) -> None:
        """End a worker's first attempts with these outcomes, in one batch."""
        ending = worker.running[: len(outcomes)]
        batch = [self._settlement(d, o) for d, o in zip(ending, outcomes, strict=False)]
        try:
            statuses = await self._commit(worker.broker, batch)
        except SimulatedCrash:
            self.workers.remove(worker)
            return
        for delivery, status in zip(ending, statuses, strict=True):
            if status is not SettleStatus.UNDONE:
                worker.running.remove(delivery)

    def _settlement(self, delivery: Delivery, outcome: str) -> Settlement:
        envelope, now_ms = delivery.envelope, self.state.clock.now_ms()
        job, attempt, deliveries, message = identity(delivery)
        record = FeedRecord(
            event=FINISHED,
            job=job,
            queue=QUEUE,
            task=envelope.task,
            attempt=attempt,
            deliveries=deliveries,
            message=message,
            at=now_ms,
            outcome=outcome,
        )
        copies: tuple[Envelope, ...] = ()
        park = None
        if outcome == "retried":
            due_ms = now_ms + 1_000
            copies = (
                msgspec.structs.replace(
                    envelope, attempt=attempt + 1, deliveries=1, not_before_ms=due_ms
                ),
            )
        elif outcome == "handed_back":
            copies = (msgspec.structs.replace(envelope, deliveries=deliveries),)
        elif outcome == "parked":
            park = msgspec.structs.replace(envelope, parking=Parking(reason="held"))
        return Settlement(delivery=delivery, copies=copies, park=park, record=record)

    async def kill(self, worker: ModelWorker) -> None:
        """Let a worker's process die."""
        self.workers.remove(worker)
        await worker.broker.crash()

    def sever(self, *workers: ModelWorker) -> None:
        """Cut workers' connections; their processes live and run on what they have."""
        for worker in workers:
            worker.broker.sever()

    def fault_after(self, steps: int, action: Callable[[], object]) -> None:
        """Let `action` happen at the `steps`-th step of publish or settle from now (0: the next)."""
        left = steps

        def at_step(_name: str) -> None:
            nonlocal left
            if left == 0:
                self.state.fault = None
                action()
            left -= 1

        self.state.fault = at_step

    async def drain(self) -> None:
        """Let everything become due, and a sound worker finish all that is left."""
        self.state.fault = None
        self.state.unblock()
        for worker in list(self.workers):
            await self.kill(worker)
        worker = await self.start_worker(1_000)
        self.state.advance(10_000_000)
        await self.take(worker)
        await self.end_attempts(worker, ["succeeded"] * len(worker.running))

    # ------------------------------------------------------------ what must be true

    def check(self) -> None:
        """Assert what holds at every moment, whoever died, wherever."""
        stored = {s.envelope.message_id: s.envelope for s in self._stored()}
        published = {e.message_id: e for e in self._published()}
        records = list(self._records())
        ended = {record.message for record in records}
        live_jobs = {envelope.id for envelope in stored.values()}
        done = {record.job for record in records if record.outcome == "succeeded"}

        lost = self.confirmed - live_jobs - done
        assert not lost, f"lost: {lost}"
        for message in published.keys() - stored.keys():
            assert message in ended, "acknowledged before its outcome was in the feed"
            assert self.acknowledged[message] == 1
        self._check_successors(records, published, stored)
        twice = [message for message, count in self.acknowledged.items() if count > 1]
        assert not twice, f"settled twice: {twice}"
        same = [run for run, count in self.started.items() if count > 1]
        assert not same, f"two runs that nobody can tell apart: {same}"
        for worker in self.workers:
            for delivery in worker.running:
                message = delivery.envelope.message_id
                assert message in stored or self._ran_elsewhere(delivery), (
                    "acknowledged while it still runs"
                )

    def _check_successors(
        self,
        records: Sequence[FeedRecord],
        published: dict[str, Envelope],
        stored: dict[str, Envelope],
    ) -> None:
        """What an outcome promises exists by the time that its record does."""
        attempts = {(envelope.id, envelope.attempt) for envelope in published.values()}
        copies = Counter((e.id, e.attempt) for e in published.values())
        lot = {envelope.id for envelope in stored.values() if envelope.parking}
        for record in records:
            if record.outcome == "retried":
                assert (record.job, record.attempt + 1) in attempts, "a retry without its copy"
            elif record.outcome == "handed_back":
                assert copies[record.job, record.attempt] > 1, "handed back to nobody"
            elif record.outcome == "parked":
                assert record.job in lot, "parked nowhere"

    def _ran_elsewhere(self, delivery: Delivery) -> bool:
        """Whether the broker took it back and gave it to another, who ended it."""
        token = delivery.token
        return isinstance(token, Handover) and not token.live

    def _stored(self) -> Iterator[Stored]:
        for lane in self.state.lanes.values():
            for _, _, stored in (*lane.ready, *lane.later):
                yield stored
            yield from lane.parked.values()
        for handle in self.state.handles:
            yield from (h.stored for h in handle._session.handovers if h.flow is not None)

    def _published(self) -> Iterator[Envelope]:
        for item in self.state.feed or ():
            if item.envelope is not None:
                yield item.envelope

    def _records(self) -> Iterator[FeedRecord]:
        for item in self.state.feed or ():
            yield from item.records


def identity(delivery: Delivery) -> Identity:
    """Return what tells this run from every other: failed hand-overs count as deliveries."""
    envelope = delivery.envelope
    deliveries = envelope.deliveries + (delivery.failures or 0)
    return envelope.id, envelope.attempt, deliveries, envelope.message_id
