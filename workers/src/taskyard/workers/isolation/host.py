"""Runs jobs inside a child process, one at a time, and tells the worker how they ended."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from contextvars import Context as ExecutionContext, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from taskyard.shared.context import Context
from taskyard.shared.decide import outcome_of_error, policy_of
from taskyard.shared.invoke import activate, bind, call_async, call_sync, encode_result, wrap
from taskyard.shared.outcomes import Succeeded
from taskyard.workers.isolation.kernel import flush_c, left_behind, offspring
from taskyard.workers.isolation.messages import Broken, Ended, Order, Ready
from taskyard.workers.isolation.runtime import HostedRuntime
from taskyard.workers.lifespan import Lifespan, LifespanFailed
from taskyard.workers.memory import resident_bytes, settle_memory
from taskyard.workers.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.keyring import KeyRing
    from taskyard.shared.retry import Random
    from taskyard.shared.task import Queue, Task
    from taskyard.workers.isolation.channel import Channel


class Host:
    """The life of a child: its queue's lifespan, and the jobs in between."""

    def __init__(
        self,
        queue: Queue[Any],
        channel: Channel,
        clock: Clock,
        rng: Random,
        *,
        keys: KeyRing,
        max_rss_bytes: int | None = None,
    ) -> None:
        """Serve `queue` over `channel`, on the loop that runs now.

        Args:
            queue: as declared.
            channel: to the worker.
            clock: of the system.
            rng: for jitter.
            keys: for encrypted arguments.
            max_rss_bytes: when given, resident memory is measured after each job.

        """
        self._queue = queue
        self._channel = channel
        self._clock = clock
        self._rng = rng
        self._keys = keys
        self._max_rss_bytes = max_rss_bytes
        self._loop = asyncio.get_running_loop()
        self._threads = Threads(self._loop, "job")
        self._orders: asyncio.Queue[Order | None] = asyncio.Queue()
        self._base = copy_context()
        self._resources: object = None
        self._offspring: frozenset[int] = frozenset()

    async def serve(self) -> None:
        """Enter the lifespan, run jobs until the worker wants no more, leave the lifespan."""
        lifespan = Lifespan(self._queue)
        try:
            self._resources = await lifespan.enter(once=True)
        except LifespanFailed as error:
            self._channel.send(Broken(str(error)))
            return
        self._channel.on_order = lambda order: self._loop.call_soon_threadsafe(
            self._orders.put_nowait, order
        )
        self._offspring = offspring()
        self._channel.send(Ready())
        try:
            while (order := await self._orders.get()) is not None:
                # A task of its own: neither its context nor its cancelling is ours.
                job = self._loop.create_task(
                    self._run(order), name=order.envelope.task, context=self._base.copy()
                )
                await job
        finally:
            await lifespan.leave()
            self._threads.close()

    async def _run(self, order: Order) -> None:
        envelope = order.envelope
        task = self._queue.find(envelope.task)
        runtime = HostedRuntime(order, self._channel, self._loop, self._clock)
        self._channel.runtime = runtime
        context = Context[Any](envelope, runtime, self._resources, self._keys)
        call = partial(self._call, task, context)
        try:
            activate(context)
            value = await wrap(self._queue.middleware, context, call)()
        except BaseException as error:  # noqa: BLE001  # whatever ends a handler ends its attempt only
            ended = Ended(
                outcome=outcome_of_error(
                    error,
                    envelope,
                    policy_of(envelope, task),
                    now_ms=runtime.now_ms,
                    rng=self._rng,
                )
            )
            del error
        else:
            raw, problem = encode_result(value)
            ended = Ended(
                outcome=Succeeded(ok=runtime.said),
                value=None if raw is None else bytes(raw),
                problem=problem,
            )
            del value
        self._channel.runtime = None
        self._tell(ended)

    async def _call(self, task: Task[..., Any], context: Context[Any]) -> object:
        """Call the handler, inside its middleware."""
        if task.asynchronous:
            return await call_async(task, context, bind(task, context.envelope, self._keys))
        result: asyncio.Future[tuple[object, BaseException | None]] = self._loop.create_future()
        self._threads.submit(
            partial(_call_here, copy_context(), task, context, self._keys),
            partial(_hand_over, result),
        )
        value, error = await result
        if error is not None:
            raise error
        return value

    def _tell(self, ended: Ended) -> None:
        """Say how a job ended, after everything that it has printed."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # a handler may have closed or replaced it
                stream.flush()
        flush_c()
        left, rss_bytes = left_behind(self._offspring), 0
        if self._max_rss_bytes is not None:
            rss_bytes = _settled_bytes(self._max_rss_bytes)
        if left or rss_bytes:
            ended = msgspec.structs.replace(ended, left=left, rss_bytes=rss_bytes)
        self._channel.send(ended)


def _settled_bytes(limit_bytes: int) -> int:
    """Return how much memory is held; above the limit, once what nobody uses is given back."""
    held_bytes = resident_bytes() or 0
    if held_bytes <= limit_bytes:
        return held_bytes
    settle_memory()
    return resident_bytes() or 0


def _hand_over(
    result: asyncio.Future[tuple[object, BaseException | None]],
    returned: tuple[object, BaseException | None],
) -> None:
    if not result.cancelled():
        result.set_result(returned)


def _call_here(
    inside: ExecutionContext, task: Task[..., Any], context: Context[Any], keys: KeyRing
) -> tuple[object, BaseException | None]:
    try:
        return inside.run(_bound(task, context, keys)), None
    except BaseException as error:  # noqa: BLE001  # whatever ends a handler ends its attempt only
        return None, error


def _bound(task: Task[..., Any], context: Context[Any], keys: KeyRing) -> Callable[[], object]:
    envelope: Envelope = context.envelope
    return lambda: call_sync(task, context, bind(task, envelope, keys))
