"""The ledger for programs without an event loop: the asynchronous one's code, in a thread beside."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from taskyard.ledger.client import PAGE, AsyncLedger
from taskyard.ledger.criteria import Criteria, filter_from
from taskyard.producer.background import Background, keep_inherited, on_fork
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from types import TracebackType
    from typing import Unpack

    from taskyard.ledger.reading import Count, JobRow
    from taskyard.ledger.status import Status
    from taskyard.shared.duration import Duration
    from taskyard.shared.task import Task

T = TypeVar("T")
R = TypeVar("R")

#: Seconds that its connections may take to close.
_CLOSE_S: Final = 5.0


class Ledger:
    """`AsyncLedger` for any number of threads: the same names, which wait.

    A child process that was forked connects anew. Use it as `with Ledger() as ledger`, or call
    `close`.
    """

    def __init__(self, url: str | None = None) -> None:
        """Name the ledger.

        Args:
            url: of its database; None reads `TASKYARD_LEDGER_URL`.

        Raises:
            ConfigurationError: there is none, it is wrong, or its driver is not installed.

        """
        self._url = url
        self._asked = AsyncLedger(url)
        self._lock = threading.Lock()
        self._background: Background | None = None
        self._is_closed = False
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

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            self._is_closed = True
            background, self._background = self._background, None
        if background is not None:
            background.stop(background.start(self._asked.close()), _CLOSE_S)

    def status(self, job_id: str, /) -> Status:
        """Return where a job stands; as `AsyncLedger.status`."""
        return self._wait(self._asked.status(job_id))

    @overload
    def result(self, job_id: str, /, *, timeout: Duration | None = None) -> Any: ...
    @overload
    def result(
        self, job_id: str, /, *, task: Task[..., R], timeout: Duration | None = None
    ) -> R: ...
    def result(
        self,
        job_id: str,
        /,
        *,
        task: Task[..., Any] | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Wait for a job's end and return its handler's value; as `AsyncLedger.result`."""
        if task is None:
            return self._wait(self._asked.result(job_id, timeout=timeout))
        return self._wait(self._asked.result(job_id, task=task, timeout=timeout))

    def jobs(self, *, arguments: bool = False, **conditions: Unpack[Criteria]) -> Iterator[JobRow]:
        """Yield jobs in the order of their ids; as `AsyncLedger.jobs`."""
        meant = filter_from(conditions, SystemClock().now_ms())
        after: str | None = ""
        while after is not None:
            page = self._wait(self._asked.page(meant, after, arguments=arguments))
            yield from page
            after = page[-1].id if len(page) == PAGE else None

    def count(self, **conditions: Unpack[Criteria]) -> Count:
        """Return how many jobs there are; as `AsyncLedger.count`."""
        return self._wait(self._asked.count(**conditions))

    def delete(self, *job_ids: str, force: bool = False) -> None:
        """Delete jobs that are over, with their history; as `AsyncLedger.delete`."""
        self._wait(self._asked.delete(*job_ids, force=force))

    def after_fork(self) -> None:
        """Forget, in a forked child, the thread and the connections: they are the parent's."""
        keep_inherited((self._background, self._asked))
        self._lock = threading.Lock()
        self._background = None
        self._asked = AsyncLedger(self._url)

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = self._running(coroutine).start(coroutine)
        try:
            return future.result()
        except BaseException:  # an interrupt ends the question too
            future.cancel()
            raise

    def _running(self, coroutine: Coroutine[Any, Any, Any]) -> Background:
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise ConfigurationError("the ledger is closed")
            if self._background is None:
                self._background = Background("taskyard ledger")
            return self._background
