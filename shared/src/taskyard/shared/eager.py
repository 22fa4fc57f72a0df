"""Eager mode: jobs run where they are sent, for tests and for programs without a broker.

Handlers are called through the same binding and decisions as in a worker. Only time differs:
a delay or a retry's gap is over at once, on a clock of the job's own. What a worker would hand
to another process (a crash, a pause, a cancel) does not exist here.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from taskyard.shared.clock import SystemClock, VirtualClock
from taskyard.shared.context import Context
from taskyard.shared.decide import TimedOut, outcome_of_error, policy_of, ttr_s_of
from taskyard.shared.errors import ResultTimeout
from taskyard.shared.invoke import (
    activate,
    bind,
    call_async,
    call_sync,
    encode_result,
    reply_of,
    wrap,
)
from taskyard.shared.keyring import NO_KEYS
from taskyard.shared.outcomes import Outcome, Parked, Retried, Succeeded
from taskyard.shared.states import ParkReason

if TYPE_CHECKING:
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.feed import Reply
    from taskyard.shared.job import Job
    from taskyard.shared.keyring import KeyRing
    from taskyard.shared.retry import Random
    from taskyard.shared.task import Queue, Task

_log = logging.getLogger("taskyard.eager")

#: Runs a `def` handler's call outside the event loop and returns its value.
Offload = Callable[[Callable[[], object]], Awaitable[object]]
Send = Callable[["Job[object]"], Awaitable[str]]
#: Runs a job to its end and returns its value, or raises as a handle's `result` does.
Call = Callable[["Job[object]"], Awaitable[object]]


class Eager:
    """Runs jobs at once. It lives on one event loop."""

    def __init__(self, *, rng: Random, send: Send, call: Call, keys: KeyRing = NO_KEYS) -> None:
        """Draw the retries' jitter from `rng`; children are sent by `send`, or by `call`.

        `keys` decrypt arguments.
        """
        self._rng = rng
        self._keys = keys
        self._send = send
        self._call = call
        self._lifespans: dict[int, _Lifespan] = {}

    async def run(
        self, task: Task[..., Any], envelope: Envelope, *, offload: Offload | None = None
    ) -> Reply:
        """Run a job to its end, all its attempts, and return what a worker would have replied.

        Args:
            task: whose handler runs.
            envelope: the job as it was sent.
            offload: runs `def` handlers; None takes a thread, as a worker does.

        """
        clock = VirtualClock(envelope.due_ms)
        while True:
            outcome = await self._attempt(task, envelope, clock, offload or asyncio.to_thread)
            value, problem = None, ""
            if isinstance(outcome, Succeeded):
                value, problem = encode_result(outcome.value)
            reply = reply_of(envelope, outcome, value, problem)
            if reply is not None:
                self._say(reply, envelope)
                return reply
            if isinstance(outcome, Retried):
                clock.advance(ms=outcome.delay_ms)
                envelope = _next_attempt(envelope, outcome, clock.now_ms())

    async def close(self) -> None:
        """Leave the lifespans that were entered."""
        lifespans, self._lifespans = self._lifespans, {}
        for lifespan in lifespans.values():
            await lifespan.close()

    async def _attempt(
        self, task: Task[..., Any], envelope: Envelope, clock: VirtualClock, offload: Offload
    ) -> Outcome:
        if envelope.expires_ms is not None and clock.now_ms() >= envelope.expires_ms:
            return Parked(reason=ParkReason.EXPIRED, detail="its expiry passed before it was due")
        runtime = _Runtime(ttr_s_of(envelope, task), self._send, self._call)
        try:
            arguments = bind(task, envelope, self._keys)
            resources = await self._resources(task.queue)
            context = Context[Any](envelope, runtime, resources, self._keys)
            call = _calling(task, context, arguments, offload)
            value = await runtime.run(_activated(task, context, call))
            return Succeeded(value=value, ok=runtime.said)
        except Exception as error:  # noqa: BLE001  # the edge at which a handler's exception becomes an outcome
            policy = policy_of(envelope, task)
            return outcome_of_error(error, envelope, policy, now_ms=clock.now_ms(), rng=self._rng)

    async def _resources(self, queue: Queue[Any]) -> object:
        if queue.lifespan is None:
            return None
        lifespan = self._lifespans.get(id(queue))
        if lifespan is None:
            lifespan = self._lifespans[id(queue)] = _Lifespan(queue)
        return await lifespan.resources()

    def _say(self, reply: Reply, envelope: Envelope) -> None:
        if reply.outcome != "succeeded":
            said = reply.message or (reply.error.message if reply.error else "")
            _log.warning(
                "job %s (%s) %s (%s): %s",
                reply.job,
                envelope.task,
                reply.outcome,
                reply.detail,
                said,
            )


def _calling(
    task: Task[..., Any], context: Context[Any], arguments: dict[str, object], offload: Offload
) -> Callable[[], Awaitable[object]]:
    async def on_loop() -> object:
        with _without_exit():
            return await call_async(task, context, arguments)

    def in_thread() -> object:
        with _without_exit():
            return call_sync(task, context, arguments)

    def offloaded() -> Awaitable[object]:
        inside = contextvars.copy_context()
        return offload(lambda: inside.run(in_thread))

    return on_loop if task.asynchronous else offloaded


@contextmanager
def _without_exit() -> Generator[None]:
    """Let a handler's `sys.exit()` end its attempt, not the event loop that runs it."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"the handler called sys.exit({error.code!r})") from error


