"""Runs attempts of one queue in child processes: hands the job over, answers it, judges its end."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import msgspec

from taskyard.shared.catalogue import queues_of
from taskyard.shared.context import set_current_job
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.invoke import EncodedResult, encode_result
from taskyard.shared.job import Job
from taskyard.shared.logs import get_logger
from taskyard.shared.outcomes import HandedBack, Outcome, Succeeded
from taskyard.shared.secret import Secret
from taskyard.shared.task import find_declared
from taskyard.workers.isolation.death import Death, outcome_of_death
from taskyard.workers.isolation.kernel import oom_kills, rose
from taskyard.workers.isolation.messages import (
    Call,
    DeadlineSoon,
    Ended,
    NotSent,
    Order,
    Progressed,
    Returned,
    Send,
    Sent,
    SoonWanted,
    Touched,
    ToWorker,
)
from taskyard.workers.isolation.pool import START_S, NoChild, Pool
from taskyard.workers.lifespan import LONGEST_S
from taskyard.workers.report import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.task import Queue
    from taskyard.workers.attempt import Attempt
    from taskyard.workers.isolation.child import Child
    from taskyard.workers.machinery import Machinery

_log = get_logger(__name__)


class Isolation:
    """The child processes of one queue, and the attempts in them. Belongs to the event loop."""

    def __init__(
        self,
        queue: Queue[Any],
        machinery: Machinery,
        *,
        slots: int,
        on_broken: Callable[[], None],
    ) -> None:
        """Start nothing yet.

        Args:
            queue: whose attempts run.
            machinery: of the worker.
            slots: of the queue; at most so many idle children are kept.
            on_broken: called in a drain when children cannot be set up.

        Raises:
            ConfigurationError: a task wants a child process, which could not import its queue.

        """
        modules = modules_of(queue, machinery.modules)
        self._queue = queue
        self._machinery = machinery
        self._on_broken = on_broken
        self._pool = Pool(
            queue,
            modules,
            machinery.clock,
            size=slots,
            keys=machinery.keys,
            max_rss_bytes=machinery.max_rss_bytes,
            once=machinery.draining,
        )
        self._problem = problem_of(queue, modules)
        self._sending: set[asyncio.Task[None]] = set()
        for task in queue.tasks.values():
            if task.mode == "process" and self._problem:
                raise ConfigurationError(
                    f"task {task.name}: mode 'process' needs a queue that a child process can "
                    f"import: {self._problem}"
                )

    @property
    def problem(self) -> str:
        """Why no child can be set up, in words; empty when one can, or was not needed lately."""
        return self._pool.problem

    def offers(self, envelope: Envelope) -> bool:
        """Tell whether a suspect can run apart from the worker; say so when it cannot."""
        if self._problem:
            _log.warning(
                "a job that may have killed workers runs in this one: no child process could run it",
                **fields_of(envelope),
                problem=self._problem,
            )
        return not self._problem

    async def run(self, attempt: Attempt) -> Outcome:
        """Run an attempt to its end and return its outcome; cancelled, it kills the child first."""
        outcome, heard = await self._run(attempt)
        if not heard:  # a child that died before it heard of the job was not killed by it
            outcome, _ = await self._run(attempt)
        return outcome

    async def _run(self, attempt: Attempt) -> tuple[Outcome, bool]:
        """Run an attempt in a child; return its outcome, and whether the child heard of it."""
        try:
            child = await self._child_for(attempt)
        except NoChild as error:
            return await self._stand_still(error), True
        talk = _Talk(self, attempt, child)
        before = oom_kills()
        try:
            talk.begin()
            await talk.wait()
        except BaseException:
            child.kill()
            await asyncio.wait({child.ended})
            raise
        finally:
            talk.over()
        if not talk.ended.done():
            return self._died(child, attempt, before), talk.began or not child.unheard
        ended = talk.ended.result()
        child.assign({"queue": self._queue.name, "child": child.pid})
        if attempt.alone:
            self._pool.retire(child)
        else:
            self._pool.give(child, ended)
        return _outcome_of(ended), True

    def resize(self, slots: int) -> None:
        """Keep at most so many idle children from now on."""
        self._pool.resize(slots)

    async def close(self) -> None:
        """End all children."""
        await self._pool.close()

    def order(self, attempt: Attempt) -> Order:
        """Return what a child is told of an attempt."""
        broker, clock = self._machinery.broker, self._machinery.clock
        return Order(
            envelope=attempt.envelope,
            ttr_s=attempt.ttr_s,
            now_ms=broker.now_ms(),
            deadline_ms=attempt.deadline_ms or 0,
            max_ttr_s=broker.capabilities.max_ttr_s,
            held_s=clock.monotonic_s() - attempt.taken_s,
        )

    async def _child_for(self, attempt: Attempt) -> Child:
        if self._pool.has_idle and not attempt.alone:
            return await self._pool.take()
        attempt.postpone(START_S + LONGEST_S)  # setting a child up is not the handler's time
        child = await self._pool.take(fresh=attempt.alone)
        attempt.postpone(0)
        return child

    async def _stand_still(self, error: NoChild) -> HandedBack:
        """Keep the slot for a while: as in the worker itself, a queue that cannot be set up stands still.

        Then the job goes back, uncharged: another worker may be better off. A drain ends instead.
        """
        if self._machinery.draining:
            self._on_broken()
        else:
            await asyncio.sleep(self._pool.pause_s)
        return HandedBack(reason=str(error))

    def send(self, attempt: Attempt, child: Child, request: Send | Call) -> None:
        """Send a job for a handler, as its child, wait for its end if it is called, and answer."""
        inside = copy_context()
        inside.run(set_current_job, attempt.context)
        task = asyncio.get_running_loop().create_task(
            self._send(attempt, child, request), name="send from child", context=inside
        )
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, attempt: Attempt, child: Child, request: Send | Call) -> None:
        sent = request.sent if isinstance(request, Call) else request
        try:
            answer = await self._answer(attempt, request)
        except Exception as error:  # noqa: BLE001  # a task's boundary: the handler that waits gets it
            simple = {k: v for k, v in vars(error).items() if isinstance(v, (str, int, float))}
            child.send(NotSent(sent.number, type(error).__name__, str(error), simple))
        else:
            child.send(answer)

    async def _answer(self, attempt: Attempt, request: Send | Call) -> Sent | Returned:
        if isinstance(request, Send):
            job_id = await self._machinery.children.send(_job_of(request))
            return Sent(request.number, job_id)
        value = await attempt.call(_job_of(request.sent), request.timeout_s)
        raw, _ = encode_result(value)  # it came as JSON, so it is JSON
        return Returned(request.sent.number, None if raw is None else bytes(raw))

    def _died(self, child: Child, attempt: Attempt, before: int | None) -> Outcome:
        death = Death(code=child.ended.result(), out_of_memory=rose(before, oom_kills()))
        return outcome_of_death(death, attempt.envelope, self._queue.max_deliveries)


class _Talk:
    """What a child says while one attempt runs in it, until that is over."""

    def __init__(self, isolation: Isolation, attempt: Attempt, child: Child) -> None:
        self._isolation = isolation
        self._attempt = attempt
        self._child = child
        self._over = False
        #: Whether the child was heard, or told anything but the job.
        self.began = False
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Hand the job over."""
        self._child.assign(fields_of(self._attempt.envelope), self._attempt.capture)
        self._child.on_message = self._take
        self._child.send(self._isolation.order(self._attempt))

    async def wait(self) -> None:
        """Wait until the job has ended, or its process."""
        waited: set[asyncio.Future[Any]] = {self.ended, self._child.ended}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)

    def over(self) -> None:
        """Hear no more."""
        self._over = True

    def _take(self, message: ToWorker) -> None:
        if self._over:
            return
        self.began = True
        match message:
            case Ended():
                if not self.ended.done():
                    self.ended.set_result(message)
            case Touched(ttr_s):
                self._touch(ttr_s)
            case Progressed(done, total, note):
                self._attempt.progress(done, total, note)
            case SoonWanted(before_s):
                self._attempt.on_deadline_soon(self._soon, before_s)
            case Send() | Call():
                self._isolation.send(self._attempt, self._child, message)
            case _:
                return

    def _touch(self, ttr_s: float | None) -> None:
        with suppress(ConfigurationError):  # the child has told its handler; here nothing moves
            self._attempt.touch(ttr_s)

    def _soon(self) -> None:
        if not self._over:
            self.began = True
            self._child.send(DeadlineSoon())


