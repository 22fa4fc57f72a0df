"""`taskyard queues concurrency`: how many jobs of a queue each worker process runs at once."""

from __future__ import annotations

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.intents import set_concurrency
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.errors import ConfigurationError


@click.command()
@click.argument("queue", metavar="QUEUE")
@click.argument("slots", type=int, required=False, metavar="[N]")
@click.option("--reset", is_flag=True, help="As many as the queue declares.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def concurrency(queue: str, slots: int | None, *, reset: bool, as_json: bool) -> None:
    """Have each worker process run N jobs of QUEUE at once: those that run now, and later ones.

    Nothing that runs is ended: of fewer slots, those in use go when their jobs end. The number is
    per process, so a queue with three workers runs three times N.
    """
    if (slots is None) is not reset:
        msg = "give a number of slots, or --reset"
        raise ConfigurationError(msg)
    run_with_broker(lambda broker: set_concurrency(broker, [queue], slots, by=operator()))
    if as_json:
        print_json({"queue": queue, "slots": slots})
    elif slots is None:
        click.echo(f"each worker process runs as many jobs of {queue} at once as it declares")
    else:
        click.echo(f"each worker process runs {slots} jobs of {queue} at once")
