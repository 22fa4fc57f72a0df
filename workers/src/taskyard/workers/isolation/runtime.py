"""What a handler in a child process may ask of its worker: the other side of `Context`."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from taskyard.shared import errors
from taskyard.shared.errors import ConfigurationError, PublishError, TaskyardError
from taskyard.shared.logs import get_logger
from taskyard.shared.propagation import current_values
from taskyard.workers.isolation.messages import (
    Call,
    DeadlineSoon,
    NotSent,
    Order,
    Progressed,
    Returned,
    Send,
    Sent,
    SoonWanted,
    ToChild,
    Touched,
)
from taskyard.workers.patience import held_too_long

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.clock import Clock
    from taskyard.shared.job import Job
    from taskyard.workers.isolation.channel import Channel

_log = get_logger(__name__)

#: Of requests to send and to call; an answer that comes when its job is over must not meet the
#: next job's request.
_numbers = count(1)


class HostedRuntime:
    """One attempt in a child, as its `Context` sees it. Every method is safe from any thread."""

    def __init__(
        self, order: Order, channel: Channel, loop: asyncio.AbstractEventLoop, clock: Clock
    ) -> None:
        """Begin an attempt that was ordered just now."""
        self._order = order
        self._channel = channel
        self._loop = loop
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._ahead_ms = order.now_ms - clock.now_ms()
        self._soon: Callable[[], None] | None = None
        self._asked: dict[int, Future[Any]] = {}
        self._deadline_ms = order.deadline_ms
        self.said: str | None = None
        """What the handler says of its own success."""

    @property
    def now_ms(self) -> int:
        """The broker's instant, as near as it is known here."""
        return self._clock.now_ms() + self._ahead_ms

    @property
    def deadline_ms(self) -> int | None:
        """When the time to run ends."""
        return self._deadline_ms

    def touch(self, ttr_s: float | None) -> None:
        """Restart the time to run from now (ConfigurationError when the broker would not bear it)."""
        self._move(self._order.ttr_s if ttr_s is None else ttr_s)
        self._channel.send(Touched(ttr_s))

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Report progress, and touch where the broker lets us; the worker does the same."""
        with suppress(ConfigurationError):
            self._move(self._order.ttr_s)
        self._channel.send(Progressed(done, total, note))

    def on_deadline_soon(self, callback: Callable[[], None], before_s: float | None) -> None:
        """Have `callback` called on this process' loop, when the worker says that it is time."""
        self._soon = callback
        self._channel.send(SoonWanted(before_s))

    async def send(self, job: Job[object]) -> str:
        """Send a child job and return its id."""
        number, answer = self._expect()
        self._channel.send(_sent(number, job))
        return str(await asyncio.wrap_future(answer))

    def send_from_thread(self, job: Job[object]) -> str:
        """Send a child job from a thread and return its id."""
        number, answer = self._expect()
        self._channel.send(_sent(number, job))
        return str(answer.result())

    def ok(self, message: str) -> None:
        """Keep what the handler says of its own success."""
        self.said = message

    async def call(self, job: Job[object], timeout_s: float | None) -> object:
        """Send a child job and return its value when it has ended; the slot is free meanwhile."""
        return _value(job, await asyncio.wrap_future(self._call(job, timeout_s)))

    def call_from_thread(self, job: Job[object], timeout_s: float | None) -> object:
        """Do the same from a thread."""
        return _value(job, self._call(job, timeout_s).result())

    def take(self, message: ToChild) -> None:
        """Take an answer of the worker, on the thread that reads."""
        match message:
            case Sent() | Returned() | NotSent():
                self._answered(message)
            case DeadlineSoon():
                self._loop.call_soon_threadsafe(self._call_back)
            case _:
                return

    def _move(self, length_s: float) -> None:
        order = self._order
        held_s = order.held_s + self._clock.monotonic_s() - self._began_s + length_s
        if order.max_ttr_s is not None and held_s > order.max_ttr_s:
            raise held_too_long(order.envelope.id, order.max_ttr_s)
        self._deadline_ms = self.now_ms + round(length_s * 1000)

    def _call(self, job: Job[object], timeout_s: float | None) -> Future[Any]:
        number, answer = self._expect()
        self._channel.send(Call(sent=_sent(number, job), timeout_s=timeout_s))
        return answer

    def _expect(self) -> tuple[int, Future[Any]]:
        """Return the number of the next request, and its answer to come."""
        number, answer = next(_numbers), Future[Any]()
        self._asked[number] = answer
        return number, answer

    def _answered(self, answer: Sent | Returned | NotSent) -> None:
        asked = self._asked.pop(answer.number, None)
        if asked is None or not asked.set_running_or_notify_cancel():
            return  # whoever asked waits no more
        match answer:
            case Sent():
                asked.set_result(answer.job_id)
            case Returned():
                asked.set_result(answer.value)
            case NotSent():
                asked.set_exception(_error_of(answer))

    def _call_back(self) -> None:
        callback, self._soon = self._soon, None
        if callback is None:
            return
        try:
            callback()
        except Exception:  # noqa: BLE001  # a handler's own callback must not end its job
            _log.exception("on_deadline_soon callback failed; the job goes on")


def _sent(number: int, job: Job[object]) -> Send:
    """Return a job as the worker is asked to send it."""
    options = job.resolved
    if options.values is None:  # the worker's own context knows nothing of this handler's
        options = replace(options, values=current_values())
    secrets = None
    if job.secrets is not None:  # in the clear only between us and the worker, which seals them
        secrets = {name: value.reveal() for name, value in job.secrets.items()}
    return Send(
        number=number,
        id=job.id,
        queue=job.queue,
        task=job.task,
        body=job.body,
        options=options,
        secrets=secrets,
    )


def _value(job: Job[object], text: bytes | None) -> object:
    """Return a called job's value, typed by its handler's annotation where that is at hand."""
    if text is None:
        return None
    if job.declared is None:
        return msgspec.json.decode(text)
    return job.declared.signature.decode_result(text)


def _error_of(answer: NotSent) -> TaskyardError:
    """Return the error of the worker's producer, made anew: exceptions do not travel."""
    kind = getattr(errors, answer.error, None)
    if not (isinstance(kind, type) and issubclass(kind, TaskyardError)):
        return PublishError(f"{answer.error}: {answer.text}")
    error = kind.__new__(kind)
    error.args = (answer.text,)
    vars(error).update(answer.fields)
    return error