def modules_of(queue: Queue[Any], modules: Sequence[str]) -> tuple[str, ...]:
    """Return what a child has to import: what the worker was started with, or where tasks are from."""
    return tuple(modules) or tuple(
        dict.fromkeys(task.function.__module__ for task in queue.tasks.values())
    )


def problem_of(queue: Queue[Any], modules: Sequence[str]) -> str:
    """Return why a child could not import a queue, in words; empty when it can."""
    if "__main__" in modules:
        return f"queue {queue.name} is declared in the program itself; move it to a module"
    loaded = [sys.modules[name] for name in modules if name in sys.modules]
    if any(found is queue for module in loaded for found in queues_of(module)):
        return ""
    named = ", ".join(modules) or "none"
    return f"queue {queue.name} is no attribute of its modules ({named})"


def _outcome_of(ended: Ended) -> Outcome:
    if not isinstance(ended.outcome, Succeeded):
        return ended.outcome
    if ended.value is None and not ended.problem:
        return Succeeded(ok=ended.outcome.ok)
    value = None if ended.value is None else msgspec.Raw(ended.value)
    return Succeeded(value=EncodedResult(value, ended.problem), ok=ended.outcome.ok)


def _job_of(request: Send) -> Job[object]:
    """Return the job that a handler sends, of the task it was made from where that is known here."""
    try:
        declared = find_declared(request.queue, request.task)
    except NotFound:
        declared = None
    secrets = None
    if request.secrets is not None:
        secrets = {name: Secret(text) for name, text in request.secrets.items()}
    return Job[object].from_parts(
        request.id, request.queue, request.task, request.body, request.options, declared, secrets
    )
