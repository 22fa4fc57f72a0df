"""What this distribution adds to `taskyard up`: setting the broker up before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.broker_setup.recording import policy_by
from taskyard.broker_setup.session import open_broker
from taskyard.broker_setup.setup import apply_spec, specs_of
from taskyard.shared.broker import SetupSpec
from taskyard.shared.catalogue import load_queues
from taskyard.shared.entry_points import names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.settings import Settings

#: Where roles are found, and the one that reads the feed: where it is installed there is one.
GROUP: Final = "taskyard.roles"
COORDINATOR: Final = "coordinator"


async def setup(modules: Sequence[str], settings: Settings) -> None:
    """Create what the queues of `modules` need on the broker; returns when it stands.

    Where a coordinator is installed the feed is made as well, for it to read.

    Raises:
        ConfigurationError: something exists with other, immutable properties.

    """
    specs = specs_of(load_queues(modules), policy_by(settings))
    async with open_broker(settings) as broker:
        await apply_spec(
            broker, SetupSpec(queues=tuple(specs.values()), ledger=COORDINATOR in names_of(GROUP))
        )
