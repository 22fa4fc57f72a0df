"""Carries out changes of jobs, and says what became of cancels: one coordinator does, for all.

It follows the control log. What is asked for there waits a moment, in which every worker reads of it
and says which of the jobs it is running; and until the ledger has taken in what the feed held by then.
So what the ledger says of a job then is the truth, but for a worker that reads the control log late.
Then jobs are published in their new form, and the control log says so.

It may die at any moment: what has no answer is driven on by whoever comes next, who finds in the
ledger what was published already.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from taskyard.ledger.acting import Actor, Verdict
from taskyard.ledger.requests import Requests
from taskyard.shared.broker import FEED
from taskyard.shared.changes import KEPT_MS, Answer, answer_record, changed_record, unchanged_record
from taskyard.shared.clock import SystemClock
from taskyard.shared.control import ControlUnavailable, cancel_record
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from taskyard.ledger.database import Database
    from taskyard.ledger.requests import Request
    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.control import ControlRecord

_log = get_logger(__name__)

#: How long what was in the hands of other coordinators' recorders when the feed was empty takes to
#: be written, in seconds. Of our own we know.
_WRITTEN_S: Final = 0.25
#: Seconds between two looks at the feed, and between two tries after a failure.
_LOOK_S: Final = 0.05
_RETRY_S: Final = 1.0
#: Of an id, or an error, what an answer and a line of the log have room for.
_SHOWN: Final = 500


class Driver:
    """See the module's docstring. Run it while the lock of the coordinators is held."""

    def __init__(
        self,
        broker: Broker,
        database: Database,
        clock: Clock | None = None,
        *,
        wait_written: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Prepare it; `run` does the work.

        Args:
            broker: open, with a control log.
            database: of the ledger.
            clock: measures the grace.
            wait_written: waits until what this process took from the feed is in the ledger.

        """
        self._broker = broker
        self._clock = clock or SystemClock()
        self._requests = Requests()
        self._actor = Actor(broker, database)
        self._wait_written = wait_written
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Do it until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="requests")
            group.create_task(self._drive(), name="changes")

    async def _follow(self) -> None:
        after: int | None = None
        caught_up = False
        while True:
            try:
                async for batch in self._broker.follow_control(after):
                    self._take(batch.records, inherited=not caught_up)
                    after = batch.position
                    caught_up |= batch.caught_up
                    if caught_up:
                        self._news.set()
            except (ControlUnavailable, Unavailable, ConfigurationError) as error:
                _log.debug("requests cannot be read from the control log", problem=str(error))
            await asyncio.sleep(_RETRY_S)

    async def _drive(self) -> None:
        while True:
            await self._news.wait()
            now_s = self._clock.monotonic_s()
            next_s = self._requests.next_s()
            if next_s is None:
                self._news.clear()
            elif next_s > now_s:
                await asyncio.sleep(next_s - now_s)
            else:
                await self._carry_out(self._requests.ripe(now_s))

    async def _carry_out(self, requests: Sequence[Request]) -> None:
        try:
            await self._until_told()
            started = {each.token: self._requests.starts.get(each.token) for each in requests}
            verdicts = await self._actor.act(requests, started)
            await self._answer(verdicts)
            if len(verdicts) < len(requests):
                _log.warning("the broker has not confirmed all changes yet; it is tried again")
                await asyncio.sleep(_RETRY_S)
        except (DBAPIError, OverflowError, ValueError) as error:
            await self._without_the_bad(requests, error)
        except (ControlUnavailable, Unavailable, ConfigurationError) as error:
            _log.warning(
                "jobs are not changed yet; it is tried again", jobs=len(requests), why=str(error)
            )
            await asyncio.sleep(_RETRY_S)

    async def _without_the_bad(self, requests: Sequence[Request], error: Exception) -> None:
        """Halve requests until what the database refuses is alone: it must not stop the others."""
        if len(requests) > 1:
            half = len(requests) // 2
            await self._carry_out(requests[:half])
            await self._carry_out(requests[half:])
            return
        why = str(getattr(error, "orig", None) or error)[:_SHOWN]
        _log.error("a job cannot be changed or cancelled", job=requests[0].job[:_SHOWN], why=why)
        text = f"it cannot be done: {why}"
        try:
            await self._answer([Verdict(request=requests[0], refused=True, text=text)])
        except (ControlUnavailable, Unavailable) as problem:
            _log.warning("that could not be answered yet; it is tried again", why=str(problem))
            await asyncio.sleep(_RETRY_S)

    async def _until_told(self) -> None:
        """Wait until what the feed holds now is in the ledger.

        Where the ledger is far behind, this takes as long as it takes to catch up: meanwhile nobody
        knows which jobs have run.
        """
        while await self._behind():  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(_WRITTEN_S)
        if self._wait_written is not None:
            await self._wait_written()

    async def _behind(self) -> bool:
        feed = (await self._broker.stats([FEED]))[FEED]
        if not feed.exists:
            raise Unavailable(
                "the broker has no lifecycle feed any more: run `taskyard broker apply --ledger`"
            )
        return feed.ready > 0

    async def _answer(self, verdicts: Sequence[Verdict]) -> None:
        now_ms = self._broker.now_ms()
        records = [record for verdict in verdicts for record in self._records_of(verdict, now_ms)]
        if records:
            await self._broker.append_control(records)
            # What was just answered must not be taken up again before the log tells us so.
            self._take(records, inherited=False)
            _log.info("jobs were changed or cancelled, as was asked", jobs=len(verdicts))

    def _records_of(self, verdict: Verdict, now_ms: int) -> Iterator[ControlRecord]:
        request = verdict.request
        asked, job, by = request.asked, request.job, request.by
        earlier = self._requests.published.get(job)
        # Of several publishes from before, the first may be the one that comes last.
        until_ms = max(verdict.old_due_ms, 0 if earlier is None else earlier.until_ms)
        if asked is not None and not verdict.refused:
            yield changed_record(job, asked, by=by, at_ms=now_ms, until_ms=until_ms)
        elif asked is not None:
            yield unchanged_record(job, asked, by=by, at_ms=now_ms)
            # What an earlier change has made old is still old.
            if earlier is not None:
                yield changed_record(job, earlier.asked, by=by, at_ms=now_ms, until_ms=until_ms)
        elif not verdict.refused and _is_forgotten_early(request, until_ms):
            yield cancel_record(
                job, by=by, at_ms=request.at_ms, until_ms=until_ms + KEPT_MS, token=request.token
            )
        answer = Answer(of=request.token, done=not verdict.refused, text=verdict.text)
        yield answer_record(job, answer, by=by, at_ms=now_ms)

    def _take(self, records: Sequence[ControlRecord], *, inherited: bool) -> None:
        self._requests.take(
            records,
            now_ms=self._broker.now_ms(),
            now_s=self._clock.monotonic_s(),
            inherited=inherited,
        )


def _is_forgotten_early(request: Request, due_ms: int) -> bool:
    """Tell whether a cancel is known for too short a time: its job is due when it ends, or nearly."""
    return request.until_ms is not None and due_ms + KEPT_MS // 2 > request.until_ms
