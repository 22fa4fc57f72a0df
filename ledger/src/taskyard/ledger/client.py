"""The ledger for programs with an event loop: any job's status and result, by its id, from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

import msgspec

from taskyard.broker_setup.session import operator
from taskyard.ledger import keeping, lookup, reading
from taskyard.ledger.audit import audited
from taskyard.ledger.criteria import Criteria, filter_from
from taskyard.ledger.database import Database
from taskyard.ledger.migrate import check
from taskyard.ledger.result import result_of
from taskyard.ledger.status import Status, status_of
from taskyard.ledger.waiting import unknown, wait_over
from taskyard.shared.clock import SystemClock
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError, NotFound, TaskyardError
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from types import TracebackType
    from typing import Unpack

    from taskyard.ledger.filters import Filter
    from taskyard.ledger.reading import Count, JobRow
    from taskyard.shared.duration import Duration
    from taskyard.shared.task import Task

R = TypeVar("R")

#: Jobs that are read at once.
PAGE: Final = 500
#: Jobs that are named of many, and those of one transaction.
_NAMED: Final = 10
_BATCH: Final = 100


class NotDone(TaskyardError):
    """The ledger does not do what was asked, with some of the jobs; `why` says of each."""

    def __init__(self, verb: str, why: dict[str, str]) -> None:
        """Say what was not done, and why, by the jobs' ids."""
        job_id, first = next(iter(why.items()))
        more = f" (and {len(why) - 1} more)" if len(why) > 1 else ""
        super().__init__(f"job {job_id} was not {verb}{more}: {first}")
        self.why = why


