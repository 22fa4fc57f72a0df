"""The commands `taskyard worker` and `taskyard up`."""

from __future__ import annotations

from typing import Final

import click

from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.orders import leave_on_sigterm
from taskyard.shared.settings_aside import SettingsAside
from taskyard.shared.size import parse_size


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a duration: seconds, or text such as `90s`, `15m`, `4h`."""
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a size: bytes, or text such as `300M`, `1G`."""
    if value is None:
        return None
    try:
        return parse_size(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), ctx, param) from error


#: What a supervisor does for its processes, so that they do not do it themselves.
_OF_THE_GROUP: Final = frozenset(
    {"processes", "singleton", "singleton_name", "supervised", "max_time"}
)

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
@click.option(
    "--max-rss",
    callback=_bytes,
    metavar="SIZE",
    show_envvar=True,
    help="Begin to stop when no job runs and memory is still above this (such as 300M).",
)
@click.option(
    "--max-abandoned",
    type=click.IntRange(1),
    show_envvar=True,
    help="Begin to stop when so many handlers ran out of time and do not end; as many as a queue "
    "has slots, at least 4, otherwise.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    default=1,
    show_envvar=True,
    help="Run so many worker processes, start again those that end, and serve their metrics as one.",
)
@click.option(
    "--singleton",
    is_flag=True,
    show_envvar=True,
    help="Run only while no other worker of these queues does; exit 75 otherwise.",
)
@click.option(
    "--singleton-name",
    metavar="NAME",
    show_envvar=True,
    help="The same among all workers that are given this name, whatever they consume.",
)
@click.option("--supervised", hidden=True, allow_from_autoenv=False)
@_GRACE
@click.pass_context
def worker(
    ctx: click.Context,
    modules: tuple[str, ...],
    *,
    queues: str,
    concurrency: int | None,
    drain: bool,
    max_time: float | None,
    max_jobs: int | None,
    max_rss: int | None,
    max_abandoned: int | None,
    processes: int,
    singleton: bool,
    singleton_name: str | None,
    supervised: str | None,
    grace: float | None,
) -> None:
    """Run the jobs of the queues declared in MODULE... (import paths such as shop.tasks).

    SIGTERM or Ctrl-C stops it: running jobs may finish within the grace, the rest goes back to the
    broker uncharged. A second one stops it at once.

    A worker that reached --max-jobs, --max-rss or --max-abandoned ends with exit code 0, to be
    started again by whatever supervises it; with --processes that happens by itself.
    """
    leave_on_sigterm()
    reading = _read(concurrency=concurrency, grace=grace)
    # A supervised process neither supervises nor locks, whatever its environment says.
    locked = supervised is None and bool(singleton or singleton_name)
    if processes > 1 and supervised is None:
        ctx.exit(_supervise(ctx, reading, modules, queues, max_time=max_time, locked=locked))
    # Imported while a child reads the settings.
    from taskyard.shared.catalogue import load_queues, select_queues
    from taskyard.shared.logs import configure_logging
    from taskyard.workers.link import Link
    from taskyard.workers.process import run, run_worker
    from taskyard.workers.singleton import lock_name
    from taskyard.workers.worker import WorkerOptions

    settings = reading.wait()
    settings.require_broker_url()
    link = None if supervised is None else Link.of(supervised)
    configure_logging(settings, show_pid=link is not None)
    chosen = select_queues(load_queues(modules), queues)
    options = WorkerOptions(
        concurrency=settings.concurrency,
        grace_s=settings.grace,
        drain=drain,
        max_time_s=None if link is not None else max_time,
        max_jobs=max_jobs,
        max_rss_bytes=max_rss,
        max_abandoned=max_abandoned,
        modules=modules,
    )
    lock = lock_name((queue.name for queue in chosen), singleton_name) if locked else None
    run(run_worker(chosen, settings, options, singleton=lock, link=link))


def _supervise(
    ctx: click.Context,
    reading: SettingsAside,
    modules: tuple[str, ...],
    queues: str,
    *,
    max_time: float | None,
    locked: bool,
) -> int:
    """Run several processes, and none of the application here; return the exit code."""
    from taskyard.shared.catalogue import name_queues
    from taskyard.shared.logs import configure_logging
    from taskyard.workers.process import run
    from taskyard.workers.singleton import lock_name
    from taskyard.workers.supervisor import Group, command_line, supervise

    settings = reading.wait()
    settings.require_broker_url()
    configure_logging(settings, show_pid=True)
    names = name_queues(modules, queues)  # a wrong module or name is told before anything starts
    group = Group(
        command=command_line(ctx, without=_OF_THE_GROUP),
        processes=ctx.params["processes"],
        grace_s=settings.grace,
        max_time_s=max_time,
        singleton=lock_name(names, ctx.params["singleton_name"]) if locked else None,
    )
    return run(supervise(group, settings))


@click.command()
@_MODULES
@_CONCURRENCY
@_GRACE
def up(modules: tuple[str, ...], *, concurrency: int | None, grace: float | None) -> None:
    """Run everything that is installed for MODULE... in one process: set-up, worker and the rest.

    Without TASKYARD_BROKER_URL it uses the embedded broker in the folder .taskyard.
    """
    leave_on_sigterm()
    reading = _read(concurrency=concurrency, grace=grace)
    from pathlib import Path

    from taskyard.shared.catalogue import load_queues
    from taskyard.shared.logs import configure_logging
    from taskyard.shared.secret import Secret
    from taskyard.shared.settings import EMBEDDED_BROKER_URL
    from taskyard.workers.process import run
    from taskyard.workers.roles import run_roles

    settings = reading.wait()
    if settings.broker_url is None:
        settings = settings.but(broker_url=Secret(EMBEDDED_BROKER_URL))
        Path(EMBEDDED_BROKER_URL.removeprefix("sqlite:///")).parent.mkdir(
            parents=True, exist_ok=True
        )
    configure_logging(settings)
    load_queues(modules)  # a wrong module is told before anything starts
    run(run_roles(modules, settings))


def _read(**given: object) -> SettingsAside:
    return SettingsAside(**{name: value for name, value in given.items() if value is not None})
