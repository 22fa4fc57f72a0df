"""The commands `taskyard worker` and `taskyard up`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import SecretStr

from taskyard.shared.catalogue import load_queues, select_queues
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.logs import configure_logging
from taskyard.shared.settings import EMBEDDED_BROKER_URL, Settings
from taskyard.workers.process import run, run_worker
from taskyard.workers.roles import run_roles
from taskyard.workers.worker import WorkerOptions


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a duration: seconds, or text such as `90s`, `15m`, `4h`."""
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), ctx, param) from error


_MODULES = click.argument("modules", nargs=-1, required=True, metavar="MODULE...")
_CONCURRENCY = click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    show_envvar=True,
    help="Slots of each queue that declares none; TASKYARD_CONCURRENCY otherwise.",
)
_GRACE = click.option(
    "--grace",
    callback=_seconds,
    metavar="DURATION",
    show_envvar=True,
    help="How long running jobs may go on after SIGTERM; TASKYARD_GRACE otherwise.",
)


@click.command()
@_MODULES
@click.option(
    "--queues", default="all", show_envvar=True, help="Queues to consume: a comma list, or all."
)
@_CONCURRENCY
@click.option("--drain", is_flag=True, show_envvar=True, help="End when the queues are empty.")
@click.option(
    "--max-time",
    callback=_seconds,
    metavar="DURATION",
    show_envvar=True,
    help="Begin to stop after this time (such as 10m).",
)
@click.option(
    "--max-jobs",
    type=click.IntRange(1),
    show_envvar=True,
    help="Begin to stop after so many attempts.",
)
@_GRACE
def worker(
    modules: tuple[str, ...],
    *,
    queues: str,
    concurrency: int | None,
    drain: bool,
    max_time: float | None,
    max_jobs: int | None,
    grace: float | None,
) -> None:
    """Run the jobs of the queues declared in MODULE... (import paths such as shop.tasks).

    SIGTERM or Ctrl-C stops it: running jobs may finish within the grace, the rest goes back to the
    broker uncharged. A second one stops it at once.
    """
    settings = _settings(concurrency=concurrency, grace=grace)
    settings.require_broker_url()
    configure_logging(settings)
    options = WorkerOptions(
        concurrency=settings.concurrency,
        grace_s=settings.grace,
        drain=drain,
        max_time_s=max_time,
        max_jobs=max_jobs,
    )
    chosen = select_queues(load_queues(modules), queues)
    run(run_worker(chosen, settings, options))


@click.command()
@_MODULES
@_CONCURRENCY
@_GRACE
def up(modules: tuple[str, ...], *, concurrency: int | None, grace: float | None) -> None:
    """Run everything that is installed for MODULE... in one process: set-up, worker and the rest.

    Without TASKYARD_BROKER_URL it uses the embedded broker in the folder .taskyard.
    """
    settings = _settings(concurrency=concurrency, grace=grace)
    if settings.broker_url is None:
        settings = settings.model_copy(update={"broker_url": SecretStr(EMBEDDED_BROKER_URL)})
        Path(EMBEDDED_BROKER_URL.removeprefix("sqlite:///")).parent.mkdir(
            parents=True, exist_ok=True
        )
    configure_logging(settings)
    load_queues(modules)  # a wrong module is told before anything starts
    run(run_roles(modules, settings))


def _settings(**given: object) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})
