"""`taskyard jobs restart|delete|keep`: what operators do to jobs that the ledger knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.intents import read_intents
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.ledger.cli.choosing import ids_meant, meant as meant_by
from taskyard.ledger.cli.options import JSON, filter_options
from taskyard.ledger.cli.session import with_database
from taskyard.ledger.filters import Filter
from taskyard.shared.cli import NO
from taskyard.shared.clock import SystemClock
from taskyard.shared.intents import Intents
from taskyard.shared.settings import Settings
from taskyard.shared.states import FINAL, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.database import Database
    from taskyard.shared.broker import Broker

    #: Does something to some jobs: for each id an empty text, or why not.
    Act = Callable[[AsyncConnection, Sequence[str]], Awaitable[dict[str, str]]]

#: Jobs of one transaction: where they are published again they share a confirm.
_BATCH: Final = 100
#: Ids that are named where many are meant.
_SHOWN: Final = 10

_IDS: Final = click.argument("job_ids", nargs=-1, metavar="[ID]...")
_DRY_RUN: Final = click.option(
    "--dry-run", is_flag=True, help="Say which are meant, and change nothing."
)


@click.command()
@_IDS
@filter_options
@_DRY_RUN
@JSON
def restart(job_ids: tuple[str, ...], *, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Have jobs that are over run again: the same jobs, one attempt on, with a new retry budget.

    Name them, or give options as for `jobs list`: those mean failed jobs unless --state says
    otherwise. An earlier cancel of such a job no longer counts. A job that is not over is refused,
    the others go on; then the exit code is 1. To go on after an interruption, do it again: what
    was restarted is no longer meant.
    """
    meant = meant_by(job_ids, options, (State.FAILED,))

    async def act(broker: Broker) -> dict[str, str]:
        from taskyard.ledger.restarting import restart as restart_jobs

        deadline_s = Settings().publish_deadline
        intents = await read_intents(broker) if broker.capabilities.control else Intents()
        return await with_database(
            lambda database: _do(
                database,
                "restart",
                meant,
                lambda connection, ids: restart_jobs(
                    broker, connection, ids, intents=intents, deadline_s=deadline_s
                ),
                dry_run=dry_run,
            )
        )

    _report("restarted", run_with_broker(act), dry_run=dry_run, as_json=as_json)


@click.command()
@_IDS
@filter_options
@click.option("--force", is_flag=True, help="Also those that are kept for ever.")
@_DRY_RUN
@JSON
def delete(
    job_ids: tuple[str, ...], *, force: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Delete jobs that are over from the ledger, with the history of their runs.

    Name them, or give options as for `jobs list`. `jobs cancel` ends jobs that are not over.
    """
    import asyncio

    from taskyard.ledger.keeping import forget

    meant = meant_by(job_ids, options, tuple(FINAL))
    done = asyncio.run(
        with_database(
            lambda database: _do(
                database,
                "delete",
                meant,
                lambda connection, ids: forget(connection, ids, force=force),
                dry_run=dry_run,
            )
        )
    )
    _report("deleted", done, dry_run=dry_run, as_json=as_json)


@click.command()
@_IDS
@filter_options
@click.option("--off", is_flag=True, help="Keep them only as long as retention says.")
@_DRY_RUN
@JSON
def keep(
    job_ids: tuple[str, ...], *, off: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Keep jobs in the ledger for ever: neither age nor number takes them out."""
    import asyncio

    from taskyard.ledger.keeping import keep as keep_jobs

    meant = meant_by(job_ids, options, ())
    done = asyncio.run(
        with_database(
            lambda database: _do(
                database,
                "unkeep" if off else "keep",
                meant,
                lambda connection, ids: keep_jobs(connection, ids, kept=not off),
                dry_run=dry_run,
            )
        )
    )
    _report("no longer kept" if off else "kept", done, dry_run=dry_run, as_json=as_json)


async def _do(
    database: Database, action: str, meant: tuple[str, ...] | Filter, act: Act, *, dry_run: bool
) -> dict[str, str]:
    from taskyard.ledger.audit import audited

    clock = SystemClock()
    ids = await ids_meant(database, meant)
    subject = str(meant) if isinstance(meant, Filter) else " ".join(meant[:_SHOWN])
    if dry_run or not ids:
        return dict.fromkeys(ids, "")
    done: dict[str, str] = {}
    async with audited(
        database, clock, by=operator(), action=action, subject=subject, meant=len(ids)
    ) as entry:
        for start in range(0, len(ids), _BATCH):
            async with database.begin_writing() as connection:
                done |= await act(connection, ids[start : start + _BATCH])
            entry.details["done"] = sum(not problem for problem in done.values())
            entry.details["refused"] = sum(map(bool, done.values()))
    return done


def _report(verb: str, found: dict[str, str], *, dry_run: bool, as_json: bool) -> None:
    done = [job_id for job_id, problem in found.items() if not problem]
    refused = {job_id: problem for job_id, problem in found.items() if problem}
    if as_json:
        print_json({"done": done, "refused": refused, "dry_run": dry_run})
    else:
        would = "would be " if dry_run else ""
        named = f": {' '.join(done[:_SHOWN])}" if done else ""
        more = f" and {len(done) - _SHOWN} more" if len(done) > _SHOWN else ""
        click.echo(f"{len(done)} {would}{verb}{named}{more}")
        for job_id, problem in refused.items():
            click.echo(f"{job_id}: {problem}", err=True)
    if refused:
        raise click.exceptions.Exit(NO)
