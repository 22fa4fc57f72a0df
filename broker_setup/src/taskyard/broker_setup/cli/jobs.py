"""`taskyard jobs cancel`."""

from __future__ import annotations

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.intents import cancel as cancel_jobs
from taskyard.broker_setup.session import operator, run_with_broker


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--abort", is_flag=True, help="Also end it where it is running now.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cancel(ids: tuple[str, ...], *, abort: bool, as_json: bool) -> None:
    """Have jobs start no further attempt, wherever they are. A running attempt finishes.

    The intent is durable when this returns, and survives restarts of everything.
    """
    run_with_broker(lambda broker: cancel_jobs(broker, ids, by=operator(), abort=abort))
    if as_json:
        print_json({"recorded": list(ids), "abort": abort})
    else:
        for job_id in ids:
            click.echo(f"{job_id}: cancel recorded")
