"""`taskyard broker …`: plan, apply, verify, compact and locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskyard.broker_setup.cli.output import age, instant, print_json, print_table
from taskyard.broker_setup.intents import compact as compact_log
from taskyard.broker_setup.recording import policy_by
from taskyard.broker_setup.session import run_with_broker
from taskyard.broker_setup.setup import Plan, apply_spec, describe, make_plan, spec_of
from taskyard.shared.cli import NO
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.broker import Broker, SetupSpec

UNVERIFIED = "bindings unverified: the broker's management API could not be asked"


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that say what the broker should hold."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    command = click.option("--ledger", is_flag=True, help="With the lifecycle feed.")(command)
    command = click.option(
        "--queue",
        "-q",
        "queues",
        multiple=True,
        metavar="NAME[:TYPE]",
        help="A queue that no module declares; TYPE is auto, classic or quorum.",
    )(command)
    return click.argument("modules", nargs=-1, metavar="[MODULE]...")(command)


@click.command()
@_what
def plan(modules: tuple[str, ...], queues: tuple[str, ...], *, ledger: bool, as_json: bool) -> None:
    """Show what `apply` would do. Exit 1 when something differs that it cannot change."""
    spec = _spec(modules, queues, ledger=ledger)
    made = run_with_broker(lambda broker: make_plan(broker, spec))
    _print(made, as_json=as_json, nothing="nothing to do")
    if made.differences:
        raise click.exceptions.Exit(NO)


@click.command()
@_what
def apply(
    modules: tuple[str, ...], queues: tuple[str, ...], *, ledger: bool, as_json: bool
) -> None:
    """Create what the declared queues need. Safe to repeat; never deletes or replaces a queue.

    What is recorded of them is written into the control log, for workers and coordinators.
    """
    spec = _spec(modules, queues, ledger=ledger)
    made = run_with_broker(lambda broker: apply_spec(broker, spec))
    _print(made, as_json=as_json, nothing="nothing to do: the broker is as it should be")


@click.command()
@_what
def verify(
    modules: tuple[str, ...], queues: tuple[str, ...], *, ledger: bool, as_json: bool
) -> None:
    """Exit 0 when the broker is as `apply` would leave it, 1 with the differences otherwise."""
    spec = _spec(modules, queues, ledger=ledger)
    made = run_with_broker(lambda broker: make_plan(broker, spec))
    _print(made, as_json=as_json, nothing="verified: the broker is as it should be")
    if made.lines:
        raise click.exceptions.Exit(NO)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compact(*, as_json: bool) -> None:
    """Write the intents in force again, before the control log's retention forgets them."""
    count = run_with_broker(compact_log)
    if as_json:
        print_json({"written": count})
    else:
        click.echo(f"{count} intents in force were written again")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def locks(*, as_json: bool) -> None:
    """List the locks that are held, such as those of `worker --singleton`: by whom, since when."""
    rows, now_ms = run_with_broker(_locks)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("lock", "host", "pid", "since", "for"),
        [
            (
                row["lock"],
                row["host"],
                row["pid"],
                instant(row["since_ms"]),
                age(row["since_ms"], now_ms),
            )
            for row in rows
        ],
    )


async def _locks(broker: Broker) -> tuple[list[dict[str, Any]], int]:
    rows: list[dict[str, Any]] = []
    for name, held in (await broker.locks()).items():
        owner = held.owner
        rows.append(
            {
                "lock": name,
                "host": None if owner is None else owner.host,
                "pid": None if owner is None else owner.pid,
                "since_ms": None if owner is None else owner.since_ms,
            }
        )
    return rows, broker.now_ms()


def _spec(modules: tuple[str, ...], queues: tuple[str, ...], *, ledger: bool) -> SetupSpec:
    return spec_of(modules, queues, ledger=ledger, policy=policy_by(Settings()))


def _print(made: Plan, *, as_json: bool, nothing: str) -> None:
    if as_json:
        print_json(
            {
                "actions": [*map(describe, made.actions), *map(str, made.recording)],
                "differences": [describe(action) for action in made.differences],
                "verified": made.verified,
            }
        )
        return
    for line in made.lines:
        click.echo(line)
    if not made.lines:
        click.echo(nothing)
    if not made.verified:
        click.echo(UNVERIFIED, err=True)
