"""The program in a child process; started by its worker only."""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import logging
import os
import random
import signal
import socket
import sys
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from taskyard.shared.catalogue import queues_of
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import NotFound
from taskyard.shared.keyring import KeyRing
from taskyard.shared.logs import log_json
from taskyard.shared.loops import fastest_loop
from taskyard.workers.isolation.channel import Channel, LogStream
from taskyard.workers.isolation.host import Host
from taskyard.workers.isolation.kernel import adopt_orphans, die_with
from taskyard.workers.isolation.messages import Broken, Setup

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from taskyard.shared.task import Queue


def main(descriptor: int, parent: int) -> None:
    """Serve the worker `parent`, whose channel is the socket `descriptor`."""
    die_with(parent)
    adopt_orphans()
    # Who tells the whole group or service to stop means the worker: it lets running jobs finish.
    # A handler that does nothing, and not SIG_IGN, which programs started here would inherit.
    usual = {number: signal.signal(number, _ignored) for number in (signal.SIGTERM, signal.SIGINT)}
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    os.register_at_fork(after_in_child=partial(_forked, channel, usual))
    setup = channel.receive_setup()
    try:
        _configure(channel, setup)
        queue = _find(setup)
        keys = KeyRing(setup.keys)
    except Exception as error:  # noqa: BLE001  # the application's own modules: the worker is told
        channel.send(Broken(f"{type(error).__name__}: {error}"))
        return
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        runner.run(_serve(queue, channel, setup, keys))


async def _serve(queue: Queue[Any], channel: Channel, setup: Setup, keys: KeyRing) -> None:
    host = Host(
        queue,
        channel,
        SystemClock(),
        random.Random(),
        keys=keys,
        max_rss_bytes=setup.max_rss_bytes,
    )
    await host.serve()


def _configure(channel: Channel, setup: Setup) -> None:
    sys.path[:] = setup.path
    log_json(LogStream(channel), logging.getLevelName(setup.log_level))


def _find(setup: Setup) -> Queue[Any]:
    for name in setup.modules:
        for queue in queues_of(importlib.import_module(name)):
            if queue.name == setup.queue:
                return queue
    raise NotFound(f"no module of {', '.join(setup.modules)} has a queue {setup.queue!r}")


def _forked(channel: Channel, usual: Mapping[signal.Signals, Any]) -> None:
    """Be an ordinary process again: one that a handler forks can be told to stop, and is not heard."""
    channel.forget()
    for number, handler in usual.items():
        signal.signal(number, handler)


def _ignored(number: int, frame: FrameType | None) -> None:
    del number, frame


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
