"""A worker process: its lanes, what they share, and its life from start to stop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taskyard.producer import AsyncProducer
from taskyard.shared.clock import Clock, SystemClock
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.logs import get_logger
from taskyard.shared.metrics import Metrics
from taskyard.shared.propagation import set_values
from taskyard.shared.recording import policy_of
from taskyard.workers.backlog import Backlog
from taskyard.workers.children import Children
from taskyard.workers.commit import Committer
from taskyard.workers.deadlines import Deadlines
from taskyard.workers.drain import wait_drained
from taskyard.workers.guard import GuardedBudget
from taskyard.workers.hearing import Hearing
from taskyard.workers.intents import ControlFollower
from taskyard.workers.lane import Lane
from taskyard.workers.lifespan import LifespanFailed
from taskyard.workers.machinery import Budget, Machinery
from taskyard.workers.outages import Outages
from taskyard.workers.presence import wait_for_queues
from taskyard.workers.pulse import Pulse
from taskyard.workers.recall import LIMIT, Recall
from taskyard.workers.recycler import Recycler
from taskyard.workers.stages import stop_in_stages
from taskyard.workers.threads import Threads
from taskyard.workers.watchdog import Watchdog

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, Settlement
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.retry import Random
    from taskyard.shared.settings import Settings
    from taskyard.shared.task import Queue
    from taskyard.workers.guard import Guard

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker runs.

    Attributes:
        concurrency: slots of a queue that declares none.
        grace_s: how long running attempts may go on once it stops, in seconds.
        drain: end when the queues are empty and nothing runs.
        max_time_s: begin to stop after so many seconds.
        max_jobs: begin to stop after so many attempts.
        max_rss_bytes: begin to stop when no job runs and settled memory is above.
        max_abandoned: begin to stop when so many handlers ran out of time and do not end; None:
            as many as one queue has slots, at least four.
        modules: import paths that the queues were found in, for child processes; empty: where
            their tasks are from.

    """

    concurrency: int = 10
    grace_s: float = 30.0
    drain: bool = False
    max_time_s: float | None = None
    max_jobs: int | None = None
    max_rss_bytes: int | None = None
    max_abandoned: int | None = None
    modules: tuple[str, ...] = ()


