"""`taskyard stats`: how many jobs are where, and what went on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskyard.broker_setup.cli.output import print_json, print_table
from taskyard.ledger.cli.documents import moment, numbers_document, rounded
from taskyard.ledger.cli.options import JSON
from taskyard.ledger.cli.session import run_with_ledger
from taskyard.ledger.filters import listed, parse_instant
from taskyard.shared.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.statistics import Mean, Numbers, Statistics


@click.command()
@click.option(
    "--since",
    metavar="WHEN",
    help="Count what went on since then: a date of ISO 8601, or how long ago, such as 1h. "
    "Without it: since ever.",
)
@click.option("--queue", "-q", "queues", multiple=True, metavar="QUEUE", help="Only this queue.")
@JSON
def stats(*, since: str | None, queues: tuple[str, ...], as_json: bool) -> None:
    """Say how many jobs are in which state, now and of those that changed since WHEN.

    Also, since WHEN: how many were sent, started (retries count) and completed, and on average how
    long they were in the queue (from being sent to the latest start), waited (from due to start)
    and ran. Failed are those without the ones that their own logic failed.
    """
    now_ms = SystemClock().now_ms()
    since_ms = 0 if since is None else parse_instant(since, now_ms)
    found = run_with_ledger(lambda ledger: _statistics(ledger, now_ms, since_ms, listed(queues)))
    if as_json:
        print_json(
            {
                "at": moment(now_ms),
                "since": None if since is None else moment(since_ms),
                **numbers_document(found.overall),
                "queues": {name: numbers_document(each) for name, each in found.queues.items()},
            }
        )
        return
    _print(found, in_window=since is not None)


async def _statistics(
    ledger: AsyncConnection, now_ms: int, since_ms: int, queues: Sequence[str]
) -> Statistics:
    from taskyard.ledger.statistics import statistics

    return await statistics(ledger, now_ms=now_ms, since_ms=since_ms, queues=queues)


def _print(found: Statistics, *, in_window: bool) -> None:
    everything = {**found.queues, "(all)": found.overall}
    click.echo("jobs by state, now")
    _print_states({name: numbers.now for name, numbers in everything.items()})
    if in_window:
        click.echo("\nof these, changed since then")
        _print_states({name: numbers.changed for name, numbers in everything.items()})
    click.echo("\nsince then" if in_window else "\nsince ever")
    print_table(
        ("queue", "added", "started", "completed", "in queue", "waited", "ran"),
        [_line(name, numbers) for name, numbers in everything.items()],
    )


def _print_states(each: Mapping[str, Mapping[str, int]]) -> None:
    from taskyard.ledger.statistics import LABELS

    labels = [label for label in LABELS if any(label in numbers for numbers in each.values())]
    print_table(
        ("queue", *labels, "total"),
        [
            [name, *(numbers.get(label, 0) for label in labels), sum(numbers.values())]
            for name, numbers in each.items()
        ],
    )


def _line(name: str, numbers: Numbers) -> list[object]:
    return [
        name,
        numbers.added,
        numbers.started,
        numbers.completed,
        _text(numbers.in_queue),
        _text(numbers.waited),
        _text(numbers.ran),
    ]


def _text(mean: Mean) -> str | None:
    found = rounded(mean)
    return None if found is None else f"{found:.0f} ms"