class AsyncLedger:
    """A ledger's database, to be asked; it is connected with the first question.

    Use it as `async with AsyncLedger() as ledger`, or call `close`.
    """

    def __init__(self, url: str | None = None) -> None:
        """Name the ledger.

        Args:
            url: of its database; None reads `TASKYARD_LEDGER_URL`.

        Raises:
            ConfigurationError: there is none, it is wrong, or its driver is not installed.

        """
        self._database = Database(_url_of(url), create=False)
        self._clock = SystemClock()
        self._is_checked = False

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

    async def close(self) -> None:
        """Close its connections."""
        await self._database.close()

    async def status(self, job_id: str, /) -> Status:
        """Return where a job stands.

        Raises:
            NotFound: the ledger knows no such job.
            LedgerUnavailable: the database does not answer.
            ConfigurationError: it is no ledger, or of another version.

        """
        await self._check()
        async with self._database.begin() as connection:
            history = await lookup.job(connection, job_id, now_ms=self._clock.now_ms())
        if history is None:
            raise unknown(job_id)
        return status_of(history)

    @overload
    async def result(self, job_id: str, /, *, timeout: Duration | None = None) -> Any: ...
    @overload
    async def result(
        self, job_id: str, /, *, task: Task[..., R], timeout: Duration | None = None
    ) -> R: ...
    async def result(
        self,
        job_id: str,
        /,
        *,
        task: Task[..., Any] | None = None,
        timeout: Duration | None = None,  # as `AsyncHandle.result`: it says which job
    ) -> Any:
        """Wait for a job's end and return its handler's value.

        Args:
            job_id: which job, whoever sent it, with or without `reply`.
            task: its declaration, whose annotation the value is decoded by; else it is plain JSON.
            timeout: how long to wait (seconds or text; 0 only looks); None waits without a limit.

        Raises:
            JobFailed, JobParked, JobCancelled: how it ended, with the worker's traceback.
            ResultTimeout: it has not ended in time; it goes on, and may be asked again.
            NotFound: the ledger does not know it, some seconds after the question at the latest.
            LedgerUnavailable: the database does not answer.
            ConfigurationError: it is no ledger, or of another version.

        """
        await self._check()
        timeout_s = None if timeout is None else parse_duration(timeout)
        history = await wait_over(self._database, self._clock, job_id, timeout_s)
        value = result_of(history, timeout_s or 0.0)
        return (
            msgspec.json.decode(value)
            if task is None
            else task.signature.decode_result(value.encode())
        )

    async def jobs(
        self, *, arguments: bool = False, **conditions: Unpack[Criteria]
    ) -> AsyncGenerator[JobRow]:
        """Yield jobs in the order of their ids, which is about that of sending.

        They are read some at a time, so they may be deleted meanwhile.

        Args:
            arguments: also read these.
            conditions: which; all of them hold.

        Raises:
            ConfigurationError: a condition is wrong; or it is no ledger, or of another version.
            LedgerUnavailable: the database does not answer.

        """
        meant = self._filter(conditions)
        after: str | None = ""
        while after is not None:
            page = await self.page(meant, after, arguments=arguments)
            for job in page:
                yield job
            after = page[-1].id if len(page) == PAGE else None

    async def page(self, meant: Filter, after: str, *, arguments: bool = False) -> list[JobRow]:
        """Return the next jobs that a filter means, behind an id."""
        await self._check()
        async with self._database.begin() as connection:
            return await reading.next_jobs(
                connection,
                meant,
                after,
                now_ms=self._clock.now_ms(),
                limit=PAGE,
                arguments=arguments,
            )

    async def count(self, **conditions: Unpack[Criteria]) -> Count:
        """Return how many jobs there are; exactly, up to 10 000 (`number`, else with `more`).

        Raises:
            ConfigurationError: a condition is wrong; or it is no ledger, or of another version.
            LedgerUnavailable: the database does not answer.

        """
        await self._check()
        meant = self._filter(conditions)
        async with self._database.begin() as connection:
            return await reading.count(connection, meant, now_ms=self._clock.now_ms())

    async def delete(self, *job_ids: str, force: bool = False) -> None:
        """Delete jobs that are over from the ledger, with the history of their runs.

        Those that can be are deleted, also where others cannot. It is written in the audit.

        Args:
            job_ids: which.
            force: also those that are kept for ever.

        Raises:
            NotFound: the ledger knows none of them.
            NotDone: some are not over, kept, or unknown; the others are deleted.
            LedgerUnavailable: the database does not answer.
            ConfigurationError: it is no ledger, or of another version.

        """
        if not job_ids:
            return
        await self._check()
        why: dict[str, str] = {}
        async with audited(
            self._database,
            self._clock,
            by=operator(),
            action="delete",
            subject=" ".join(job_ids[:_NAMED]),
            meant=len(job_ids),
        ) as entry:
            for some in _batches(job_ids):
                async with self._database.begin_writing() as connection:
                    found = await keeping.forget(connection, some, force=force)
                why |= {job_id: problem for job_id, problem in found.items() if problem}
            entry.details["done"] = len(set(job_ids)) - len(why)
            entry.details["refused"] = len(why)
        if len(why) == len(set(job_ids)) and set(why.values()) == {keeping.UNKNOWN}:
            raise NotFound(f"the ledger knows no job {', '.join(job_ids[:_NAMED])}")
        if why:
            raise NotDone("deleted", why)

    def _filter(self, conditions: Criteria) -> Filter:
        return filter_from(conditions, self._clock.now_ms())

    async def _check(self) -> None:
        if not self._is_checked:
            async with self._database.begin() as connection:
                await check(connection, self._database)
            self._is_checked = True


def _batches(job_ids: Sequence[str]) -> list[Sequence[str]]:
    return [job_ids[start : start + _BATCH] for start in range(0, len(job_ids), _BATCH)]


def _url_of(url: str | None) -> str:
    if url is not None:
        return url
    found = Settings().ledger_url
    if found is None:
        raise ConfigurationError(
            "TASKYARD_LEDGER_URL is not set; set it to the database that the coordinator keeps, or "
            "name that: Ledger('postgresql://user:password@host/name')"
        )
    return found.reveal()