@dataclass(slots=True)
class Signals:
    """What the worker was told: stages of a stop, each a set event."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    now: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""


class Worker:
    """Runs the jobs of some queues. `run` returns when it was stopped, or has nothing left to do."""

    def __init__(
        self,
        broker: Broker,
        queues: Sequence[Queue[Any]],
        *,
        settings: Settings,
        options: WorkerOptions | None = None,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Make a worker of an open broker, on the running event loop.

        Args:
            broker: open; whoever opened it closes it.
            queues: to consume.
            settings: of the process.
            options: see there.
            metrics: to count into.
            clock: measures durations.
            rng: for jitter.
            guard: of the lock without which nothing starts.

        Raises:
            ConfigurationError: a key is not valid, a task cannot be run, or its time to run is
                longer than the broker bears.

        """
        self.broker = broker
        self.options = options or WorkerOptions()
        self.metrics = metrics or Metrics()
        self.signals = Signals()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.drained = False
        self.recycled = False
        self.holding = ""
        self._clock = clock or SystemClock()
        self._loop = asyncio.get_running_loop()
        self.follower = ControlFollower(broker, self._intents_changed)
        slots = (queue.concurrency or self.options.concurrency for queue in queues)
        lookahead = sum(queue.lookahead for queue in queues)
        self._recall = Recall(settled_limit=max(LIMIT, 2 * (sum(slots) + lookahead)))
        self._backlog = Backlog(
            settings.state_dir,
            namespace=settings.namespace,
            unrecorded=self.metrics.count("unrecorded"),
        )
        self.committer = Committer(
            broker,
            self._backlog,
            deadline_s=settings.publish_deadline,
            on_settled=self._recall.settled,
            on_lost=self._lost,
            on_held=self._held,
        )
        self._deadlines = Deadlines(self._loop, self._clock)
        self._threads = Threads(self._loop, "job")
        self._producer = AsyncProducer(broker=broker, settings=settings, metrics=self.metrics)
        machinery = Machinery(
            name=self.name,
            concurrency=self.options.concurrency,
            draining=self.options.drain,
            modules=self.options.modules,
            max_rss_bytes=self.options.max_rss_bytes,
            output=settings.output,
            output_limit=settings.output_limit,
            broker=broker,
            clock=self._clock,
            rng=rng or random.Random(),
            keys=settings.key_ring(),
            metrics=self.metrics,
            committer=self.committer,
            recall=self._recall,
            follower=self.follower,
            deadlines=self._deadlines,
            threads=self._threads,
            children=Children(self._producer),
            budget=self._budget(guard),
        )
        self.lanes = {queue.name: Lane(queue, machinery) for queue in queues}
        self._hearing = Hearing(broker, self.lanes, self.name)
        self.pulse = Pulse(self, self._clock)
        self.watchdog = Watchdog(broker, self.lanes, clock=self._clock, metrics=self.metrics)
        self._recycler = Recycler(self, self._clock)
        self.outages = Outages(
            broker,
            lanes=self.lanes.values(),
            committer=self.committer,
            backlog=self._backlog,
            reconnects=self.metrics.count("broker_reconnects"),
            deadline_s=settings.publish_deadline,
        )
        self._background: list[asyncio.Task[None]] = []
        self.lane_tasks: dict[asyncio.Task[None], Lane] = {}
        _check_patience(broker, self.lanes.values())

    def stop(self, reason: str = "asked to stop") -> None:
        """Take nothing more, let running attempts finish within the grace, and end."""
        if not self.signals.stop.is_set():
            self.signals.reason = reason
            self.signals.stop.set()

    def hurry(self, reason: str = "asked to stop") -> None:
        """Stop at once: running attempts get no grace."""
        self.stop(reason)
        self.signals.now.set()

    async def run(self) -> None:
        """Run until stopped, drained, or out of time or budget.

        Raises:
            ConfigurationError: a queue does not exist on the broker.

        """
        # Jobs start in copies of this context: values bound around `run` are not theirs.
        set_values({})
        self._backlog.claim()
        self._start()
        try:
            await self._until_stopped()
            await stop_in_stages(self)
        finally:
            await self._end()

    def complain(self) -> None:
        """Raise what kept a drain that has ended from doing all of its work.

        Raises:
            LifespanFailed: a queue could not be set up.

        """
        problems = [lane.problem for lane in self.lanes.values() if lane.problem]
        if problems and self.options.drain:
            raise LifespanFailed("; ".join(problems))

    # start

    def _budget(self, guard: Guard | None) -> Budget:
        def spent() -> None:
            self.recycled = True
            self.stop("its number of jobs is reached")

        if guard is None:
            return Budget(self.options.max_jobs, spent)
        return GuardedBudget(self.options.max_jobs, spent, guard)

    def _start(self) -> None:
        for coroutine, name in (
            (self.outages.run(), "broker events"),
            (self.follower.run(), "control log"),
            (self.pulse.run(), "pulse"),
            (self.watchdog.run(), "watchdog"),
            (self._recycler.run(), "recycler"),
            (self._open_when_ready(), "open"),
            *(((self._drain(), "drain"),) if self.options.drain else ()),
        ):
            self._background.append(self._loop.create_task(coroutine, name=name))
        for lane in self.lanes.values():
            task = self._loop.create_task(lane.run(), name=f"queue {lane.queue.name}")
            self.lane_tasks[task] = lane
        _log.info(
            "worker started",
            worker=self.name,
            queues=sorted(self.lanes),
            slots={name: lane.slots for name, lane in self.lanes.items()},
        )

    async def _until_stopped(self) -> None:
        """Wait for the end: a signal, an empty queue, the clock, or a fault that ends the worker."""
        stop = self._loop.create_task(self.signals.stop.wait(), name="stop")
        waited: set[asyncio.Task[Any]] = {stop, *self._background, *self.lane_tasks}
        timer: asyncio.TimerHandle | None = None
        if self.options.max_time_s is not None:
            timer = self._loop.call_later(self.options.max_time_s, self.stop, "its time is over")
        try:
            while not self.signals.stop.is_set():
                done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a fault of any of them ends the worker, loudly
        finally:
            stop.cancel()
            if timer is not None:
                timer.cancel()

    async def _drain(self) -> None:
        await wait_drained(self)
        self.drained = True
        self.stop("its queues are empty")

    async def _end(self) -> None:
        """Leave nothing running, whatever happened before."""
        tasks = [*self._background, *self.lane_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = self.committer.unsettled
        self._hearing.close()
        self.committer.close()
        self._deadlines.close()
        self._threads.close()
        await self._producer.close()
        self._backlog.close()
        _log.info("worker stopped", worker=self.name, reason=self.signals.reason, unsettled=left)

    # what happens meanwhile

    def set_gates(self) -> None:
        """Open the lanes that are not paused, shut those that are, and set how much each runs."""
        if self.signals.stop.is_set() or not self.follower.ready.is_set():
            return
        now_ms = self.broker.now_ms()
        for name, lane in self.lanes.items():
            lane.telling.set(policy_of(self.follower.intents.others, name))
            self._set_slots(lane)
            pause = self.follower.intents.pause_of(name, now_ms)
            if pause is not None and not lane.paused:
                _log.info("queue paused", queue=name, by=pause.by, until_ms=pause.expires)
            elif pause is None and lane.paused:
                _log.info("queue resumed", queue=name)
            lane.paused = pause is not None
            shut = lane.paused or bool(self.holding)
            if lane.intake.opened is shut:
                lane.set_open(not shut)

    def _set_slots(self, lane: Lane) -> None:
        wanted = self.follower.intents.concurrency_of(lane.queue.name)
        slots = wanted or lane.declared_slots
        if slots != lane.slots:
            _log.info("slots changed", queue=lane.queue.name, slots=slots, before=lane.slots)
            lane.set_slots(slots)
            self._recall.remember(2 * sum(e.slots + e.queue.lookahead for e in self.lanes.values()))

    async def _open_when_ready(self) -> None:
        """Operators' intents come before the first job."""
        await wait_for_queues(self.broker, list(self.lanes), self._clock)
        await self.follower.ready.wait()
        self.set_gates()

    def _intents_changed(self, records: Sequence[ControlRecord]) -> None:
        self.set_gates()
        self._hearing.hear(records)

    def _lost(self, settlement: Settlement) -> None:
        self._recall.lost(settlement)
        lane = self.lanes.get(settlement.delivery.envelope.queue)
        if lane is not None:
            lane.count_lost()

    def _held(self, held: Mapping[str, int]) -> None:
        for name, lane in self.lanes.items():
            lane.intake.hold(held.get(name, 0))


def _check_patience(broker: Broker, lanes: Iterable[Lane]) -> None:
    """Refuse, in words, times to run that the broker does not bear."""
    max_ttr_s = broker.capabilities.max_ttr_s
    if max_ttr_s is None:
        return
    for lane in lanes:
        for handler in lane.handlers.values():
            if handler.ttr_s > max_ttr_s:
                msg = (
                    f"task {handler.task.name}: its time to run of {handler.ttr_s:g} s is longer than the "
                    f"{max_ttr_s:g} s that this broker lets a worker hold a job; raise the broker's "
                    "consumer_timeout and TASKYARD_CONSUMER_TIMEOUT, or split the task"
                )
                raise ConfigurationError(msg)
