"""The model's world with the workers' own group commit in it: outcomes gather, wait and fly.

Each worker has a `Committer` and a `Backlog` on disk, as a process has. An outcome that is in the
backlog counts as recorded: that is what the file is for while the broker takes no publishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from model.world import ModelWorker, World
from taskyard.shared.broker import Settlement
from taskyard.shared.feed import FeedRecord
from taskyard.shared.metrics import Count
from taskyard.workers.backlog import Backlog
from taskyard.workers.commit import Committer

#: Turns of the loop in which a commit that nothing hinders is over.
PLENTY = 60

_decoder = msgspec.json.Decoder(FeedRecord)


class CommitWorld(World):
    """A world whose workers settle by `Committer`; `folder` holds their backlogs."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.unrecorded = Count()
        self._parts: dict[ModelWorker, tuple[Committer, Backlog]] = {}
        #: Settlements whose delivery was lost, as the committer told.
        self.lost: list[Settlement] = []
        self.flushed = False

    async def start_worker(self, credit: int) -> ModelWorker:
        """Start a worker with a committer of its own."""
        worker = await super().start_worker(credit)
        backlog = self._backlog()
        committer = Committer(
            worker.broker,
            backlog,
            deadline_s=0.0,
            on_settled=lambda _: None,
            on_lost=self.lost.append,
            on_held=lambda _: None,
        )
        self._parts[worker] = committer, backlog
        return worker

    def crashing(self, worker: ModelWorker) -> None:
        """Let a worker die where it is: nothing that it meant to do happens any more."""
        self.workers.remove(worker)
        self._close(worker)

    async def kill(self, worker: ModelWorker) -> None:
        """Let a worker's process die between two turns of its loop."""
        if worker not in self.workers:
            return  # an earlier fault was quicker
        self._close(worker)
        await super().kill(worker)

    async def end_attempts(self, worker: ModelWorker, outcomes: Sequence[str]) -> None:
        """End a worker's first attempts; what becomes of them is the committer's affair."""
        if worker not in self.workers:
            return
        ending = worker.running[: len(outcomes)]
        del worker.running[: len(ending)]
        committer, _ = self._parts[worker]
        for delivery, outcome in zip(ending, outcomes, strict=False):
            committer.add(self._settlement(delivery, outcome))

    async def turn(self, turns: int = PLENTY) -> None:
        """Let the loop turn so many times."""
        for _ in range(turns):
            await asyncio.sleep(0)

    def alarm(self, *, on: bool) -> None:
        """Let the broker refuse publishes, or take them again, and tell the workers."""
        if on:
            self.state.block()
        else:
            self.state.unblock()
        self.look_again()

    def look_again(self) -> None:
        """Tell every committer that the broker's state has changed."""
        for committer, _ in self._parts.values():
            committer.look_again()

    async def finish(self) -> None:
        """End alarms and faults: every committer gets rid of all that it has, and so do the disks.

        Afterwards whatever was left is done by a last worker, and only the feed counts.
        """
        self.state.fault = None
        self.alarm(on=False)
        await self.turn()
        for worker in list(self.workers):
            committer, backlog = self._parts[worker]
            assert committer.idle, f"{committer.unsettled} settlements hang"
            await backlog.flush(self._told(worker))
            await self.kill(worker)
        self.check()
        worker = await self.start_worker(1_000)
        self.state.advance(10_000_000)
        await self.take(worker)
        await self.end_attempts(worker, ["succeeded"] * len(worker.running))
        await self.turn()
        heir = self._parts[worker][1]
        heir.claim()
        assert await heir.flush(self._told(worker))
        self.flushed = True
        self.check()
        assert self.unrecorded.value == 0
        assert not list(self._folder.glob("*.jsonl")) or not list(self._on_disk())
        await self.kill(worker)

    def _told(self, worker: ModelWorker):
        async def record(records: Sequence[FeedRecord]) -> bool:
            return await worker.broker.record(records, deadline_s=0.0)

        return record

    def _backlog(self) -> Backlog:
        return Backlog(self._folder, namespace="model", unrecorded=self.unrecorded)

    def _close(self, worker: ModelWorker) -> None:
        committer, backlog = self._parts.pop(worker)
        committer.close()
        backlog.close()

    def _records(self) -> Iterator[FeedRecord]:
        yield from super()._records()
        if not self.flushed:
            yield from self._on_disk()

    def _on_disk(self) -> Iterator[FeedRecord]:
        for path in self._folder.glob("unrecorded-*.jsonl"):
            yield from map(_decoder.decode, path.read_bytes().splitlines())
