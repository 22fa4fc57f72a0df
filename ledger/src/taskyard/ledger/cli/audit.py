"""`taskyard audit`: who did what, when, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskyard.broker_setup.cli.output import instant, print_json, print_table
from taskyard.ledger.cli.options import JSON, MOST
from taskyard.ledger.cli.session import run_with_ledger
from taskyard.ledger.filters import parse_instant
from taskyard.shared.clock import SystemClock

if TYPE_CHECKING:
    from sqlalchemy import RowMapping


@click.command()
@click.option("--subject", metavar="TEXT", help="About this: an id, or how a queue's name ends.")
@click.option("--action", metavar="WORD", help="Of this kind: pause, cancel, restart, delete, …")
@click.option("--by", metavar="USER", help="By this user.")
@click.option("--since", metavar="WHEN", help="Not before this: a date, or how long ago.")
@click.option("--limit", "-n", type=click.IntRange(1, MOST), default=100, help="At most so many.")
@JSON
def audit(
    *,
    subject: str | None,
    action: str | None,
    by: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what operators did, the latest first.

    That is what the ledger's own commands did, and each intent of the control log (pause, resume,
    cancel), which the coordinator writes down.
    """
    from taskyard.ledger.audit import entries

    after_ms = None if since is None else parse_instant(since, SystemClock().now_ms())
    found = run_with_ledger(
        lambda ledger: entries(
            ledger, limit=limit, subject=subject, action=action, by=by, after_ms=after_ms
        )
    )
    if as_json:
        print_json([_document(entry) for entry in found])
        return
    print_table(
        ("at", "by", "action", "subject", "result", "details"),
        [
            [
                instant(entry["at_ms"]),
                entry["by"],
                entry["action"],
                entry["subject"],
                entry["result"] or "begun",
                entry["details"],
            ]
            for entry in found
        ],
    )


def _document(entry: RowMapping) -> dict[str, Any]:
    return {
        "at": instant(entry["at_ms"]),
        "by": entry["by"],
        "action": entry["action"],
        "subject": entry["subject"],
        "details": msgspec.json.decode(entry["details"]) if entry["details"] else {},
        "ended_at": instant(entry["ended_ms"]),
        "result": entry["result"],
    }
