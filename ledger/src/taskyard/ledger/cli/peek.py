"""`taskyard peek`: the first jobs of a queue, as the ledger knows them; nothing moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click
import msgspec

from taskyard.broker_setup.cli.output import instant, print_json, print_table
from taskyard.ledger.cli.documents import job_document
from taskyard.ledger.cli.options import JSON, MOST
from taskyard.ledger.cli.session import run_with_ledger
from taskyard.shared.cli import NO
from taskyard.shared.clock import SystemClock
from taskyard.shared.states import State

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.reading import JobRow

_STATES: Final = {"ready": State.QUEUED, "delayed": State.SCHEDULED, "held": State.PARKED}


@click.command()
@click.argument("queue")
@click.option("--ready", "which", flag_value="ready", default="ready", help="Those that run next.")
@click.option("--delayed", "which", flag_value="delayed", help="Those that become due next.")
@click.option("--held", "which", flag_value="held", help="Those that are parked for longest.")
@click.option("--limit", "-n", type=click.IntRange(1, MOST), default=1, help="At most so many.")
@JSON
def peek(queue: str, *, which: str, limit: int, as_json: bool) -> None:
    """Show the first jobs of a QUEUE with their arguments; looking changes nothing.

    It asks the ledger: what was sent in the last moment may be missing, and what a worker has just
    taken may be there. Exit 1 if there is no such job. `taskyard jobs list` shows all.
    """
    now_ms = SystemClock().now_ms()
    state = _STATES[which]
    jobs = run_with_ledger(lambda ledger: _first(ledger, queue, state, now_ms, limit))
    if as_json:
        print_json([job_document(job) for job in jobs])
    elif jobs:
        print_table(
            ("id", "task", "state", "reason", "priority", "attempt", "due", "parked", "arguments"),
            [_line(job) for job in jobs],
        )
    else:
        click.echo(f"queue {queue} has no {which} job", err=True)
    if not jobs:
        raise click.exceptions.Exit(NO)


async def _first(
    ledger: AsyncConnection, queue: str, state: State, now_ms: int, limit: int
) -> list[JobRow]:
    from taskyard.ledger.reading import first_jobs

    return await first_jobs(ledger, queue, state, now_ms=now_ms, limit=limit)


def _line(job: JobRow) -> list[object]:
    return [
        job.id,
        job.task,
        job.state,
        job.detail,
        job.priority,
        job.attempt,
        instant(job.due_ms),
        instant(job.ended_ms) if job.state == State.PARKED else None,
        msgspec.json.encode(job.arguments).decode(),
    ]
