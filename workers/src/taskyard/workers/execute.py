"""Runs attempts: binds arguments and context, calls the handler, and says how it ended.

Each attempt ends once. Its end is told to the lane by `on_end`; what the lane makes of it (settle,
next job) is not known here.
"""

from __future__ import annotations

import asyncio
from contextvars import Context as ExecutionContext, copy_context
from functools import partial
from typing import TYPE_CHECKING

from taskyard.shared.decide import TimedOut, outcome_of_error, policy_of
from taskyard.shared.invoke import activate, bind, call_async, call_sync, wrap
from taskyard.shared.logs import get_logger
from taskyard.shared.outcomes import Cancelled, HandedBack, Outcome, Succeeded
from taskyard.workers.attempt import Attempt, Stop
from taskyard.workers.patience import held_too_long
from taskyard.workers.report import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.keyring import KeyRing
    from taskyard.workers.calls import Calls
    from taskyard.workers.handler import Handler
    from taskyard.workers.isolation.conduct import Isolation
    from taskyard.workers.machinery import Machinery

_log = get_logger(__name__)

#: What a call in a thread returned: the attempt, its value, and what it raised.
_Returned = tuple[Attempt, object, BaseException | None]


class Executor:
    """Runs the attempts of one queue."""

    def __init__(
        self,
        machinery: Machinery,
        isolation: Isolation,
        longest_ttr_s: float,
        on_end: Callable[[Attempt, Outcome], None],
        calls: Calls,
    ) -> None:
        """Run attempts with a worker's machinery.

        Args:
            machinery: of the worker.
            isolation: runs those that are isolated.
            longest_ttr_s: the time to run that the consumer was opened with, in seconds.
            on_end: told of each attempt's outcome, once.
            calls: of its attempts.

        """
        self._broker = machinery.broker
        self._rng = machinery.rng
        self._threads = machinery.threads
        self.keys = machinery.keys
        self._isolation = isolation
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        # An attempt may be started from within another's end, whose context is not for it.
        self._base = copy_context()
        self._extending: set[asyncio.Task[None]] = set()
        self.clock = machinery.clock
        self.now_ms = machinery.broker.now_ms
        self.deadlines = machinery.deadlines
        self.children = machinery.children
        self.calls = calls
        self.output_limit = machinery.output_limit
        self.longest_ttr_s = longest_ttr_s
        self.max_ttr_s = machinery.broker.capabilities.max_ttr_s
        self.resources: object = None
        self.abandoned_threads = 0
        self.abandoned_tasks = 0

    def start(self, attempt: Attempt) -> None:
        """Run an attempt, in a task of its own or in a thread."""
        self.deadlines.watch(attempt)
        if attempt.ttr_s > self.longest_ttr_s:
            self.extend(attempt, attempt.deadline_s)
        handler = attempt.handler
        if attempt.isolated:
            attempt.task = self._loop.create_task(
                self._run_isolated(attempt), name=handler.task.name, context=self._base.copy()
            )
        elif handler.inline:
            self._threads.submit(
                partial(_call, self._base.copy(), attempt, self.keys), self._returned
            )
        else:
            attempt.task = self._loop.create_task(
                self._run(attempt), name=handler.task.name, context=self._base.copy()
            )

    def stop(self, attempt: Attempt, why: Stop, *, by: str = "") -> None:
        """Tell a running attempt to end, and abandon it when it cannot be told."""
        if attempt.ended or attempt.stopping is not None:
            return
        if attempt.handler.inline and not attempt.isolated and why is Stop.ABORT:
            return  # a thread cannot be stopped; it finishes, as without an abort
        attempt.stopping, attempt.by = why, by
        if attempt.task is None:
            self.abandon(attempt)
            return
        if attempt.begun:
            attempt.task.cancel()
        attempt.be_patient(self.clock.monotonic_s())

    def abandon(self, attempt: Attempt) -> None:
        """Decide an attempt's outcome without its handler, whose own end will count for nothing."""
        if attempt.ended:
            return
        if attempt.task is None:
            self.abandoned_threads += 1
        else:
            self.abandoned_tasks += 1
        _log.warning(
            "attempt abandoned: its handler does not end; its late outcome will be ignored",
            **fields_of(attempt.envelope),
            why=(attempt.stopping or Stop.TIME_UP).value,
        )
        self._end(attempt, self._stopped(attempt, None))

    def keeps(self, handler: Handler) -> bool:
        """Tell whether the output of a handler's attempts has a place where it is kept."""
        return self._broker.recording and handler.output != "none" and self.output_limit > 0

    def check_patience(self, attempt: Attempt, held_s: float) -> None:
        """Refuse to keep a delivery for `held_s` seconds in all if the broker would not.

        Raises:
            ConfigurationError: the broker takes it back before.

        """
        if self.max_ttr_s is not None and held_s > self.max_ttr_s:
            raise held_too_long(attempt.envelope.id, self.max_ttr_s)

    def extend(self, attempt: Attempt, until_s: float) -> None:
        """Ask the broker for patience until `until_s` (monotonic); from any thread."""
        until_ms = self.now_ms() + round((until_s - self.clock.monotonic_s()) * 1000)
        self._loop.call_soon_threadsafe(self._extend, attempt, until_ms)

    def ring(self, attempt: Attempt) -> None:
        """Look at an attempt's instant again; from any thread."""
        self._loop.call_soon_threadsafe(self._watch_again, attempt)

    def call_back(self, attempt: Attempt, callback: Callable[[], None]) -> None:
        """Call what a handler left to be called."""
        try:
            callback()
        except Exception:  # noqa: BLE001  # a handler's own callback must not stop the worker
            _log.exception(
                "on_deadline_soon callback failed; the job goes on", **fields_of(attempt.envelope)
            )

    async def _run(self, attempt: Attempt) -> None:
        attempt.begun = True
        if attempt.stopping is not None:
            self._end(attempt, self._stopped(attempt, None))
            return
        handler = attempt.handler
        outcome: Outcome
        try:
            if handler.middleware:
                activate(attempt.context)
                value = await wrap(
                    handler.middleware, attempt.context, partial(self._inside, attempt)
                )()
            else:
                value = await call_async(
                    handler.task, attempt.context, bind(handler.task, attempt.envelope, self.keys)
                )
        except BaseException as error:  # noqa: BLE001  # whatever ends a handler ends its attempt only
            outcome = self._failed(attempt, error)
        else:
            outcome = (
                Succeeded(value=value, ok=attempt.said)
                if attempt.stopping is None
                else self._stopped(attempt, None)
            )
        self._end(attempt, outcome)

    async def _run_isolated(self, attempt: Attempt) -> None:
        attempt.begun = True
        outcome: Outcome
        try:
            outcome = (
                await self._isolation.run(attempt) if attempt.stopping is None else HandedBack()
            )
        except BaseException as error:  # noqa: BLE001  # no child, or a stop that has killed it
            outcome = self._failed(attempt, error)
        if attempt.stopping is not None:
            outcome = self._stopped(attempt, None)  # where we waited for it says nothing
        self._end(attempt, outcome)

    async def _inside(self, attempt: Attempt) -> object:
        """Call the handler, inside its middleware."""
        if attempt.handler.threaded:
            return await self._in_thread(attempt)
        task = attempt.handler.task
        return await call_async(task, attempt.context, bind(task, attempt.envelope, self.keys))

    async def _in_thread(self, attempt: Attempt) -> object:
        result: asyncio.Future[_Returned] = self._loop.create_future()
        self._threads.submit(
            partial(_call, copy_context(), attempt, self.keys), partial(self._hand_over, result)
        )
        try:
            _, value, error = await result
        except asyncio.CancelledError:
            self.abandoned_threads += 1
            raise
        if error is not None:
            raise error
        return value

    def _hand_over(self, result: asyncio.Future[_Returned], returned: _Returned) -> None:
        if result.cancelled():
            self.abandoned_threads -= 1
        else:
            result.set_result(returned)

    def _returned(self, returned: _Returned) -> None:
        attempt, value, error = returned
        if attempt.ended:
            self._end(attempt, HandedBack())
        elif error is not None:
            self._end(attempt, self._failed(attempt, error))
        else:
            self._end(attempt, Succeeded(value=value, ok=attempt.said))

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt.ended:
            self._ended_late(attempt)
            return
        attempt.ended = True
        self.deadlines.forget(attempt)
        self._on_end(attempt, outcome)

    def _ended_late(self, attempt: Attempt) -> None:
        if attempt.task is None:
            self.abandoned_threads -= 1
        else:
            self.abandoned_tasks -= 1
        _log.warning(
            "abandoned handler ended; its outcome is ignored", **fields_of(attempt.envelope)
        )

    def _failed(self, attempt: Attempt, error: BaseException) -> Outcome:
        if attempt.stopping is not None:
            return self._stopped(attempt, error)
        return self._outcome_of_error(attempt, error)

    def _stopped(self, attempt: Attempt, error: BaseException | None) -> Outcome:
        """Return the outcome of an attempt that was told to end, whatever its handler made of it."""
        if attempt.stopping is Stop.HAND_BACK:
            return HandedBack()
        if attempt.stopping is Stop.ABORT:
            return Cancelled(by=attempt.by, aborted=True)
        timed_out = TimedOut(f"not finished within its time to run of {attempt.ttr_s:g} s")
        timed_out.__cause__ = error  # its traceback says where the handler was
        return self._outcome_of_error(attempt, timed_out)

    def _outcome_of_error(self, attempt: Attempt, error: BaseException) -> Outcome:
        policy = policy_of(attempt.envelope, attempt.handler.task)
        return outcome_of_error(
            error, attempt.envelope, policy, now_ms=self.now_ms(), rng=self._rng
        )

    def _watch_again(self, attempt: Attempt) -> None:
        if not attempt.ended:
            self.deadlines.watch(attempt)

    def _extend(self, attempt: Attempt, until_ms: int) -> None:
        if not attempt.ended:
            task = self._loop.create_task(self._extend_now(attempt, until_ms), name="extend")
            self._extending.add(task)
            task.add_done_callback(self._extending.discard)

    async def _extend_now(self, attempt: Attempt, until_ms: int) -> None:
        try:
            kept = await self._broker.extend(attempt.delivery, until_ms)
        except Exception as error:  # noqa: BLE001  # a task's boundary: the job goes on, at worst it runs twice
            _log.warning(
                "the broker was not asked for patience",
                **fields_of(attempt.envelope),
                problem=str(error),
            )
            return
        if not kept:
            _log.warning(
                "the broker will take the job back before its deadline; it may run twice",
                **fields_of(attempt.envelope),
            )


def _call(context: ExecutionContext, attempt: Attempt, keys: KeyRing) -> _Returned:
    """Call a `def` handler, in its thread."""
    return context.run(_call_here, attempt, keys)


def _call_here(attempt: Attempt, keys: KeyRing) -> _Returned:
    task = attempt.handler.task
    try:
        return attempt, call_sync(task, attempt.context, bind(task, attempt.envelope, keys)), None
    except BaseException as error:  # noqa: BLE001  # whatever ends a handler ends its attempt only
        return attempt, None, error
