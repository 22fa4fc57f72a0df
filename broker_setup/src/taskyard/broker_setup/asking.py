"""Writes intents about jobs, and waits for what becomes of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskyard.shared.changes import Answer, answer_of
from taskyard.shared.intents import Intents

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord

#: Records of one write.
_WRITE: Final = 500


@dataclass(slots=True)
class Asking:
    """Intents that were written, and the answers that have come so far.

    Attributes:
        jobs: the job that each is about, by token.
        answers: by the job's id.
        on_change: called after each batch of answers.

    """

    on_change: Callable[[], None] = lambda: None
    jobs: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])

    @property
    def unanswered(self) -> list[str]:
        """The jobs that nobody has said anything about yet."""
        return [job for job in self.jobs.values() if job not in self.answers]

    async def ask(
        self,
        broker: Broker,
        make: Callable[[Intents], Mapping[str, tuple[str, ControlRecord]]],
        *,
        wait_s: float,
    ) -> None:
        """Write intents, durably, and wait for their answers.

        Args:
            broker: open, with a control log.
            make: returns what is to be written, given what is in force: by token, the job's id and
                the record.
            wait_s: how long to wait for an answer, and after each for a further one, in seconds;
                what has none then is in `unanswered`.

        Raises:
            ControlUnavailable: the log cannot be read or written; what was written stays.

        """
        intents = Intents()
        written = False
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                async for batch in broker.follow_control():
                    if written:
                        if self._take(batch.records):
                            limit.reschedule(loop.time() + wait_s)
                    else:
                        intents.apply(batch.records)
                    if batch.caught_up and not written:
                        await self._write(broker, make(intents))
                        written = True
                        limit.reschedule(loop.time() + wait_s)
                    if written and (not self.unanswered or not wait_s):
                        return

    async def _write(
        self, broker: Broker, records: Mapping[str, tuple[str, ControlRecord]]
    ) -> None:
        self.jobs = {token: job for token, (job, _) in records.items()}
        every = [record for _, record in records.values()]
        for start in range(0, len(every), _WRITE):
            await broker.append_control(every[start : start + _WRITE])

    def _take(self, records: tuple[ControlRecord, ...]) -> bool:
        """Take in answers; return whether there were any."""
        known = len(self.answers)
        for record in records:
            answer = answer_of(record)
            if answer is not None and answer.of in self.jobs:
                self.answers.setdefault(self.jobs[answer.of], answer)
        if len(self.answers) == known:
            return False
        self.on_change()
        return True
