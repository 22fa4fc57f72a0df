"""`taskyard jobs wait`: any job's end, from anywhere, by its id alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import click

from taskyard.ledger.cli.session import with_database
from taskyard.shared.clock import SystemClock
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import NotFound

if TYPE_CHECKING:
    from taskyard.ledger.database import Database
    from taskyard.ledger.lookup import History

#: Seconds between two looks.
_EVERY_S: Final = 0.25
#: Seconds that a job which was just sent may take to get into the ledger.
_ARRIVAL_S: Final = 5.0


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--timeout", metavar="TIME", help="How long: seconds, or 90s, 5m. Else for ever.")
def wait(job_id: str, *, timeout: str | None) -> None:
    """Wait until a job is over, and print what it returned, as JSON.

    Exit 1 with its error if it failed, was cancelled or waits for a human; 124 if it is not over in
    time. An id that the ledger does not know is not pending: exit 1, after a few seconds in which a
    job that was just sent may arrive.
    """
    from taskyard.ledger.result import result_of

    timeout_s = None if timeout is None else parse_duration(timeout)
    clock = SystemClock()
    began_s = clock.monotonic_s()
    history = asyncio.run(with_database(lambda ledger: _end(ledger, clock, job_id, timeout_s)))
    click.echo(result_of(history, clock.monotonic_s() - began_s))


async def _end(
    database: Database, clock: SystemClock, job_id: str, timeout_s: float | None
) -> History:
    """Return a job once it is over, or as it is when the time is up."""
    from taskyard.ledger import lookup
    from taskyard.ledger.result import is_over

    began_s = clock.monotonic_s()
    while True:
        async with database.begin() as connection:
            history = await lookup.job(connection, job_id, now_ms=clock.now_ms())
        waited_s = clock.monotonic_s() - began_s
        is_late = timeout_s is not None and waited_s >= timeout_s
        if history is None:
            if is_late or waited_s >= _ARRIVAL_S:
                raise NotFound(f"the ledger knows no job {job_id!r}")
        elif is_late or is_over(history):
            return history
        left_s = _EVERY_S if timeout_s is None else min(_EVERY_S, max(timeout_s - waited_s, 0.0))
        await asyncio.sleep(left_s)
