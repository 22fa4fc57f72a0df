"""One queue in this process: takes deliveries into free slots, and turns each end into a settlement.

Reading goes on while the gate is open (not paused, not stopping). Slots come before messages: the
broker hands over no more than there are slots, plus the queue's look-ahead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from taskyard.shared.outcomes import Cancelled, HandedBack, Outcome, Parked, Retried, Succeeded
from taskyard.workers.admit import DEFER, DROP, Defer, Mint, Recount, Rules, Run, admit
from taskyard.workers.attempt import Attempt, Stop
from taskyard.workers.calls import Calls
from taskyard.workers.execute import Executor
from taskyard.workers.handler import handlers_of, longest_ttr_s
from taskyard.workers.idling import Idling
from taskyard.workers.intake import Intake
from taskyard.workers.isolation.conduct import Isolation
from taskyard.workers.lifespan import Lifespan, LifespanFailed
from taskyard.workers.meters import LaneMeters
from taskyard.workers.recall import key_of
from taskyard.workers.refuse import outcome_of, refuse
from taskyard.workers.report import (
    report_end,
    report_refusal,
    report_success,
    report_superseded,
)
from taskyard.workers.settle import Run as Facts, settle
from taskyard.workers.slots import Slots
from taskyard.workers.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Delivery
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.task import Queue
    from taskyard.workers.admit import Admission
    from taskyard.workers.machinery import Machinery

#: A delivery that may run and waits for a slot, how it was admitted, and when it was taken
#: (monotonic, in seconds).
_Waiting = tuple["Delivery", "Run", float]


class Lane:
    """See the module's docstring. Belongs to the event loop.

    Attributes:
        queue: as declared.
        handlers: of its tasks, by short and by full name.
        slots: attempts that may run at once; an operator may change it.
        declared_slots: as many as that where no operator says otherwise.
        running: attempts under way.
        paused: by an operator.
        taken: deliveries taken so far.
        executor: runs its attempts.
        intake: takes its deliveries.
        lifespan: its resources.
        idling: who wants to know when it has nothing to do.
        isolation: its child processes, which have resources of their own.
        telling: which runs the feed hears of.

    """

    def __init__(self, queue: Queue[Any], machinery: Machinery) -> None:
        """Prepare a queue.

        Raises:
            ConfigurationError: one of its tasks cannot be run.

        """
        metrics = machinery.metrics
        self.queue = queue
        self.handlers = handlers_of(queue, metrics, machinery.output)
        self.slots = self.declared_slots = queue.concurrency or machinery.concurrency
        self.running: dict[Attempt, None] = {}
        self.paused = False
        self.taken = 0
        self.telling = Telling()
        self.lifespan = Lifespan(queue)
        self.idling = Idling(queue.name, queue.middleware)
        self._slots = Slots(self.slots, on_free=self._start_waiting, on_away=self._away)
        self.isolation = Isolation(queue, machinery, slots=self.slots, on_broken=self.finish)
        self.executor = Executor(
            machinery,
            self.isolation,
            longest_ttr_s(self.handlers.values()),
            self._ended,
            Calls(machinery.children, self._slots),
        )
        self.intake = Intake(
            queue.name,
            machinery.broker,
            credit=self.slots + queue.lookahead,
            ttr_s=self.executor.longest_ttr_s,
            on_batch=self._take_all,
            on_rest=self._take_rest,
        )
        self._machinery = machinery
        self._broker = machinery.broker
        self._committer = machinery.committer
        self._intents = machinery.follower.intents
        self._rules = Rules(
            queue=queue.name,
            handlers=self.handlers,
            max_deliveries=queue.max_deliveries,
            max_ttr_s=machinery.broker.capabilities.max_ttr_s,
            keys=machinery.keys,
        )
        self._waiting: deque[_Waiting] = deque()
        self._starting = False
        # Copies that came before the delivery that they replace was given up, by job: one that
        # kills its worker now would leave both behind.
        self._renewing: dict[str, list[Delivery]] = {}
        self._empty = asyncio.Event()
        self._meters = LaneMeters(metrics, queue.name)
        self._debug = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)

    @property
    def _only_isolated(self) -> bool:
        return bool(self.handlers) and all(each.isolated for each in self.handlers.values())

    @property
    def problem(self) -> str:
        """Why its jobs cannot run, in words; empty when they can."""
        return self.lifespan.problem or self.isolation.problem

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits for a slot."""
        return not self.running and not self._waiting

    @property
    def hungry(self) -> bool:
        """Whether it would start a delivery at once, and the broker owes it one if jobs are ready."""
        free = self._starting and self._slots.free > 0 and not self._waiting
        return free and not self._renewing and not self._committer.owes(self.queue.name)

    @property
    def calling(self) -> int:
        """How many of its attempts do nothing but wait for jobs that they have called."""
        return self._slots.away

    async def run(self) -> None:
        """Set up, consume until `finish`, let running attempts end, tear down."""
        try:
            if not self._only_isolated:
                self.executor.resources = await self.lifespan.enter(once=self._machinery.draining)
        except LifespanFailed:
            return  # a drain goes on with the other queues and complains at its end
        try:
            await self.intake.run()
            while not self.idle:
                self._empty.clear()
                await self._empty.wait()
        finally:
            await self.idling.close()
            try:
                await self.isolation.close()
            finally:
                await self.lifespan.leave()

    def finish(self, *, keep: bool = False) -> None:
        """Take nothing more; `run` ends with the last attempt.

        Args:
            keep: run what was already taken, instead of handing it back.

        """
        self._starting = keep
        self.intake.finish()

    def set_open(self, open_: bool) -> None:
        """Take deliveries, or stop taking and hand back what has not started."""
        self._starting = open_
        if open_:
            self.intake.open()
        else:
            self.intake.shut()

    def set_slots(self, number: int) -> None:
        """Run so many attempts at once from now on; none that runs is ended."""
        self.slots = number
        self._slots.resize(number)
        self.isolation.resize(number)
        self.intake.set_credit(number + self.queue.lookahead)
        self._start_waiting()

    def hand_back(self) -> None:
        """End what runs and give it to other workers, uncharged."""
        for attempt in list(self.running):
            self.executor.stop(attempt, Stop.HAND_BACK)

    def abandon(self) -> None:
        """Hand back what still runs without waiting for its handlers."""
        for attempt in list(self.running):
            attempt.stopping = attempt.stopping or Stop.HAND_BACK
            self.executor.abandon(attempt)

    def abort(self, job_id: str, by: str) -> None:
        """End a job's running attempt, where that is possible, and where the cancel is meant for it."""
        for attempt in list(self.running):
            envelope = attempt.envelope
            # A record may be read again long after: what was restarted meanwhile is not meant.
            if envelope.id == job_id and self._intents.cancel_for(envelope) is not None:
                self.executor.stop(attempt, Stop.ABORT, by=by)

    def connection_lost(self) -> None:
        """Start nothing that the broker has meanwhile given to others.

        What is still ours is handed back properly; the rest is found to be lost.
        """
        self._give_back_waiting()

    def start_waiting(self) -> None:
        """Start what was taken and could not start before."""
        self._start_waiting()

    def count_lost(self) -> None:
        """Count a delivery that died with its connection."""
        self._meters.lost()

    # read

    def _take_all(self, batch: Sequence[Delivery]) -> None:
        now_ms, now_s = self._broker.now_ms(), self._machinery.clock.monotonic_s()
        self.taken += len(batch)
        for delivery in batch:
            if delivery.redelivered and self._recognised(delivery):
                continue
            if self._renewing and delivery.envelope.id in self._renewing:
                self._renewing[delivery.envelope.id].append(delivery)
                continue
            admission = self._admit(delivery, now_ms)
            if not isinstance(admission, Run):
                self._refuse(delivery, admission, now_ms)
            elif self._slots.free and self._starting and self._machinery.budget.take():
                self._start(delivery, admission, taken_s=now_s, now_s=now_s, now_ms=now_ms)
            else:
                self._waiting.append((delivery, admission, now_s))

    def _take_rest(self, rest: Sequence[Delivery]) -> None:
        """The flow has ended: only now can what is handed back not come back here at once."""
        self._take_all(rest)
        if not self._starting:
            self._give_back_waiting()

    def _admit(self, delivery: Delivery, now_ms: int) -> Admission:
        losses = self._machinery.recall.losses(delivery) if delivery.redelivered else 0
        if not self._intents.about_jobs:
            return admit(delivery, self._rules, now_ms=now_ms, losses=losses)
        return admit(
            delivery,
            self._rules,
            now_ms=now_ms,
            losses=losses,
            cancelled=self._intents.cancel_for(delivery.envelope),
            standing=self._intents.standing_of(delivery.envelope),
        )

    def _admit_again(self, delivery: Delivery, run: Run, now_ms: int) -> Admission:
        """Say whether what was to run still is: it may have expired, or been cancelled."""
        if delivery.envelope.expires_ms is None and not self._intents.about_jobs:
            return run
        return self._admit(delivery, now_ms)

    def _recognised(self, delivery: Delivery) -> bool:
        """Take a delivery back that this process already runs, or has run: nobody died."""
        key = key_of(delivery.envelope)
        for attempt in self.running:
            # While that delivery is ours this one is another job, of a client that uses ids twice.
            if key_of(attempt.delivery.envelope) == key and not attempt.delivery.ours:
                attempt.delivery = delivery
                attempt.taken_s = self._machinery.clock.monotonic_s()
                return True
        settlement = self._machinery.recall.settle_again(delivery)
        if settlement is None:
            return False
        self._committer.add(settlement)
        return True

    def _start(
        self, delivery: Delivery, admission: Run, *, taken_s: float, now_s: float, now_ms: int
    ) -> None:
        envelope, charged = delivery.envelope, admission.charged
        handler = self.handlers[envelope.task]
        if charged or envelope.task != handler.task.name:
            envelope = msgspec.structs.replace(
                envelope, task=handler.task.name, deliveries=envelope.deliveries + charged
            )
        ttr_ms = envelope.ttr_ms
        attempt = Attempt(
            delivery,
            envelope,
            handler,
            self.executor,
            ttr_s=ttr_ms / 1000 if ttr_ms is not None and ttr_ms > 0 else handler.ttr_s,
            taken_s=taken_s,
            now_s=now_s,
            now_ms=now_ms,
        )
        if admission.isolated or handler.isolated:
            attempt.alone = admission.isolated
            attempt.isolated = handler.isolated or self.isolation.offers(envelope)
        self._meters.started(envelope, now_ms)
        self._slots.free -= 1
        self.running[attempt] = None
        self.executor.start(attempt)

    def _start_waiting(self) -> None:
        now_ms, now_s = self._broker.now_ms(), self._machinery.clock.monotonic_s()
        while self._waiting and self._slots.free and self._starting:
            waiting = self._waiting.popleft()
            delivery, run, taken_s = waiting
            admission = self._admit_again(delivery, run, now_ms)
            if not isinstance(admission, Run):
                self._refuse(delivery, admission, now_ms)
            elif self._machinery.budget.take():
                self._start(delivery, admission, taken_s=taken_s, now_s=now_s, now_ms=now_ms)
            else:
                self._waiting.appendleft(waiting)
                return

    def _away(self, number: int) -> None:
        """Attempts that wait for jobs keep their deliveries: the broker hands over as many more."""
        self.intake.lend(number)

    # settle

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        now_ms = self._broker.now_ms()
        del self.running[attempt]
        self._slots.end(attempt)
        if type(outcome) is not Succeeded:
            outcome = self._judged(attempt, outcome)
        elif self._debug:
            report_success(attempt.envelope)
        handler, envelope = attempt.handler, attempt.envelope
        self._meters.ended(handler, envelope, outcome, started_ms=attempt.started_ms, now_ms=now_ms)
        self._committer.add(
            settle(
                outcome,
                self._facts(
                    attempt.delivery,
                    now_ms,
                    envelope,
                    attempt.started_ms,
                    attempt.output(succeeded=type(outcome) is Succeeded)
                    if attempt.captured
                    else "",
                    outcome=outcome,
                ),
            )
        )
        if self._waiting:
            self._start_waiting()
        if self.idle:
            self._empty.set()

    def _judged(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Let an operator's cancel stand over a retry or a park, and say what happened."""
        cancelled = self._intents.cancel_for(attempt.envelope)
        if cancelled is not None and isinstance(outcome, (Retried, Parked, HandedBack)):
            outcome = Cancelled(by=cancelled.by)
        report_end(attempt.envelope, outcome)
        return outcome

    def _refuse(self, delivery: Delivery, admission: Admission, now_ms: int) -> None:
        envelope = delivery.envelope
        outcome = outcome_of(admission)
        if outcome is not None:
            self._meters.refused(self.handlers.get(envelope.task), outcome)
            report_refusal(envelope, outcome)
        elif admission is DROP:
            self._meters.superseded()
            report_superseded(envelope)
        charged = admission.charged if isinstance(admission, Run) else 0
        if charged:
            envelope = msgspec.structs.replace(envelope, deliveries=envelope.deliveries + charged)
        if admission is DEFER:
            admission = Defer(self._intents.changed_ms(envelope.id))
        settlement = refuse(admission, self._facts(delivery, now_ms, envelope, outcome=outcome))
        if isinstance(admission, (Recount, Mint)):
            self._renewing.setdefault(envelope.id, [])
            self._committer.add(settlement, partial(self._renewed, envelope.id))
        else:
            self._committer.add(settlement)

    def _renewed(self, job_id: str) -> None:
        copies = self._renewing.pop(job_id, ())
        if copies:
            self._take_all(copies)
            if not self._starting:
                self._give_back_waiting()

    def _give_back_waiting(self) -> None:
        now_ms = self._broker.now_ms()
        while self._waiting:
            delivery, _, _ = self._waiting.popleft()
            self._refuse(delivery, self._admit(delivery, now_ms), now_ms)
        if self.idle:
            self._empty.set()

    def _facts(
        self,
        delivery: Delivery,
        now_ms: int,
        envelope: Envelope,
        started_ms: int | None = None,
        output: str = "",
        *,
        outcome: Outcome | None = None,
    ) -> Facts:
        recording, carrying, owed = self._broker.recording, False, False
        if recording and not self.telling.all:
            recording, carrying, owed = self.telling.of_end(envelope, outcome)
        return Facts(
            delivery=delivery,
            envelope=envelope,
            at_ms=now_ms,
            started_ms=started_ms,
            recording=recording,
            carrying=carrying,
            owed=owed,
            output=output,
            worker=self._machinery.name,
        )
