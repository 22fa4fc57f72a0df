"""`taskyard drain on|off|show`: producers send nothing new, and workers go on with what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from taskyard.broker_setup import intents
from taskyard.broker_setup.cli.output import instant, print_json
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.cli import NO
from taskyard.shared.duration import parse_duration

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord


@click.command()
@click.option(
    "--for", "duration", metavar="DURATION", help="End by itself after, for example, 30s or 2h."
)
@click.option("--reason", default="", help="Told to everyone whose job is refused.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def on(*, duration: str | None, reason: str, as_json: bool) -> None:
    """Have producers refuse new jobs, within two seconds; what is there is worked off.

    They raise `Draining`, which names you, the reason and the end. Retries, releases, and jobs that
    running jobs send are let through, so that work under way comes to its end.
    """
    for_s = None if duration is None else parse_duration(duration)
    run_with_broker(lambda broker: intents.drain(broker, by=operator(), for_s=for_s, reason=reason))
    if as_json:
        print_json({"draining": True, "for_s": for_s})
    else:
        click.echo("producers send nothing new" + (f" for {duration}" if duration else ""))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def off(*, as_json: bool) -> None:
    """Have producers send again. Exit 1 when they were not kept from it."""
    found = run_with_broker(lambda broker: intents.undrain(broker, by=operator()))
    if as_json:
        print_json({"draining": False, "ended": found is not None})
    else:
        click.echo("producers send again" if found else "producers were not kept from sending")
    if found is None:
        raise click.exceptions.Exit(NO)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(*, as_json: bool) -> None:
    """Say whether producers refuse new jobs, and by whom. Exit 0 when they do, else 1."""

    async def act(broker: Broker) -> ControlRecord | None:
        return (await intents.read_intents(broker)).drain(broker.now_ms())

    found = run_with_broker(act)
    if as_json:
        print_json(None if found is None else _fields(found))
    elif found is None:
        click.echo("producers send")
    else:
        click.echo(f"producers send nothing new: {drain_text(found)}")
    if found is None:
        raise click.exceptions.Exit(NO)


def drain_text(drain: ControlRecord) -> str:
    """Return a drain for people: by whom, since and until when, why."""
    fields = _fields(drain)
    text = f"by {fields['by']} at {fields['at']}"
    if fields["until"] is not None:
        text += f" until {fields['until']}"
    return f"{text}: {fields['reason']}" if fields["reason"] else text


def _fields(drain: ControlRecord) -> dict[str, object]:
    return {
        "by": drain.by,
        "at": instant(drain.at),
        "until": instant(drain.expires),
        "reason": (drain.body or {}).get("reason"),
    }
