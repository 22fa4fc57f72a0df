"""`taskyard jobs suspend|resume|change|run`: what operators do to jobs that have not started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from taskyard.broker_setup.asking import Asking
from taskyard.broker_setup.cli.answers import WAIT, report, seconds_of, show_progress
from taskyard.broker_setup.cli.arguments import argument_change, both, checker
from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.ledger.cli.choosing import NOT_STARTED, ids_meant, meant
from taskyard.ledger.cli.options import JSON, filter_options
from taskyard.ledger.cli.session import with_database
from taskyard.ledger.filters import parse_instant
from taskyard.shared.changes import Change
from taskyard.shared.clock import SystemClock
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import InvalidArguments, TaskyardError
from taskyard.shared.priority import HIGHEST, parse_priority
from taskyard.shared.settings import Settings
from taskyard.shared.signature import encode_json
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from sqlalchemy import RowMapping

    from taskyard.ledger.asking import ChangeOf
    from taskyard.ledger.database import Database
    from taskyard.shared.broker import Broker
    from taskyard.shared.envelope import Envelope

_IDS: Final = click.argument("job_ids", nargs=-1, metavar="[ID]...")
_DRY_RUN: Final = click.option(
    "--dry-run", is_flag=True, help="Say which are meant, and change nothing."
)
_QUEUED: Final = (State.QUEUED, State.SCHEDULED, State.WAITING)
#: Ids that are named where many are meant.
_SHOWN: Final = 10


@click.command()
@_IDS
@filter_options
@_DRY_RUN
@WAIT
@JSON
def suspend(job_ids: tuple[str, ...], **options: Any) -> None:
    """Put jobs aside that have not started, until they are resumed.

    Name them, or give options as for `jobs list`. One that starts at this moment runs, and the
    answer says so.
    """
    _ask(job_ids, options, _QUEUED, lambda _: Change(suspend=True))


@click.command()
@_IDS
@filter_options
@_DRY_RUN
@WAIT
@JSON
def resume(job_ids: tuple[str, ...], **options: Any) -> None:
    """Send suspended jobs back to their queues; those that are due later wait until then."""
    _ask(job_ids, options, (State.SUSPENDED,), lambda _: Change(suspend=False))


@click.command()
@_IDS
@filter_options
@click.option("--to-priority", default=str(HIGHEST), help="low, normal, high, urgent, or 0 to 9.")
@_DRY_RUN
@WAIT
@JSON
def run(job_ids: tuple[str, ...], *, to_priority: str, **options: Any) -> None:
    """Have jobs run now, before all others: those due later, to be retried, or suspended."""
    urgent = parse_priority(to_priority)

    def change(row: RowMapping | None) -> Change:
        suspended = row is not None and row["state"] == State.SUSPENDED.value
        return Change(priority=urgent, due_ms=0, suspend=False if suspended else None)

    _ask(job_ids, options, NOT_STARTED, change)


@click.command()
@click.argument("words", nargs=-1, metavar="[ID]... [KEY=VALUE]...")
@filter_options
@click.option("--to-priority", help="low, normal, high, urgent, or 0 to 9.")
@click.option("--to-delay", metavar="DURATION", help="Due so long from now: 90s, 2h.")
@click.option("--to-due", metavar="WHEN", help="Due at this instant.")
@click.option("--args", "text", metavar="JSON", help="All arguments anew, as one JSON object.")
@click.option("--args-file", "file", type=click.File(), help="The same from a file; - is stdin.")
@click.option("--unset", multiple=True, metavar="KEY", help="Leave an argument out (repeatable).")
@click.option(
    "--module", "modules", multiple=True, help="Check against the task in this module (repeatable)."
)
@_DRY_RUN
@WAIT
@JSON
def change(
    words: tuple[str, ...],
    *,
    to_priority: str | None,
    to_delay: str | None,
    to_due: str | None,
    text: str | None,
    file: TextIO | None,
    unset: tuple[str, ...],
    modules: tuple[str, ...],
    **options: Any,
) -> None:
    """Change priority, due time or arguments of jobs that have not started.

    Name them, or give options as for `jobs list`. KEY=VALUE replaces one argument; a VALUE is read
    as JSON if it is JSON, and is text otherwise. The message from before never runs: a job that
    starts at this moment either runs as it was, and the answer says so, or as it is to be.
    """
    pairs = tuple(word for word in words if "=" in word)
    whole = text if file is None else both(text, file)
    rewrites = bool(pairs or unset or whole is not None)
    if not rewrites and to_priority is None and to_delay is None and to_due is None:
        raise click.UsageError(
            "say what to change: --to-priority, --to-delay, --to-due, KEY=VALUE, --unset or --args"
        )
    if to_delay is not None and to_due is not None:
        raise click.UsageError("give --to-delay or --to-due, not both")
    new = Change(
        priority=None if to_priority is None else parse_priority(to_priority),
        due_ms=_due_ms(to_delay, to_due),
    )
    rewrite = _rewriting(argument_change(pairs, whole, unset), modules) if rewrites else None

    def change_of(row: RowMapping | None) -> Change | str:
        return new if rewrite is None else rewrite(row, new)

    ids = tuple(word for word in words if "=" not in word)
    _ask(ids, options, NOT_STARTED, change_of)


def _due_ms(delay: str | None, due: str | None) -> int | None:
    now_ms = SystemClock().now_ms()
    if delay is not None:
        return now_ms + round(parse_duration(delay) * 1000)
    return None if due is None else max(parse_instant(due, now_ms), 0)


def _rewriting(
    new: Callable[[Envelope], dict[str, Any]], modules: Sequence[str]
) -> Callable[[RowMapping | None, Change], Change | str]:
    """Return what adds a job's new arguments to a change, or says why there can be none."""
    import msgspec

    from taskyard.ledger.reading import envelope_of
    from taskyard.shared.naming import full_task_name

    check = checker(modules)
    limit = Settings().payload_limit

    def change_of(row: RowMapping | None, change: Change) -> Change | str:
        envelope = None if row is None else envelope_of(row["envelope"])
        if envelope is None:
            return change  # refused for what it lacks
        try:
            arguments = new(envelope)
            body = encode_json(arguments)
            if len(body) > limit:
                problem = f"the encoded arguments are {len(body)} bytes, the limit is {limit}"
                raise InvalidArguments(full_task_name(envelope.queue, envelope.task), problem)
            check(envelope, body)
        except TaskyardError as error:
            return str(error)
        return msgspec.structs.replace(change, arguments=arguments)

    return change_of


