"""`taskyard reconcile`: what the broker has lost of what the ledger knows, and have it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.ledger.cli.documents import moment
from taskyard.ledger.cli.options import JSON
from taskyard.ledger.cli.session import with_database
from taskyard.ledger.filters import listed
from taskyard.shared.cli import NO
from taskyard.shared.duration import parse_duration
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.ledger.database import Database
    from taskyard.ledger.drift import Drift
    from taskyard.ledger.rebuilding import Tally
    from taskyard.shared.broker import Broker


@click.command()
@click.option("--queue", "-q", "queues", multiple=True, metavar="QUEUE", help="Only this queue.")
@click.option(
    "--older-than",
    default="60s",
    metavar="TIME",
    help="Look for jobs of which nothing was heard for so long.",
)
@click.option("--rebuild", is_flag=True, help="Publish what is missing again.")
@click.option(
    "--force",
    is_flag=True,
    help="With --rebuild, of the queues that are named: also what may be missing and may not.",
)
@JSON
def reconcile(
    *, queues: tuple[str, ...], older_than: str, rebuild: bool, force: bool, as_json: bool
) -> None:
    """Say which jobs the broker has lost: the ledger knows them, and the broker has them nowhere.

    A queue was emptied or deleted, or the broker lost its disk. What an empty queue proves to be
    missing can be told job by job; of a queue that is not empty, how many are missing at least. It
    looks twice, six seconds apart, and changes nothing.

    With --rebuild they are published again as the ledger has them: the same jobs in the same
    attempt, due when they were, and parked jobs into their lots. To go on after an interruption, do
    it again. A job that ran, and whose outcome never reached the ledger, runs once more.

    Exit 1 if something is missing, and still is.
    """
    names = listed(queues)
    if force and not (rebuild and names):
        raise click.UsageError("--force is for --rebuild of queues that --queue names")
    margin_s = parse_duration(older_than)
    drifts, tally = run_with_broker(
        lambda broker: _reconcile(broker, names, margin_s, rebuild=rebuild, force=force)
    )
    if as_json:
        print_json(
            {
                "queues": [_document(drift) for drift in drifts],
                "rebuilt": None
                if tally is None
                else {"done": tally.done, "refused": tally.refused, "why": tally.why},
            }
        )
    else:
        _print(drifts, tally)
    if _is_left(drifts, tally, force=force):
        raise click.exceptions.Exit(NO)


async def _reconcile(
    broker: Broker, names: Sequence[str], margin_s: float, *, rebuild: bool, force: bool
) -> tuple[list[Drift], Tally | None]:
    from taskyard.ledger.rebuilding import Tally
    from taskyard.ledger.reconciling import Reconciler, alone
    from taskyard.ledger.surveying import Surveyor

    async def act(database: Database) -> tuple[list[Drift], Tally | None]:
        surveyor = Surveyor(broker, database, margin_s=margin_s)

        async def look() -> list[Drift]:
            suspects = await surveyor.suspects()
            return await surveyor.survey([q for q in suspects if not names or q in names])

        if not rebuild:
            return await look(), None
        async with alone(broker):
            drifts, tally = await look(), Tally()
            reconciler = Reconciler(
                broker=broker,
                database=database,
                surveyor=surveyor,
                by=operator(),
                deadline_s=Settings().publish_deadline,
                force=force,
            )
            tally.on_change = lambda: click.echo(f"{tally.done} published again", err=True)
            await reconciler.rebuild(drifts, tally)
            return drifts, tally

    return await with_database(act)


def _is_left(drifts: Sequence[Drift], tally: Tally | None, *, force: bool) -> bool:
    """Tell whether something is missing that was not published again."""
    if tally is None:
        return any(drift.found for drift in drifts)
    lost = any(drift.found for drift in drifts if not drift.evidence.exists)
    return bool(tally.refused) or lost or (not force and any(drift.least for drift in drifts))


def _print(drifts: Sequence[Drift], tally: Tally | None) -> None:
    shown = [drift for drift in drifts if drift.found or drift.doubtful]
    for drift in shown:
        click.echo(str(drift))
        if tally is not None and not drift.evidence.exists:
            click.echo(
                f"{drift.queue}: `taskyard broker apply` makes it; then do this again", err=True
            )
    if not any(drift.found for drift in shown):
        click.echo("nothing is missing")
    if tally is None:
        return
    click.echo(f"{tally.done} jobs were published again")
    for job_id, why in tally.why.items():
        click.echo(f"{job_id}: {why}", err=True)
    if tally.refused > len(tally.why):
        click.echo(f"and {tally.refused - len(tally.why)} more", err=True)


def _document(drift: Drift) -> dict[str, Any]:
    seen = drift.evidence
    return {
        "queue": drift.queue,
        "missing": drift.missing,
        "at_least": drift.least,
        "doubtful": drift.doubtful,
        "parked": drift.parked,
        "text": str(drift),
        "broker": {
            "at": moment(seen.at_ms),
            "exists": seen.exists,
            "held": seen.held,
            "later": seen.later,
        },
    }
