"""What this distribution adds to `taskyard up`: a coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.ledger.coordinator import run_coordinator
from taskyard.shared.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.settings import Settings


async def coordinator(modules: Sequence[str], settings: Settings) -> None:
    """Keep the ledger in TASKYARD_LEDGER_URL, or in a file beside the embedded broker's."""
    del modules
    if settings.ledger_url is None:
        url = f"sqlite:///{settings.state_dir / 'ledger.db'}"
        settings = settings.but(ledger_url=Secret(url))
    # The worker of the same process serves health and metrics.
    await run_coordinator(settings, signals=False, health=False)
