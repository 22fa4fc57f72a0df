"""Waits for a job's end, looking at its row from time to time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from taskyard.ledger import lookup
from taskyard.ledger.result import is_outcome
from taskyard.ledger.schema import jobs
from taskyard.shared.errors import NotFound

if TYPE_CHECKING:
    from taskyard.ledger.database import Database
    from taskyard.ledger.lookup import History
    from taskyard.shared.clock import Clock

#: Seconds between two looks, at first and in the end.
_FIRST_S: Final = 0.05
_EVERY_S: Final = 0.25
#: Seconds that a job which was just sent may take to get into the ledger.
ARRIVAL_S: Final = 5.0


def unknown(job_id: str) -> NotFound:
    """Return the error that says that the ledger does not know a job."""
    return NotFound(
        f"the ledger knows no job {job_id!r}: it was never sent, its record has not arrived yet, or "
        "retention has let it go"
    )


async def wait_over(
    database: Database, clock: Clock, job_id: str, timeout_s: float | None
) -> History:
    """Return a job once it is over or parked, or as it is when the time is up.

    Args:
        database: of the ledger.
        clock: for the time.
        job_id: which.
        timeout_s: how long to wait; None is without a limit.

    Raises:
        NotFound: the ledger does not know it, for longer than a job takes to arrive.
        LedgerUnavailable: the database does not answer.

    """
    began_s = clock.monotonic_s()
    every_s = _FIRST_S
    while True:
        async with database.begin() as connection:
            found = select(jobs.c.state).where(jobs.c.id == job_id)
            state: str | None = (await connection.execute(found)).scalar_one_or_none()
            waited_s = clock.monotonic_s() - began_s
            is_late = timeout_s is not None and waited_s >= timeout_s
            if state is not None and (is_late or is_outcome(state)):
                history = await lookup.job(connection, job_id, now_ms=clock.now_ms())
                if history is not None:
                    return history
        if state is None and (is_late or waited_s >= ARRIVAL_S):
            raise unknown(job_id)
        left_s = every_s if timeout_s is None else min(every_s, max(timeout_s - waited_s, 0.0))
        await asyncio.sleep(left_s)
        every_s = min(every_s * 2, _EVERY_S)
