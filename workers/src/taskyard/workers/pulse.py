"""A worker's pulse: proof that its loop turns, and what has to be looked at from time to time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import Unavailable
from taskyard.workers.settle import progress_record, started_record

if TYPE_CHECKING:
    from taskyard.shared.clock import Clock
    from taskyard.shared.feed import FeedRecord
    from taskyard.workers.attempt import Attempt
    from taskyard.workers.worker import Worker

#: Seconds between two beats: pauses that end by themselves end so precisely.
BEAT_S: Final = 0.25
#: Seconds after which the feed is told that an attempt runs; most end sooner and need no such record.
ANNOUNCE_S: Final = 0.5
#: Beats between two records of one attempt's progress.
_PROGRESS: Final = 4
#: Beats between two looks at what is rarely due.
_SELDOM: Final = 40


class Pulse:
    """Beats on the worker's loop.

    Attributes:
        last_s: the last beat, on the monotonic clock.

    """

    def __init__(self, worker: Worker, clock: Clock) -> None:
        """Belong to a worker."""
        self._worker = worker
        self._clock = clock
        self._lag = worker.metrics.histogram("loop_lag_seconds")
        self._beats = 0
        self._announcing: asyncio.Task[None] | None = None
        self.last_s = clock.monotonic_s()

    async def run(self) -> None:
        """Beat until cancelled."""
        try:
            while True:
                await asyncio.sleep(BEAT_S)
                now_s = self._clock.monotonic_s()
                self._lag.observe(max(now_s - self.last_s - BEAT_S, 0.0))
                self.last_s = now_s
                self._beat(now_s)
                self._beats += 1
                if not self._beats % _SELDOM:
                    self._worker.follower.prune()
                    self._worker.outages.flush_backlog()
        finally:
            if self._announcing is not None:
                self._announcing.cancel()

    def _beat(self, now_s: float) -> None:
        worker = self._worker
        worker.set_gates()
        for lane in worker.lanes.values():
            lane.intake.note_absence(now_s, connected=worker.broker.connected)
            lane.idling.look(now_s, idle=lane.idle, taken=lane.taken)
        if worker.broker.recording and not worker.broker.blocked:
            self._announce()

    def _announce(self) -> None:
        """Tell the feed of attempts that have run for a while, and how far they are.

        A best effort, one call at a time.
        """
        if self._announcing is not None and not self._announcing.done():
            return
        now_ms = self._worker.broker.now_ms()
        before_ms = now_ms - round(ANNOUNCE_S * 1000)
        records = [
            self._announcement(attempt)
            for lane in self._worker.lanes.values()
            for attempt in lane.running
            if not attempt.announced
            and attempt.started_ms <= before_ms
            and lane.telling.of_run(attempt.envelope)
        ]
        if not self._beats % _PROGRESS:
            records += self._progress(now_ms)
        if records:
            self._announcing = asyncio.create_task(self._record(records), name="announce")

    def _announcement(self, attempt: Attempt) -> FeedRecord:
        attempt.announced = True
        return started_record(
            attempt.envelope, started_ms=attempt.started_ms, worker=self._worker.name
        )

    def _progress(self, now_ms: int) -> list[FeedRecord]:
        """Return how far those attempts are that have reported since it was told last."""
        records: list[FeedRecord] = []
        for lane in self._worker.lanes.values():
            for attempt in lane.running:
                seen = attempt.progress_seen
                if (
                    seen is None
                    or seen is attempt.progress_told
                    or not lane.telling.of_run(attempt.envelope)
                ):
                    continue
                attempt.progress_told = seen
                record = progress_record(
                    attempt.envelope,
                    seen,
                    started_ms=attempt.started_ms,
                    now_ms=now_ms,
                    worker=self._worker.name,
                )
                if record is not None:
                    records.append(record)
        return records

    async def _record(self, records: list[FeedRecord]) -> None:
        try:
            await self._worker.broker.record(records, deadline_s=5.0)
        except Unavailable:
            return  # whoever misses it learns of the attempt from its outcome
