"""Hands envelopes to the broker, gathering what is sent at the same time into one call.

There is no timer: what arrives while calls are under way waits for one of them to end, and then
goes out together. A lone sender thus waits for nothing, and many senders share their confirms.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from taskyard.producer.direct import Publish
    from taskyard.producer.tally import Tally
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope

#: Calls under way at once. With one, a network broker idles between a confirm and the next
#: publish; with many, each carries little, and an embedded broker pays a commit for each.
CALLS: Final = 4
#: Most envelopes in one call: enough to share a commit, few enough to confirm within its deadline.
BATCH: Final = 512


class Submission:
    """One envelope on its way; whoever waits for its receipt subclasses this."""

    __slots__ = ("deadline_s", "envelope", "since_s")

    def __init__(self, envelope: Envelope, deadline_s: float, since_s: float) -> None:
        """Take an envelope that is to be confirmed `deadline_s` seconds after `since_s`."""
        self.envelope = envelope
        self.deadline_s = deadline_s
        self.since_s = since_s

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return True

    def settle(self, receipt: Receipt) -> None:
        """Tell whoever waits what became of it."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits that the broker's adapter failed."""
        raise NotImplementedError


class Promise(Submission):
    """A submission that a coroutine waits for."""

    __slots__ = ("future",)

    def __init__(self, envelope: Envelope, deadline_s: float, since_s: float) -> None:
        """See `Submission`; made on the event loop."""
        super().__init__(envelope, deadline_s, since_s)
        self.future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    @property
    def wanted(self) -> bool:
        return not self.future.done()

    def settle(self, receipt: Receipt) -> None:
        if not self.future.done():
            self.future.set_result(receipt)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Publisher:
    """Publishes on one event loop; `submit` and the coroutines are called there only."""

    def __init__(self, hand_over: Publish, *, tally: Tally, clock: Clock) -> None:
        """Gather for `hand_over`, which takes several envelopes at a time."""
        self._hand_over = hand_over
        self._tally = tally
        self._clock = clock
        self._pending: deque[Submission] = deque()
        self._calls = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    async def publish(self, envelope: Envelope, deadline_s: float) -> Receipt:
        """Publish one envelope and return its receipt within `deadline_s` seconds."""
        if self._pending or self._calls >= CALLS:
            promise = Promise(envelope, deadline_s, self._clock.monotonic_s())
            self.submit(promise)
            return await promise.future
        return (await self._call((envelope,), deadline_s))[0]

    async def publish_many(self, envelopes: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        """Publish envelopes that belong together, in order, in a call of their own."""
        since_s = self._clock.monotonic_s()
        receipts = await self._hand_over(envelopes, deadline_s)
        self._tally.count(envelopes, receipts, self._clock.monotonic_s() - since_s)
        return receipts

    def submit(self, submission: Submission) -> None:
        """Publish an envelope as soon as a call is free; the submission hears of its receipt."""
        self._pending.append(submission)
        self.flush()

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        """Publish envelopes that were sent at the same time."""
        self._pending.extend(submissions)
        self.flush()

    async def close(self) -> None:
        """Wait until every call has ended, each by its own deadline, and refuse what waits."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._alarm is not None:
            self._alarm.cancel()
        pending, self._pending = self._pending, deque()
        for submission in pending:
            submission.settle(Receipt(status=PublishStatus.UNAVAILABLE, detail="closing"))

    def flush(self) -> None:
        """Start as many calls as are free for what waits."""
        while self._pending and self._calls < CALLS:
            batch = self._gather()
            if not batch:
                break
            task = asyncio.get_running_loop().create_task(self._run(batch), name="publish")
            self._calls += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._pending and self._alarm is None:
            self._set_alarm()

    def _gather(self) -> list[Submission]:
        """Take what goes into the next call: of one deadline, the longest waiting first."""
        batch: list[Submission] = []
        pending = self._pending
        while pending and len(batch) < BATCH:
            if batch and pending[0].deadline_s != batch[0].deadline_s:
                break
            submission = pending.popleft()
            if submission.wanted:
                batch.append(submission)
        return batch

    async def _run(self, batch: list[Submission]) -> None:
        waited_s = self._clock.monotonic_s() - batch[0].since_s
        envelopes = [submission.envelope for submission in batch]
        try:
            receipts = await self._hand_over(envelopes, batch[0].deadline_s - waited_s)
        except BaseException as error:
            # Whatever the adapter did, nobody is left waiting for a receipt that never comes.
            for submission in batch:
                submission.fail(_passed_on(error))
            if not isinstance(error, Exception):
                raise
        else:
            now_s = self._clock.monotonic_s()
            for submission, receipt in zip(batch, receipts, strict=True):
                self._tally.count_one(submission.envelope, receipt, now_s - submission.since_s)
            # Last: threads that wake up now wait for the interpreter until this one lets go of it.
            for submission, receipt in zip(batch, receipts, strict=True):
                submission.settle(receipt)
        finally:
            self._end_call()

    async def _call(self, envelopes: Sequence[Envelope], deadline_s: float) -> list[Receipt]:
        self._calls += 1
        since_s = self._clock.monotonic_s()
        try:
            receipts = await self._hand_over(envelopes, deadline_s)
        finally:
            self._end_call()
        self._tally.count(envelopes, receipts, self._clock.monotonic_s() - since_s)
        return receipts

    def _end_call(self) -> None:
        self._calls -= 1
        if self._pending:
            self.flush()

    def _set_alarm(self) -> None:
        """Wake when the first of those that wait for a call runs out of time."""
        ends_s = min(submission.since_s + submission.deadline_s for submission in self._pending)
        delay_s = max(ends_s - self._clock.monotonic_s(), 0.0)
        self._alarm = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._alarm = None
        now_s = self._clock.monotonic_s()
        kept: deque[Submission] = deque()
        for submission in self._pending:
            if submission.since_s + submission.deadline_s <= now_s:
                receipt = Receipt(
                    status=PublishStatus.UNAVAILABLE,
                    detail="earlier publishes are still unconfirmed",
                )
                submission.settle(receipt)
                self._tally.count_one(submission.envelope, receipt, submission.deadline_s)
            else:
                kept.append(submission)
        self._pending = kept
        if kept:
            self._set_alarm()


def _passed_on(error: BaseException) -> BaseException:
    if isinstance(error, asyncio.CancelledError):
        return Unavailable("the producer was closed while the job was being sent; it may have been")
    return error
