"""One open broker for the length of a command, and who is at the keyboard."""

from __future__ import annotations

import asyncio
import getpass
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from taskyard.shared.brokers import connect
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from taskyard.shared.broker import Broker

R = TypeVar("R")


def operator() -> str:
    """Return `user@host`, as intents and audits name who asked."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


@asynccontextmanager
async def open_broker(settings: Settings | None = None) -> AsyncIterator[Broker]:
    """Open the broker that the environment names, and close it afterwards.

    Raises:
        ConfigurationError: TASKYARD_BROKER_URL is missing or wrong.
        Unavailable: the broker does not answer.

    """
    settings = settings or Settings()
    broker = connect(settings.require_broker_url(), settings.broker_options("operator"))
    await broker.open(deadline_s=settings.publish_deadline)
    try:
        yield broker
    finally:
        await broker.close()


def run_with_broker(act: Callable[[Broker], Awaitable[R]]) -> R:
    """Run one act on the broker that the environment names, from a plain command.

    Raises:
        KeyboardInterrupt: the command was interrupted, told to end, or its terminal was closed;
            the act was cancelled first, and could bring what it had begun to an end.

    """
    told = False

    async def session() -> R:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            nonlocal told
            told = True
            if task is not None:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` wants it to be ignored
                loop.add_signal_handler(number, stop)
        async with open_broker() as broker:
            return await act(broker)

    try:
        return asyncio.run(session())
    except asyncio.CancelledError:
        if told:
            raise KeyboardInterrupt from None
        raise
