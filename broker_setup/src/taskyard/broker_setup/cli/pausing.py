"""`taskyard queues pause|resume|paused`: whether jobs start, of one queue or of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskyard.broker_setup import intents
from taskyard.broker_setup.cli.output import instant, print_json, print_table
from taskyard.broker_setup.quiet import wait_quiet
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.cli import NO, TIMED_OUT
from taskyard.shared.control import ALL_QUEUES
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord


@click.command()
@click.argument("queues", nargs=-1, metavar="QUEUE...")
@click.option("--all", "everything", is_flag=True, help="Every queue, also those made later.")
@click.option(
    "--for", "duration", metavar="DURATION", help="Resume by itself after, for example, 30s or 2h."
)
@click.option("--reason", default="", help="Shown to whoever looks at the queue.")
@click.option(
    "--wait",
    "patience",
    metavar="DURATION",
    help="Return when nothing of them runs any more; exit 124 if that takes longer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pause(
    queues: tuple[str, ...],
    *,
    everything: bool,
    duration: str | None,
    reason: str,
    patience: str | None,
    as_json: bool,
) -> None:
    """Start no job of QUEUEs; running ones finish, new ones are accepted. Survives restarts."""
    named = _named(queues, everything=everything)
    for_s = None if duration is None else parse_duration(duration)
    within_s = None if patience is None else parse_duration(patience)

    async def act(broker: Broker) -> dict[str, str]:
        await intents.pause(broker, named, by=operator(), for_s=for_s, reason=reason)
        if not as_json:
            click.echo(f"paused {', '.join(named)}" + (f" for {duration}" if duration else ""))
        if within_s is None:
            return {}
        watched = await broker.queues() if everything else named
        return await wait_quiet(broker, watched, within_s=within_s)

    busy = run_with_broker(act)
    if as_json:
        print_json(
            {"paused": named, "for_s": for_s, **({} if patience is None else {"busy": busy})}
        )
    elif patience is not None and not busy:
        click.echo("nothing runs any more")
    for queue, text in busy.items():
        click.echo(
            f"queue {queue} is not quiet after {patience}: {text}; it stays paused", err=True
        )
    if busy:
        raise click.exceptions.Exit(TIMED_OUT)


@click.command()
@click.argument("queues", nargs=-1, metavar="QUEUE...")
@click.option("--all", "everything", is_flag=True, help="Take back a pause of every queue.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(queues: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Let jobs of QUEUEs start again. Exit 1 when none of them was paused.

    A queue that was paused by itself stays so when all are resumed, and the other way round.
    """
    named = _named(queues, everything=everything)
    found = run_with_broker(lambda broker: intents.resume(broker, named, by=operator()))
    if as_json:
        print_json({"resumed": found})
    else:
        click.echo(f"resumed {', '.join(found)}" if found else f"{', '.join(named)} was not paused")
    if not found:
        raise click.exceptions.Exit(NO)


@click.command()
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def paused(queues: tuple[str, ...], *, as_json: bool) -> None:
    """Say what is paused. Exit 0 when everything is, by `pause --all`; else 1.

    With QUEUEs: exit 0 when each of them is paused, by itself or with all.
    """

    async def act(broker: Broker) -> tuple[list[ControlRecord], bool]:
        await intents.check_queues(broker, queues)
        found, now_ms = await intents.read_intents(broker), broker.now_ms()
        every = found.paused(now_ms)
        if not queues:
            return list(every.values()), ALL_QUEUES in every
        of_each = [found.pauses_of(queue, now_ms) for queue in queues]
        unique = {record.key: record for pauses in of_each for record in pauses}
        return list(unique.values()), all(of_each)

    records, is_so = run_with_broker(act)
    if as_json:
        print_json({"paused": is_so, "pauses": [pause_fields(record) for record in records]})
    else:
        _print_pauses(records)
    if not is_so:
        raise click.exceptions.Exit(NO)


def _print_pauses(records: Sequence[ControlRecord]) -> None:
    if not records:
        click.echo("nothing is paused")
        return
    columns = ("queue", "by", "at", "until", "reason")
    rows = [pause_fields(record) for record in records]
    print_table(columns, [[row[column] for column in columns] for row in rows])


def pause_text(pause: ControlRecord) -> str:
    """Return a pause for people: whether it is of all queues, by whom, since and until when, why."""
    fields = pause_fields(pause)
    text = "with all queues, " if fields["queue"] == ALL_QUEUES else ""
    text += f"by {fields['by']} at {fields['at']}"
    if fields["until"] is not None:
        text += f" until {fields['until']}"
    return f"{text}: {fields['reason']}" if fields["reason"] else text


def pause_fields(pause: ControlRecord) -> dict[str, Any]:
    """Return a pause for programs; its queue is `*` where it is of all."""
    return {
        "queue": pause.key.partition(":")[2].rpartition(":")[0],
        "by": pause.by,
        "at": instant(pause.at),
        "until": instant(pause.expires),
        "reason": (pause.body or {}).get("reason"),
    }


def _named(queues: tuple[str, ...], *, everything: bool) -> list[str]:
    if bool(queues) is everything:
        msg = "name one or more queues, or give --all"
        raise ConfigurationError(msg)
    return [ALL_QUEUES] if everything else list(dict.fromkeys(queues))
