"""The SDK for programs without an event loop: the asynchronous one's code, in a thread beside."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, overload

from taskyard.producer.background import Waiter, keep_inherited, on_fork
from taskyard.producer.bulk import WINDOW, Bulk, chunks
from taskyard.producer.call import deadline_of, job_of, settings_of
from taskyard.producer.handle import Handle
from taskyard.producer.inline import Inline
from taskyard.producer.running import Running
from taskyard.producer.session import Session
from taskyard.shared.broker import PublishStatus
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future
    from types import TracebackType

    from taskyard.shared.broker import Broker, Receipt
    from taskyard.shared.duration import Duration
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job
    from taskyard.shared.settings import Settings
    from taskyard.shared.task import Task

P = ParamSpec("P")
R = TypeVar("R")

#: Seconds that a forgotten producer's connection may take to close when the program ends.
_EXIT_S: Final = 2.0
#: Seconds that `close` allows beyond the publish deadline.
_CLOSE_S: Final = 5.0


class Producer:
    """Publishes jobs from any number of threads.

    It connects with the first job, or with `open`, and again by itself whenever the connection
    was lost. A child process that was forked connects anew. Use it as `with Producer() as
    producer`, or call `close`; a forgotten one is closed when the program ends.
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
            broker: to use instead of that URL's; not open yet, since it lives on the producer's
                own event loop, and closed with it.
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
        self._broker = broker
        self._app = app
        self._parent = parent
        self._lock = threading.Lock()
        self._closed = False
        self._clock = SystemClock()
        self._outlet: Session | Inline | None = self._make_outlet()
        self._running: Running | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        on_fork(self)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def open(self, *, deadline: Duration | None = None) -> None:
        """Connect now rather than with the first job.

        Raises:
            Unavailable: the broker did not answer within the deadline.

        """
        running = self._started()
        if isinstance(running.outlet, Session):
            deadline_s = deadline_of(deadline, self._settings)
            running.wait(running.outlet.ensure_open(deadline_s))

    def close(self) -> None:
        """Wait for what is being sent, then disconnect. Results not yet arrived never will."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if running is not None:
            running.stop(self._settings.publish_deadline + _CLOSE_S)
            running.raise_failure()

    @overload
    def send(self, job: Job[R], /, *, deadline: Duration | None = None) -> Handle[R]: ...
    @overload
    def send(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    def send(self, what: Any, /, *args: Any, **kwargs: Any) -> Handle[Any]:
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
        running = self._started()
        session = running.outlet
        if isinstance(session, Inline):
            return Handle(job, running.run_inline(session, job))
        deadline_s = deadline_of(deadline, self._settings)
        awaited = None
        if job.resolved.reply:
            if session.replies.address is None:
                running.wait(session.reply_address(deadline_s))
            awaited = session.replies.expect(job.id)
        envelope = session.envelope(job, address=session.replies.address)
        waiter = Waiter(envelope, deadline_s, self._clock.monotonic_s())
        running.submit(waiter)
        receipt = waiter.wait()
        error = session.error_of(receipt, envelope, deadline_s)
        if error is not None:
            raise error
        return Handle(job, awaited, spooled=receipt.status is PublishStatus.SPOOLED)

    def send_many(
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
        running = self._started()
        session = running.outlet
        if isinstance(session, Inline):
            return [self.send(job).id for job in jobs]
        deadline_s = deadline_of(deadline, self._settings)
        bulk = Bulk(lambda receipt, envelope: session.error_of(receipt, envelope, deadline_s))
        flying: deque[tuple[list[Envelope], Future[list[Receipt]]]] = deque()
        try:
            for chunk in chunks(jobs, session.envelope):
                if bulk.given_up:
                    bulk.skip(chunk)
                    continue
                call = session.publisher.publish_many(chunk, deadline_s)
                flying.append((chunk, running.start(call)))
                if len(flying) >= WINDOW:
                    _land(flying, bulk)
            while flying:
                _land(flying, bulk)
        except BaseException as error:
            _settle(flying, bulk)
            error.add_note(f"{len(bulk.sent)} jobs of the same send_many had been confirmed")
            raise
        return bulk.ids()

    def after_fork(self) -> None:
        """Forget, in a forked child, the thread and the connection: they are the parent's."""
        self._lock = threading.Lock()
        if self._finalizer is not None:
            self._finalizer.detach()
        keep_inherited((self._running, self._outlet))
        self._running = self._finalizer = None
        self._outlet = None

    def _make_outlet(self) -> Session | Inline:
        if self._settings.mode == "eager" and self._broker is None:
            return Inline(self._settings, app=self._app, parent=self._parent, metrics=self.metrics)
        return Session(
            self._settings,
            broker=self._broker,
            app=self._app,
            parent=self._parent,
            metrics=self.metrics,
        )

    def _started(self) -> Running:
        running = self._running
        if running is None:
            running = self._start()
        running.refuse_itself()
        return running

    def _start(self) -> Running:
        with self._lock:
            if self._closed:
                msg = "the producer is closed"
                raise ConfigurationError(msg)
            if self._running is None:
                if self._outlet is None:
                    if self._broker is not None:
                        msg = "this process was forked: a broker that was handed over stays behind"
                        raise ConfigurationError(msg)
                    self._outlet = self._make_outlet()
                self._running = Running(self._outlet)
                self._finalizer = weakref.finalize(self, Running.stop, self._running, _EXIT_S)
            return self._running


def _settle(flying: deque[tuple[list[Envelope], Future[list[Receipt]]]], bulk: Bulk) -> None:
    """Wait for the calls under way, each by its own deadline, so that none is left behind."""
    for envelopes, call in flying:
        if call.exception() is None:
            bulk.add(envelopes, call.result())


def _land(flying: deque[tuple[list[Envelope], Future[list[Receipt]]]], bulk: Bulk) -> None:
    envelopes, call = flying.popleft()
    bulk.add(envelopes, call.result())
