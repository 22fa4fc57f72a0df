"""One coordinator as the life of a process: broker, database, health server, and what it does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.ledger.database import Database
from taskyard.ledger.housekeeper import Housekeeper
from taskyard.ledger.migrate import prepare
from taskyard.ledger.policies import Policies
from taskyard.ledger.recorder import Recorder
from taskyard.shared.brokers import connect
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.health import HealthServer
from taskyard.shared.logs import get_logger
from taskyard.shared.metrics import Metrics
from taskyard.shared.orders import SIGNALS, Orders, ToldToStop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskyard.shared.broker import Broker
    from taskyard.shared.settings import Settings

_log = get_logger(__name__)

#: Seconds that the broker gets to say good-bye.
_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What health probes judge.

    Attributes:
        broker: whether the broker is reachable.
        problem: why nothing can be written to the ledger; empty while all is well.
        lag_s: how old what is written now is.

    """

    broker: bool
    problem: str
    lag_s: float


async def run_coordinator(settings: Settings, *, signals: bool = True, health: bool = True) -> None:
    """Run a coordinator until it is cancelled.

    Args:
        settings: of the process.
        signals: SIGTERM and SIGINT end it.
        health: serve /metrics, /livez and /readyz.

    Raises:
        ConfigurationError: a setting is wrong, the broker has no feed, or the database is of a
            newer version.
        Unavailable: broker or database are not there when it starts.

    """
    with Orders(SIGNALS if signals else ()) as orders, suppress(ToldToStop):
        await orders.unless_told(_live(settings, health=health))


async def _live(settings: Settings, *, health: bool) -> None:
    async with _opened(settings) as (broker, database):
        metrics = Metrics()
        policies = Policies(broker)
        recorder = Recorder(broker, database, metrics, policies=policies)
        housekeeper = Housekeeper(
            broker, database, settings, metrics, wait_written=recorder.wait_written
        )
        server = _listen(broker, recorder, metrics, settings) if health else None
        _log.info("coordinator started", ledger=str(database))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(policies.run(), name="policies")
                group.create_task(recorder.run(), name="recorder")
                group.create_task(housekeeper.run(), name="housekeeper")
        except* ConfigurationError as errors:
            raise _first(errors) from None
        finally:
            if server is not None:
                server.close()


def _first(group: BaseExceptionGroup[ConfigurationError]) -> ConfigurationError:
    """Return one of what several duties raised, however deep it is."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Broker, Database]]:
    if settings.ledger_url is None:
        raise ConfigurationError(
            "TASKYARD_LEDGER_URL is not set; set it, for example to "
            "postgresql://user:password@host/taskyard or to sqlite:///.taskyard/ledger.db"
        )
    database = Database(settings.ledger_url.reveal())
    try:
        await prepare(database)
        broker = connect(settings.require_broker_url(), settings.broker_options("coordinator"))
        await broker.open()
        try:
            yield broker, database
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await broker.close(abort=broker.blocked or not broker.connected)
    finally:
        await database.close()


def _listen(
    broker: Broker, recorder: Recorder, metrics: Metrics, settings: Settings
) -> HealthServer:
    server = HealthServer(
        settings.metrics_host,
        settings.metrics_port,
        signs=lambda: Signs(
            broker=broker.connected, problem=recorder.problem, lag_s=recorder.lag_s()
        ),
        metrics=metrics.expose,
        dead=lambda _: [],
        unready=_why_not_ready,
    )
    _log.info("health server listens", host=settings.metrics_host, port=server.port)
    return server


def _why_not_ready(signs: Signs) -> list[str]:
    """An outage of either is not the coordinator's death: it goes on by itself."""
    problems = [] if signs.broker else ["the broker is away"]
    return [*problems, signs.problem] if signs.problem else problems
