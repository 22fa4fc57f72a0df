"""The SDK for programs that run an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from taskyard.producer.bulk import WINDOW, Bulk, chunks
from taskyard.producer.call import deadline_of, job_of, settings_of
from taskyard.producer.handle import AsyncHandle
from taskyard.producer.inline import Inline
from taskyard.producer.session import Session
from taskyard.shared.broker import PublishStatus
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from taskyard.shared.broker import Broker, Receipt
    from taskyard.shared.duration import Duration
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job
    from taskyard.shared.settings import Settings
    from taskyard.shared.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class AsyncProducer:
    """Publishes jobs from one event loop; any number of its tasks may send at the same time.

    It connects with the first job, or with `open`, and again by itself whenever the connection
    was lost. Use it as `async with AsyncProducer() as producer`, or call `close`.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        settings: Settings | None = None,
        broker: Broker | None = None,
        app: str | None = None,
        parent: str | None = None,
        metrics: Metrics | None = None,
        spool: str | None = None,
    ) -> None:
        """Make a producer; nothing is connected yet.

        Args:
            broker_url: where jobs go; None reads `TASKYARD_BROKER_URL`.
            settings: all settings at once, instead of those of the environment.
            broker: an open broker to share; closing the producer leaves it open.
            app: name of the publishing application; None takes the setting.
            parent: id of the job that all jobs sent here come from; None takes the job that
                runs where one is sent, if one does.
            metrics: to count into; `producer.metrics` otherwise.
            spool: the file (`sqlite:///path`) that keeps jobs while the broker takes none; None
                reads `TASKYARD_SPOOL_URL`, without which `send` then raises.

        Raises:
            ConfigurationError: no broker is set, or a setting is not valid; the text names it.

        """
        self._settings = settings_of(broker_url, settings, spool)
        self.metrics = metrics or Metrics()
        """What was published, and how long it took; `metrics.expose()` is Prometheus' text."""
        self._outlet: Session | Inline
        if self._settings.mode == "eager" and broker is None:
            self._outlet = Inline(self._settings, app=app, parent=parent, metrics=self.metrics)
        else:
            self._outlet = Session(
                self._settings,
                broker=broker,
                shared=broker is not None,
                app=app,
                parent=parent,
                metrics=self.metrics,
            )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    async def open(self, *, deadline: Duration | None = None) -> None:
        """Connect now rather than with the first job.

        Raises:
            Unavailable: the broker did not answer within the deadline.

        """
        outlet = self._bound()
        if isinstance(outlet, Session):
            await outlet.ensure_open(deadline_of(deadline, self._settings))

    async def close(self) -> None:
        """Wait for what is being sent, then disconnect. Results not yet arrived never will."""
        if self._closed:
            return
        self._closed = True
        await self._outlet.close()

    @overload
    async def send(self, job: Job[R], /, *, deadline: Duration | None = None) -> AsyncHandle[R]: ...
    @overload
    async def send(
        self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncHandle[R]: ...
    async def send(self, what: Any, /, *args: Any, **kwargs: Any) -> AsyncHandle[Any]:
        """Send one job and return its handle once it is confirmed.

        Args:
            what: a job, or a task followed by its arguments.
            *args: the task's arguments, or
            **kwargs: the same by name; with a job, `deadline` at most: how long to wait for
                the broker's confirm, instead of the setting.

        Raises:
            InvalidArguments: they do not fit the task; PayloadTooLarge when there is too much.
            UnknownQueue: the queue does not exist on the broker.
            Rejected, PublishTimeout, Unavailable: the broker did not confirm the job. Sending
                the same job value again keeps its id. With a spool, the job is in its file
                instead (`handle.spooled`), and `SpoolFull` says that there is no room.
            ConfigurationError: the call is wrong.

        """
        job, deadline = job_of(what, args, kwargs)
        session = self._bound()
        if isinstance(session, Inline):
            return AsyncHandle(job, await session.run(*session.prepare(job)))
        deadline_s = deadline_of(deadline, self._settings)
        awaited = None
        if job.resolved.reply:
            await session.reply_address(deadline_s)
            awaited = session.replies.expect(job.id)
        envelope = session.envelope(job, address=session.replies.address)
        receipt = await session.publisher.publish(envelope, deadline_s)
        error = session.error_of(receipt, envelope, deadline_s)
        if error is not None:
            raise error
        return AsyncHandle(job, awaited, spooled=receipt.status is PublishStatus.SPOOLED)

    async def send_many(
        self, jobs: Iterable[Job[object]], *, deadline: Duration | None = None
    ) -> list[str]:
        """Send jobs with pipelined confirms and return their ids, in order.

        Args:
            jobs: any iterable; a generator is read a few thousand jobs ahead at most.
            deadline: for each group of some hundred jobs, instead of the setting.

        Raises:
            PartialSendError: some were not confirmed; it says which were and which were not.
                After a broker stopped answering, the rest is not tried.

        """
        session = self._bound()
        if isinstance(session, Inline):
            return [await session.run_id(job) for job in jobs]
        deadline_s = deadline_of(deadline, self._settings)
        bulk = Bulk(lambda receipt, envelope: session.error_of(receipt, envelope, deadline_s))
        flying: deque[tuple[list[Envelope], asyncio.Task[list[Receipt]]]] = deque()

        async def land() -> None:
            envelopes, call = flying.popleft()
            bulk.add(envelopes, await call)

        try:
            for chunk in chunks(jobs, session.envelope):
                if bulk.given_up:
                    bulk.skip(chunk)
                    continue
                call = asyncio.create_task(
                    session.publisher.publish_many(chunk, deadline_s), name="publish many"
                )
                flying.append((chunk, call))
                if len(flying) >= WINDOW:
                    await land()
            while flying:
                await land()
        except BaseException as error:
            await _settle(flying, bulk)
            error.add_note(f"{len(bulk.sent)} jobs of the same send_many had been confirmed")
            raise
        return bulk.ids()

    def _bound(self) -> Session | Inline:
        """Return the session, refusing a closed producer and a second event loop."""
        if self._closed:
            msg = "the producer is closed"
            raise ConfigurationError(msg)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            msg = "an AsyncProducer belongs to the event loop that used it first; make one per loop"
            raise ConfigurationError(msg)
        return self._outlet


async def _settle(
    flying: deque[tuple[list[Envelope], asyncio.Task[list[Receipt]]]], bulk: Bulk
) -> None:
    """Wait for the calls under way, each by its own deadline, so that none is left behind."""
    if not flying:
        return
    await asyncio.wait([call for _, call in flying])
    for envelopes, call in flying:
        if not call.cancelled() and call.exception() is None:
            bulk.add(envelopes, call.result())
