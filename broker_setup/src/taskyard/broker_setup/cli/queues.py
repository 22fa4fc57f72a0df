"""`taskyard queues …`: what waits where, and whether it may start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskyard.broker_setup import intents
from taskyard.broker_setup.cli.output import age, instant, print_json, print_table
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.catalogue import load_queues
from taskyard.shared.cli import NO
from taskyard.shared.control import ALL_QUEUES, ControlUnavailable
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.intents import Intents

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.broker import Broker, QueueStats
    from taskyard.shared.control import ControlRecord


@click.command("list")
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_queues(modules: tuple[str, ...], *, as_json: bool) -> None:
    """List queues with their jobs: those of MODULEs, or all that the broker has."""
    declared = load_queues(modules) if modules else {}
    labels = {name: queue.label for name, queue in declared.items()}
    rows = run_with_broker(lambda broker: _rows(broker, sorted(declared), labels))
    if as_json:
        print_json(rows)
        return
    columns = (
        "queue",
        "label",
        "type",
        "ready",
        "running",
        "scheduled",
        "parked",
        "consumers",
        "oldest",
        "paused",
    )
    print_table(columns, [[row[column] for column in columns] for row in rows])


@click.command()
@click.argument("queues", nargs=-1, metavar="QUEUE...")
@click.option("--all", "everything", is_flag=True, help="Every queue, also those made later.")
@click.option(
    "--for", "duration", metavar="DURATION", help="Resume by itself after, for example, 30s or 2h."
)
@click.option("--reason", default="", help="Shown to whoever looks at the queue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pause(
    queues: tuple[str, ...], *, everything: bool, duration: str | None, reason: str, as_json: bool
) -> None:
    """Start no job of QUEUEs; running ones finish, new ones are accepted. Survives restarts."""
    named = _named(queues, everything=everything)
    for_s = None if duration is None else parse_duration(duration)
    run_with_broker(
        lambda broker: intents.pause(broker, named, by=operator(), for_s=for_s, reason=reason)
    )
    if as_json:
        print_json({"paused": named, "for_s": for_s})
    else:
        click.echo(f"paused {', '.join(named)}" + (f" for {duration}" if duration else ""))


@click.command()
@click.argument("queues", nargs=-1, metavar="QUEUE...")
@click.option("--all", "everything", is_flag=True, help="Take back a pause of every queue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(queues: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Let jobs of QUEUEs start again. Exit 1 when none of them was paused."""
    named = _named(queues, everything=everything)
    found = run_with_broker(lambda broker: intents.resume(broker, named, by=operator()))
    if as_json:
        print_json({"resumed": found})
    else:
        click.echo(f"resumed {', '.join(found)}" if found else f"{', '.join(named)} was not paused")
    if not found:
        raise click.exceptions.Exit(NO)


def _named(queues: tuple[str, ...], *, everything: bool) -> list[str]:
    if bool(queues) is everything:
        msg = "name one or more queues, or give --all"
        raise ConfigurationError(msg)
    return [ALL_QUEUES] if everything else list(dict.fromkeys(queues))


async def _rows(
    broker: Broker, names: Sequence[str], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    names = names or await broker.queues()
    stats = await broker.stats(names)
    now_ms = broker.now_ms()
    try:
        found = await intents.read_intents(broker)
    except ControlUnavailable as error:
        click.echo(f"pauses unknown: {error}", err=True)
        found = Intents()
    return [
        _row(name, labels.get(name, ""), stats[name], found.pause_of(name, now_ms), now_ms)
        for name in names
    ]


def _row(
    name: str, label: str, stats: QueueStats, pause: ControlRecord | None, now_ms: int
) -> dict[str, Any]:
    return {
        "queue": name,
        "label": label,
        "type": stats.type if stats.exists else "missing",
        "ready": stats.ready,
        "running": stats.unsettled,
        "scheduled": stats.scheduled,
        "parked": stats.parked,
        "consumers": stats.consumers,
        "oldest": age(stats.oldest_ms, now_ms),
        "paused": None if pause is None else _pause_text(pause),
    }


def _pause_text(pause: ControlRecord) -> str:
    text = f"by {pause.by} at {instant(pause.at)}"
    if pause.expires is not None:
        text += f" until {instant(pause.expires)}"
    reason = (pause.body or {}).get("reason")
    return f"{text}: {reason}" if reason else text
