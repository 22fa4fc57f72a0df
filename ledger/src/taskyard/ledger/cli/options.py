"""The options that say which jobs are meant, the same for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from taskyard.ledger.filters import (
    ACTIVE,
    MOMENTS,
    Filter,
    Span,
    listed,
    parse_argument,
    parse_details,
    parse_instant,
    parse_priorities,
    parse_states,
)
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

C = TypeVar("C", bound="Callable[..., Any]")

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

#: More than any list is long, and what every database takes.
MOST: Final = 2**31 - 1

_OF_TIMES: Final = {
    "created": "first sent",
    "changed": "heard of last",
    "due": "due",
    "started": "started last",
    "ended": "ended last, parked or put back,",
}


def _many(*names: str, metavar: str, help: str) -> Callable[[C], C]:  # noqa: A002  # click's word
    return click.option(*names, multiple=True, metavar=metavar, help=help)


_OPTIONS: Final = (
    _many("--state", "states", metavar="STATE", help=f"In this state: {', '.join(State)}."),
    click.option("--active", is_flag=True, help="In any state but the final ones."),
    _many("--queue", "-q", "queues", metavar="QUEUE", help="In this queue."),
    _many("--task", "tasks", metavar="TASK", help="Of this task; also a pattern: 'mail.*'."),
    _many("--app", "apps", metavar="APP", help="Sent by this application."),
    _many("--tenant", "tenants", metavar="TENANT", help="Of this tenant (of the context)."),
    _many("--id", "ids", metavar="ID", help="With this id."),
    _many("--parent", "parents", metavar="ID", help="Sent by this job."),
    _many("--name", "names", metavar="NAME", help="That its sender calls so; also a pattern."),
    _many("--from-host", "hosts", metavar="HOST[:PID]", help="Sent first from this host."),
    _many("--priority", "priorities", metavar="N|N-M", help="Of this priority: 7, high or 4-9."),
    _many("--reason", "details", metavar="REASON", help="Failed or parked for this reason."),
    _many("--fingerprint", "fingerprints", metavar="TEXT", help="Whose error's begins so."),
    click.option(
        "--ok/--not-ok",
        "ok",
        default=None,
        help="Succeeded, and said so by ctx.ok() (or succeeded without a word).",
    ),
    _many(
        "--arg", "arguments", metavar="NAME=VALUE", help="With this argument (all that are given)."
    ),
    click.option("--kept/--not-kept", "kept", default=None, help="Kept for ever (or not)."),
    *(
        click.option(f"--{moment}-{side}", metavar="WHEN", help=f"{words} {side} this instant.")
        for moment in MOMENTS
        for words in (_OF_TIMES[moment].capitalize(),)
        for side in ("after", "before")
    ),
)


def filter_options(command: C) -> C:
    """Give a command the options of a filter; it hands them to `filter_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def filter_of(options: Mapping[str, Any], now_ms: int) -> Filter:
    """Return the filter that the options mean.

    Raises:
        ConfigurationError: one of them cannot be read; the text names it.

    """
    states = parse_states(options["states"])
    if options["active"]:
        if states:
            raise click.UsageError("--active names states, as --state does: give one of them")
        states = ACTIVE
    return Filter(
        states=states,
        queues=listed(options["queues"]),
        tasks=listed(options["tasks"]),
        apps=listed(options["apps"]),
        tenants=listed(options["tenants"]),
        ids=listed(options["ids"]),
        parents=listed(options["parents"]),
        # A name may hold a comma.
        names=tuple(options["names"]),
        hosts=listed(options["hosts"]),
        fingerprints=tuple(options["fingerprints"]),
        details=parse_details(options["details"]),
        ok=options["ok"],
        priorities=parse_priorities(options["priorities"]),
        spans=tuple(span for span in _spans(options, now_ms) if span is not None),
        arguments=tuple(parse_argument(text) for text in options["arguments"]),
        kept=options["kept"],
    )


def _spans(options: Mapping[str, Any], now_ms: int) -> list[Span | None]:
    return [
        None
        if after is None and before is None
        else Span(
            moment=moment,
            after_ms=None if after is None else parse_instant(after, now_ms),
            before_ms=None if before is None else parse_instant(before, now_ms),
        )
        for moment in MOMENTS
        for after, before in ((options[f"{moment}_after"], options[f"{moment}_before"]),)
    ]
