"""`taskyard jobs cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from taskyard.broker_setup.asking import Asking
from taskyard.broker_setup.cli.answers import WAIT, report, seconds_of, show_progress
from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.intents import cancel_records
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared import entry_points
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Who can find jobs by what they are adds the options for it here, under this name.
JOB_FILTERS: Final = "taskyard.job_filters"
LEDGER: Final = "ledger"


class JobFilter(Protocol):
    """Finds the jobs that a command means; an entry point of `JOB_FILTERS`."""

    def add_options(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Give a command the options that say which jobs are meant."""
        ...

    def ids(self, named: Sequence[str], options: Mapping[str, Any]) -> Sequence[str]:
        """Return the jobs that are named, or that the options mean and that have not started."""
        ...


class NamedOnly:
    """Without a ledger jobs have to be named."""

    def add_options(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Add none."""
        return command

    def ids(self, named: Sequence[str], options: Mapping[str, Any]) -> Sequence[str]:
        """Return the jobs that are named (click.UsageError where none is)."""
        del options
        if not named:
            raise click.UsageError("name jobs by their ids")
        return tuple(dict.fromkeys(named))


_filter: JobFilter = entry_points.load(JOB_FILTERS, LEDGER) or NamedOnly()


@click.command()
@click.argument("job_ids", nargs=-1, metavar="[ID]...")
@_filter.add_options
@click.option("--abort", is_flag=True, help="Also end it where it is running now.")
@click.option("--dry-run", is_flag=True, help="Say which are meant, and change nothing.")
@WAIT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cancel(
    job_ids: tuple[str, ...],
    *,
    abort: bool,
    dry_run: bool,
    wait: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Have jobs start no further attempt, wherever they are. A running attempt finishes.

    The intent is durable when this returns, and survives restarts of everything. Where there is a
    ledger the command waits to hear what happened: whether a job was cancelled before it started,
    or was running, or was over already.
    """
    ids = _filter.ids(job_ids, options)
    if dry_run:
        _rehearse(ids, as_json=as_json)
        return
    # Without a coordinator nobody answers but a worker that is running the job.
    wait_s = seconds_of(wait, 15.0 if Settings().ledger_url is not None else 0.0)
    asking = Asking()
    show_progress(asking)
    run_with_broker(
        lambda broker: asking.ask(
            broker,
            lambda _: cancel_records(
                broker, ids, by=operator(), abort=abort, answered=bool(wait_s)
            ),
            wait_s=wait_s,
        )
    )
    if wait_s:
        report(asking, {}, waited=True, as_json=as_json)
    elif as_json:
        print_json({"recorded": list(ids), "abort": abort})
    else:
        for job_id in ids:
            click.echo(f"{job_id}: cancel recorded")


def _rehearse(ids: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"done": list(ids), "refused": {}, "dry_run": True})
    else:
        click.echo(f"{len(ids)} would be cancelled" + (f": {' '.join(ids[:10])}" if ids else ""))
