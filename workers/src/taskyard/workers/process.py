"""One worker as the life of a process: broker, health server, signals, and the worker between."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from taskyard.shared.brokers import connect
from taskyard.shared.clock import SystemClock
from taskyard.shared.health import HealthServer
from taskyard.shared.logs import get_logger
from taskyard.shared.loops import fastest_loop
from taskyard.shared.orders import SIGNALS, Orders, ToldToStop
from taskyard.workers.capture import capturing
from taskyard.workers.gauges import show_gauges, signs_of
from taskyard.workers.signs import why_dead, why_not_ready
from taskyard.workers.singleton import Lock, held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.settings import Settings
    from taskyard.shared.task import Queue
    from taskyard.workers.link import Link
    from taskyard.workers.worker import Worker, WorkerOptions

_log = get_logger(__name__)

T = TypeVar("T")

#: Seconds that the broker gets to say good-bye.
CLOSE_S: Final = 5.0
#: Seconds that tasks get to end when everything else has.
LEAVE_S: Final = 3.0
#: Seconds that a busy handler thread keeps the interpreter while the event loop wants it. Every call
#: that lets go of it (a socket, SQLite) waits as long to get it back, once per busy thread: with
#: Python's 5 ms and two such threads, jobs on SQLite started over a second late; with 1 ms, 0.1 s.
SWITCH_S: Final = 0.001


async def run_worker(
    queues: Sequence[Queue[Any]],
    settings: Settings,
    options: WorkerOptions,
    *,
    signals: bool = True,
    singleton: str | None = None,
    link: Link | None = None,
) -> None:
    """Run a worker until it is stopped, or has nothing left to do.

    Args:
        queues: to consume.
        settings: of the process.
        options: of the worker.
        signals: SIGTERM and SIGINT stop it. Cancelling does so in any case; either of them a
            second time stops it at once.
        singleton: the lock without which it does not run; see `lock_name`.
        link: to the supervisor, which then serves health and metrics, and holds the lock.

    Raises:
        AlreadyRunning: another holds the lock.
        LockLost: it stopped because the lock cannot be relied on any more.
        ConfigurationError: a setting, a task or a queue is wrong.
        Unavailable: the broker is not there.

    """
    # Here, because a supervisor uses the rest of this module, and has no worker in it.
    from taskyard.workers.worker import Worker

    public: HealthServer | Link | None = None
    with Orders(SIGNALS if signals else ()) as orders, suppress(ToldToStop):
        async with opened(settings, "worker", singleton, orders) as (broker, lock):
            guard = lock.guard if lock is not None else None if link is None else link.guard
            worker = Worker(broker, queues, settings=settings, options=options, guard=guard)
            show_gauges(worker)
            public = _listen(worker, settings) if link is None else link.open(worker)
            # What exists now stays: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))
            try:
                with capturing():
                    async with held(worker, lock, guard):
                        await _run_in_stages(worker, orders)
                worker.complain()
            finally:
                public.close()


@asynccontextmanager
async def opened(
    settings: Settings, purpose: str, singleton: str | None, orders: Orders
) -> AsyncIterator[tuple[Broker, Lock | None]]:
    """Open the broker, take a lock if one is wanted, and give both up at the end.

    Args:
        settings: of the process.
        purpose: names the connection.
        singleton: the lock; None: there is none.
        orders: a signal ends the opening.

    Raises:
        ToldToStop: a signal came meanwhile.
        AlreadyRunning: another holds the lock.
        Unavailable: the broker is not there.

    """
    broker = connect(settings.require_broker_url(), settings.broker_options(purpose))
    lock: Lock | None = None

    async def start() -> Lock | None:
        await broker.open()
        return None if singleton is None else await Lock.take(broker, singleton, settings)

    try:
        lock = await orders.unless_told(start())
        yield broker, lock
    finally:
        if lock is not None:
            await lock.release()
        # A broker that takes no publishes, or is away, does not answer a good-bye.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await broker.close(abort=broker.blocked or not broker.connected)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the fastest event loop that is installed, and leave no task behind.

    A handler that refuses to be cancelled cannot keep the process: it has been handed back.
    """
    runner = asyncio.Runner(loop_factory=fastest_loop())
    code = 1
    try:
        result = runner.run(main)
        code = 0
        return result
    finally:
        last_resort = threading.Timer(LEAVE_S, os._exit, (code,))
        last_resort.daemon = True
        last_resort.start()
        runner.close()
        last_resort.cancel()


def _listen(worker: Worker, settings: Settings) -> HealthServer:
    clock = SystemClock()
    health = HealthServer(
        settings.metrics_host,
        settings.metrics_port,
        signs=lambda: signs_of(worker, clock),
        metrics=worker.metrics.expose,
        dead=why_dead,
        unready=why_not_ready,
    )
    _log.info("health server listens", host=settings.metrics_host, port=health.port)
    return health


async def _run_in_stages(worker: Worker, orders: Orders) -> None:
    begun = False

    def told(reason: str) -> None:
        nonlocal begun
        # A worker that stops of its own accord, to be recycled, is not in a hurry at the first word.
        if begun:
            worker.hurry()
        begun = True
        worker.stop(reason)

    orders.pass_to(told)
    running = asyncio.get_running_loop().create_task(worker.run(), name="worker")
    cancelled = False
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:
            cancelled = True
            told("cancelled")
    running.result()
    if cancelled:
        raise asyncio.CancelledError