async def _activated(
    task: Task[..., Any], context: Context[Any], call: Callable[[], Awaitable[object]]
) -> object:
    activate(context)
    return await wrap(task.queue.middleware, context, call)()


def _next_attempt(envelope: Envelope, outcome: Retried, due_ms: int) -> Envelope:
    return msgspec.structs.replace(
        envelope,
        attempt=envelope.attempt + 1,
        not_before_ms=due_ms,
        priority=envelope.priority if outcome.priority is None else outcome.priority,
    )


class _Runtime:
    """One attempt's time to run, and its way to send children."""

    def __init__(self, ttr_s: float, send: Send, call: Call) -> None:
        self._ttr_s = ttr_s
        self._send = send
        self._call = call
        self.said: str | None = None
        self._loop = asyncio.get_running_loop()
        self._clock = SystemClock()
        self._ends_s = self._loop.time() + ttr_s
        self._ends_ms = self._clock.now_ms() + round(ttr_s * 1000)
        self._limit: asyncio.Timeout | None = None
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self, attempt: Coroutine[Any, Any, object]) -> object:
        """Run an attempt in a task of its own, within its time to run."""
        task = self._loop.create_task(attempt, name="eager job")
        try:
            async with asyncio.timeout_at(self._ends_s) as self._limit:
                return await task
        except TimeoutError as error:
            if self._limit is not None and self._limit.expired():
                raise TimedOut(f"it ran longer than its {self._ttr_s:g} s") from error
            raise
        finally:
            self._limit = None
            for timer in self._timers:
                timer.cancel()

    @property
    def deadline_ms(self) -> int | None:
        return self._ends_ms

    def touch(self, ttr_s: float | None) -> None:
        ttr_s = ttr_s or self._ttr_s
        self._ends_s = self._loop.time() + ttr_s
        self._ends_ms = self._clock.now_ms() + round(ttr_s * 1000)
        self._loop.call_soon_threadsafe(self._reschedule)

    def progress(self, done: float, total: float | None, note: str) -> None:
        self.touch(None)

    def on_deadline_soon(self, callback: Callable[[], None], before_s: float | None) -> None:
        before_s = max(self._ttr_s / 10, 1.0) if before_s is None else before_s
        self._loop.call_soon_threadsafe(self._arm, callback, before_s)

    async def send(self, job: Job[object]) -> str:
        return await self._send(job)

    def send_from_thread(self, job: Job[object]) -> str:
        async def send() -> str:
            return await self._send(job)

        return asyncio.run_coroutine_threadsafe(send(), self._loop).result()

    def ok(self, message: str) -> None:
        self.said = message

    async def call(self, job: Job[object], timeout_s: float | None) -> object:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await self._call(job)
        except TimeoutError as error:
            if limit.expired() and timeout_s is not None:
                raise ResultTimeout(job.id, timeout_s) from error
            raise

    def call_from_thread(self, job: Job[object], timeout_s: float | None) -> object:
        return asyncio.run_coroutine_threadsafe(self.call(job, timeout_s), self._loop).result()

    def _reschedule(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._ends_s)

    def _arm(self, callback: Callable[[], None], before_s: float) -> None:
        left_s = self._ends_s - self._loop.time() - before_s
        if left_s <= 0:
            callback()
        else:
            self._timers.append(self._loop.call_later(left_s, self._arm, callback, before_s))


class _Lifespan:
    """A queue's resources, entered and left in one task, as some libraries need it."""

    def __init__(self, queue: Queue[Any]) -> None:
        self._queue = queue
        self._leave = asyncio.Event()
        self._entered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(), name=f"lifespan of {queue.name}")

    async def resources(self) -> object:
        return await asyncio.shield(self._entered)  # one waiter's end must not end the others'

    async def close(self) -> None:
        self._leave.set()
        await self._task

    async def _live(self) -> None:
        make = self._queue.lifespan
        if make is None:
            return
        try:
            async with make() as resources:
                self._entered.set_result(resources)
                await self._leave.wait()
        except Exception as error:
            if self._entered.done():
                raise
            self._entered.set_exception(error)  # each job of the queue fails with it
