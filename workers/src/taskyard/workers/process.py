"""One worker as the life of a process: broker, health server, signals, and the worker between."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.brokers import connect
from taskyard.shared.clock import SystemClock
from taskyard.shared.logs import get_logger
from taskyard.workers.gauges import show_gauges, signs_of
from taskyard.workers.health import HealthServer
from taskyard.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from taskyard.shared.settings import Settings
    from taskyard.shared.task import Queue
    from taskyard.workers.worker import WorkerOptions

_log = get_logger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: Seconds that the broker gets to say good-bye.
CLOSE_S: Final = 5.0
#: Seconds that tasks get to end when everything else has.
LEAVE_S: Final = 3.0


async def run_worker(
    queues: Sequence[Queue[Any]],
    settings: Settings,
    options: WorkerOptions,
    *,
    signals: bool = True,
) -> None:
    """Run a worker until it is stopped, or has nothing left to do.

    Args:
        queues: to consume.
        settings: of the process.
        options: of the worker.
        signals: SIGTERM and SIGINT stop it. Cancelling does so in any case; either of them a
            second time stops it at once.

    Raises:
        ConfigurationError: a setting, a task or a queue is wrong.
        Unavailable: the broker is not there.

    """
    broker = connect(settings.require_broker_url(), settings.broker_options("worker"))
    health: HealthServer | None = None
    try:
        await broker.open()
        worker = Worker(broker, queues, settings=settings, options=options)
        show_gauges(worker)
        health = _listen(worker, settings)
        # What exists now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        await _run_in_stages(worker, _SIGNALS if signals else ())
        worker.complain()
    finally:
        if health is not None:
            health.close()
        # A broker that takes no publishes, or is away, does not answer a good-bye.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await broker.close(abort=broker.blocked or not broker.connected)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on the fastest event loop that is installed, and leave no task behind.

    A handler that refuses to be cancelled cannot keep the process: it has been handed back.
    """
    runner = asyncio.Runner(loop_factory=_fastest_loop())
    code = 1
    try:
        runner.run(main)
        code = 0
    finally:
        last_resort = threading.Timer(LEAVE_S, os._exit, (code,))
        last_resort.daemon = True
        last_resort.start()
        runner.close()
        last_resort.cancel()


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(worker: Worker, settings: Settings) -> HealthServer:
    clock = SystemClock()
    health = HealthServer(
        settings.metrics_host,
        settings.metrics_port,
        signs=lambda: signs_of(worker, clock),
        metrics=worker.metrics.expose,
    )
    _log.info("health server listens", host=settings.metrics_host, port=health.port)
    return health


async def _run_in_stages(worker: Worker, signals: Sequence[signal.Signals]) -> None:
    loop = asyncio.get_running_loop()

    def told(reason: str) -> None:
        if worker.signals.stop.is_set():
            worker.hurry()
        else:
            worker.stop(reason)

    for number in signals:
        loop.add_signal_handler(number, told, number.name)
    running = loop.create_task(worker.run(), name="worker")
    cancelled = False
    try:
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                cancelled = True
                told("cancelled")
        running.result()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    if cancelled:
        raise asyncio.CancelledError
