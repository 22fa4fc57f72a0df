"""`taskyard keys new`: a key for encrypted arguments."""

from __future__ import annotations

import click

from taskyard.shared.clock import SystemClock, to_datetime
from taskyard.shared.keyring import new_key


@click.command()
@click.argument("key_id", metavar="[ID]", required=False)
def new(key_id: str | None) -> None:
    """Print a new key as ID:BASE64, for TASKYARD_ENCRYPTION_KEYS.

    Without an ID it is named after the day. To change keys, put the new one first and keep the
    old ones behind it, in a comma list, until no job needs them.
    """
    click.echo(new_key(key_id or f"k{to_datetime(SystemClock().now_ms()):%Y%m%d}"))
