"""`taskyard explain`: the one cause why a job is not running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.session import run_with_broker
from taskyard.ledger.cli.options import JSON
from taskyard.ledger.cli.session import with_database

if TYPE_CHECKING:
    from taskyard.ledger.database import Database
    from taskyard.ledger.explaining import Facts
    from taskyard.shared.broker import Broker


@click.command()
@click.argument("job_id", metavar="ID")
@JSON
def explain(job_id: str, *, as_json: bool) -> None:
    """Say why a job is not running: the one cause that has to go first, with what shows it.

    It may be cancelled, due later, to be tried again, in a paused queue, in one without workers or
    without a queue, behind others, next, parked, missing; or it runs, or is over.
    """
    from taskyard.ledger.explaining import explain as explain_job

    async def ask(broker: Broker) -> Facts:
        from taskyard.ledger.inquiry import facts_of

        async def read(database: Database) -> Facts:
            async with database.begin() as connection:
                return await facts_of(broker, connection, job_id)

        return await with_database(read)

    found = explain_job(run_with_broker(ask))
    if as_json:
        print_json({"id": job_id, "cause": found.cause, "text": found.text, **found.evidence})
    else:
        click.echo(found.text)
