"""`taskyard queues list`: what waits where, and whether it may start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskyard.broker_setup import intents
from taskyard.broker_setup.cli.output import age, print_json, print_table
from taskyard.broker_setup.cli.pausing import pause_fields, pause_text
from taskyard.broker_setup.session import run_with_broker
from taskyard.shared.catalogue import load_queues
from taskyard.shared.control import ControlUnavailable
from taskyard.shared.intents import Intents

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskyard.shared.broker import Broker, QueueStats


@click.command("list")
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_queues(modules: tuple[str, ...], *, as_json: bool) -> None:
    """List queues with their jobs: those of MODULEs, or all that the broker has.

    `slots` are those that an operator has set for each worker process.
    """
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
        "slots",
        "paused",
    )
    print_table(columns, [[row[column] for column in columns] for row in rows])


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
    return [_row(name, labels.get(name, ""), stats[name], found, now_ms) for name in names]


def _row(name: str, label: str, stats: QueueStats, found: Intents, now_ms: int) -> dict[str, Any]:
    pauses = found.pauses_of(name, now_ms)
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
        "slots": found.concurrency_of(name),
        "paused": "; ".join(map(pause_text, pauses)) or None,
        "pauses": [pause_fields(pause) for pause in pauses],
    }