def _ask(
    job_ids: tuple[str, ...], options: dict[str, Any], states: Sequence[State], change: ChangeOf
) -> None:
    dry_run, as_json = options.pop("dry_run"), options.pop("as_json")
    wait_s = seconds_of(options.pop("wait"))
    which = meant(job_ids, options, states)
    asking = Asking()
    show_progress(asking)

    async def act(broker: Broker) -> tuple[list[str], dict[str, str]]:
        from taskyard.ledger.asking import ask, plan

        async def with_ledger(database: Database) -> tuple[list[str], dict[str, str]]:
            ids = await ids_meant(database, which)
            asked, refused = await plan(broker, database, ids, change, by=operator())
            if not dry_run:
                await ask(broker, asking, asked, by=operator(), wait_s=wait_s)
            return list(asked), refused

        return await with_database(with_ledger)

    planned, refused = run_with_broker(act)
    if dry_run:
        _rehearsed(planned, refused, as_json=as_json)
    else:
        report(asking, refused, waited=bool(wait_s), as_json=as_json)


def _rehearsed(planned: list[str], refused: dict[str, str], *, as_json: bool) -> None:
    from taskyard.shared.cli import NO

    if as_json:
        print_json({"done": planned, "refused": refused, "dry_run": True})
    else:
        named = f": {' '.join(planned[:_SHOWN])}" if planned else ""
        more = f" and {len(planned) - _SHOWN} more" if len(planned) > _SHOWN else ""
        click.echo(f"{len(planned)} would be changed{named}{more}")
        for job, text in refused.items():
            click.echo(f"{job}: {text}", err=True)
    if refused:
        raise click.exceptions.Exit(NO)
