"""What `taskyard up` runs side by side, found by entry point (group `taskyard.roles`).

A role is `async def role(modules, settings)`. The role `setup` comes first and ends; the others run
until they are cancelled: once to stop as they do on SIGTERM, twice to stop at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.catalogue import load_queues
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.logs import get_logger
from taskyard.shared.orders import Orders, ToldToStop
from taskyard.workers.process import run_worker
from taskyard.workers.worker import WorkerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from taskyard.shared.settings import Settings

    Role = Callable[[Sequence[str], Settings], Coroutine[Any, Any, None]]

_log = get_logger(__name__)

GROUP: Final = "taskyard.roles"
SETUP: Final = "setup"


async def worker(modules: Sequence[str], settings: Settings) -> None:
    """Consume every queue of `modules`."""
    queues = list(load_queues(modules).values())
    options = WorkerOptions(
        concurrency=settings.concurrency, grace_s=settings.grace, modules=tuple(modules)
    )
    await run_worker(queues, settings, options, signals=False)


def installed_roles() -> dict[str, Role]:
    """Return the roles of all installed distributions, by name.

    Raises:
        ConfigurationError: two distributions offer a role of the same name.

    """
    found: dict[str, Role] = {}
    for point in entry_points(group=GROUP):
        if point.name in found:
            msg = f"two installed distributions offer the role {point.name!r}"
            raise ConfigurationError(msg)
        found[point.name] = point.load()
    return found


async def run_roles(modules: Sequence[str], settings: Settings) -> None:
    """Set the broker up, then run every other role until one ends or a signal comes.

    Raises:
        TaskyardError: whatever the first role to fail raised.

    """
    roles = installed_roles()
    setup = roles.pop(SETUP, None)
    with Orders() as orders, suppress(ToldToStop):
        if setup is not None:
            await orders.unless_told(setup(modules, settings))
        await _run_side_by_side(roles, modules, settings, orders)


async def _run_side_by_side(
    roles: Mapping[str, Role], modules: Sequence[str], settings: Settings, orders: Orders
) -> None:
    _log.info("up", roles=sorted(roles), modules=list(modules))
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(role(modules, settings), name=f"role {name}")
        for name, role in sorted(roles.items())
    ]

    def stop(_: str) -> None:
        for task in tasks:
            task.cancel()

    orders.pass_to(stop)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop("a role ended")
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
