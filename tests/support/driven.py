"""A broker and a ledger in this process, requests, and drivers that carry them out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from support.eventually import eventually
from taskyard.broker_setup.asking import Asking
from taskyard.broker_setup.intents import cancel_records, read_intents
from taskyard.ledger import driving, requests
from taskyard.ledger.asking import ask, plan as plan_changes
from taskyard.ledger.database import Database
from taskyard.ledger.driving import Driver
from taskyard.ledger.migrate import prepare
from taskyard.ledger.recorder import Recorder
from taskyard.ledger.schema import jobs
from taskyard.shared.adapters.memory import MemoryBroker, MemoryState
from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.changes import Change, Standing
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.metrics import Metrics
from taskyard.shared.topology import plan

QUEUE = "q"


class Site:
    """A broker, a ledger that is told what happens there, and requests to whoever drives."""

    def __init__(self, broker: MemoryBroker, database: Database, recorder: Recorder) -> None:
        self.recorder = recorder
        self.broker = broker
        self.database = database

    async def send(self, **fields: Any) -> Envelope:
        """Send a job, and wait until the ledger knows it."""
        now_ms = self.broker.now_ms()
        envelope = Envelope(id=mint_id(), queue=QUEUE, task="q.t", enqueued_ms=now_ms, **fields)
        await self.broker.publish([envelope], deadline_s=5)
        await eventually(lambda: self.row(envelope.id))
        return envelope

    async def row(self, job: str) -> dict[str, Any] | None:
        async with self.database.begin() as connection:
            found = (await connection.execute(select(jobs).where(jobs.c.id == job))).mappings()
            row = found.one_or_none()
            return None if row is None else dict(row)

    async def ask(self, job: str, change: Change | None) -> Asking:
        """Write the intent to change a job, or to cancel it; nobody answers yet."""
        asking = Asking()
        if change is None:
            await asking.ask(
                self.broker,
                lambda _: cancel_records(self.broker, [job], by="me", abort=False),
                wait_s=0,
            )
        else:
            asked, refused = await plan_changes(
                self.broker, self.database, [job], lambda _: change, by="me"
            )
            assert not refused
            await ask(self.broker, asking, asked, by="me", wait_s=0)
        return asking

    async def drive(self, broker: Any = None, *, answers: int = 0) -> None:
        """Drive until no change is open, and there are so many answers at least."""
        written = self.recorder.wait_written
        driver = Driver(broker or self.broker, self.database, wait_written=written)
        running = asyncio.create_task(driver.run())
        try:

            async def answered() -> bool:
                if running.done():
                    return True
                open_ = list((await read_intents(self.broker)).open_changes())
                return not open_ and len(await self.answers()) >= answers

            await eventually(answered, within=10, every=0.02)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    async def answers(self) -> list[str]:
        """Return what was answered, in words, in order."""
        said: list[str] = []
        async for batch in self.broker.follow_control():
            said += [str((r.body or {}).get("text")) for r in batch.records if r.op == "answer"]
            if batch.caught_up:
                break
        return said

    async def forms(self, job: str) -> list[str]:
        """Return where the job is in forms that count: in its queue (or due later), or aside."""
        intents = await read_intents(self.broker)
        lane = self.broker.state.lanes[QUEUE]
        queued = [entry[-1] for entry in (*lane.ready, *lane.later)]
        every = [("queued", stored.envelope) for stored in queued]
        every += [("aside", stored.envelope) for stored in lane.parked.values()]
        return [
            where
            for where, envelope in every
            if envelope.id == job
            and intents.standing_of(envelope) is Standing.CURRENT
            and intents.cancel_for(envelope) is None
        ]


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(requests, "GRACE_S", 0.05)
    monkeypatch.setattr(driving, "_WRITTEN_S", 0.05)
    broker = MemoryBroker(MemoryState())
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name=QUEUE),), ledger=True)
    await broker.apply(
        plan(broker.desired(spec, await broker.observe(spec)), await broker.observe(spec))
    )
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    await prepare(database)
    recorder = Recorder(broker, database, Metrics())
    recording = asyncio.create_task(recorder.run())
    yield Site(broker, database, recorder)
    recording.cancel()
    with suppress(asyncio.CancelledError):
        await recording
    await database.close()
    await broker.close()
