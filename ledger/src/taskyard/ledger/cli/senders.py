"""`taskyard jobs hosts|apps`: who has sent the jobs that the ledger holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.ledger.cli.options import JSON
from taskyard.ledger.cli.session import run_with_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection


@click.command("hosts")
@JSON
def list_hosts(*, as_json: bool) -> None:
    """List the hosts that sent jobs (`taskyard jobs list --from-host HOST` lists these)."""
    _print(run_with_ledger(_hosts), as_json=as_json)


@click.command("apps")
@JSON
def list_apps(*, as_json: bool) -> None:
    """List the applications that sent jobs (`taskyard jobs list --app APP` lists these)."""
    _print(run_with_ledger(_apps), as_json=as_json)


async def _hosts(ledger: AsyncConnection) -> list[str]:
    from taskyard.ledger import reading

    return await reading.hosts(ledger)


async def _apps(ledger: AsyncConnection) -> list[str]:
    from taskyard.ledger import reading

    return await reading.apps(ledger)


def _print(names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(names)
        return
    for name in names:
        click.echo(name)
