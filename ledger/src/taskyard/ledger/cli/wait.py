"""`taskyard jobs wait`: any job's end, from anywhere, by its id alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from taskyard.ledger.cli.session import with_database
from taskyard.shared.clock import SystemClock
from taskyard.shared.duration import parse_duration

if TYPE_CHECKING:
    from taskyard.ledger.database import Database
    from taskyard.ledger.lookup import History


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
    from taskyard.ledger.waiting import wait_over

    timeout_s = None if timeout is None else parse_duration(timeout)
    clock = SystemClock()
    began_s = clock.monotonic_s()

    async def end(database: Database) -> History:
        return await wait_over(database, clock, job_id, timeout_s)

    history = asyncio.run(with_database(end))
    click.echo(result_of(history, clock.monotonic_s() - began_s))
