"""`taskyard coordinator`."""

from __future__ import annotations

import click

from taskyard.shared.orders import leave_on_sigterm


@click.command()
def coordinator() -> None:
    """Keep the ledger: write what the lifecycle feed says into TASKYARD_LEDGER_URL.

    Makes the tables or brings them to this version first. Any number of coordinators share the
    work. The feed exists after `taskyard broker apply --ledger`. Workers and producers do not need
    this: while it is away, the feed grows to its bound, and is caught up on afterwards.
    """
    leave_on_sigterm()
    import asyncio

    from taskyard.ledger.coordinator import run_coordinator
    from taskyard.shared.logs import configure_logging
    from taskyard.shared.loops import fastest_loop
    from taskyard.shared.settings import Settings

    settings = Settings()
    configure_logging(settings)
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        runner.run(run_coordinator(settings))
