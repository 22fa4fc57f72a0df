"""`taskyard parked …`: jobs that wait for a human."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskyard.broker_setup import parking
from taskyard.broker_setup.cli.output import instant, print_json, print_table
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.sealing import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.broker_setup.parking import Moved
    from taskyard.shared.broker import Broker, ParkedJob, Selection

_QUEUE = click.option(
    "--queue", "-q", "queues", multiple=True, metavar="QUEUE", help="Look only here (repeatable)."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that say which parked jobs are meant."""
    for option in (
        _JSON,
        click.option("--all", "everything", is_flag=True, help="All of them."),
        click.option("--reason", help="Those parked for this reason."),
        click.option(
            "-n",
            "limit",
            type=click.IntRange(min=1),
            help="At most so many, the longest parked first.",
        ),
        _QUEUE,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


@click.command("list")
@_QUEUE
@click.option("--reason", help="Only those parked for this reason.")
@click.option("-n", "limit", type=click.IntRange(min=1), help="At most so many per queue.")
@_JSON
def list_parked(
    queues: tuple[str, ...], *, reason: str | None, limit: int | None, as_json: bool
) -> None:
    """List parked jobs, the longest parked first. Looking changes nothing."""
    found = run_with_broker(lambda broker: _browse(broker, queues, reason, limit))
    if as_json:
        print_json([_document(job) for job in found])
        return
    print_table(
        ("id", "queue", "task", "reason", "attempt", "parked", "detail"),
        [_line(job) for job in found],
    )


@click.command()
@click.argument("job_id", metavar="ID")
@_QUEUE
@_JSON
def show(job_id: str, queues: tuple[str, ...], *, as_json: bool) -> None:
    """Show one parked job in full: why, with which error, and its arguments."""
    job = run_with_broker(lambda broker: _find(broker, queues, job_id))
    document = _document(job)
    if as_json:
        print_json(document)
        return
    document.pop("error")
    for name, value in document.items():
        if value is not None:
            click.echo(f"{name + ':':<12} {value}")
    about = job.envelope.parking
    if about is not None and about.error is not None:
        click.echo(f"\n{about.error.traceback or about.error.message}")


@click.command()
@_which
def release(ids: tuple[str, ...], queues: tuple[str, ...], *, as_json: bool, **which: Any) -> None:
    """Send parked jobs back to their queue, in order, each as a new attempt.

    May be interrupted and repeated: nothing is lost.
    """

    async def move(broker: Broker, queue: str, selection: Selection) -> Moved:
        return await parking.release(broker, queue, selection)

    _move(ids, queues, which, move, "released", as_json=as_json)


@click.command()
@_which
def discard(ids: tuple[str, ...], queues: tuple[str, ...], *, as_json: bool, **which: Any) -> None:
    """Give parked jobs up: each ends as failed. This cannot be undone."""
    by = operator()

    async def move(broker: Broker, queue: str, selection: Selection) -> Moved:
        return await parking.discard(broker, queue, selection, by=by)

    _move(ids, queues, which, move, "discarded", as_json=as_json)


def _move(
    ids: Sequence[str],
    queues: Sequence[str],
    which: dict[str, Any],
    move: Callable[[Broker, str, Selection], Any],
    verb: str,
    *,
    as_json: bool,
) -> None:
    selection = parking.select(ids, **which)
    done = run_with_broker(
        lambda broker: parking.move_in_each(broker, queues, selection, move, verb)
    )
    if as_json:
        print_json({verb: list(done)})
    else:
        click.echo(f"{verb} {len(done)} job{'s' if len(done) != 1 else ''}")


async def _browse(
    broker: Broker, queues: Sequence[str], reason: str | None, limit: int | None
) -> list[ParkedJob]:
    found: list[ParkedJob] = []
    for queue in await parking.lots(broker, queues):
        here = 0
        async with aclosing(broker.parked(queue)) as lot:
            async for job in lot:
                if reason is not None and parking.reason_of(job.envelope) != reason:
                    continue
                if limit is not None and here >= limit:
                    break
                found.append(job)
                here += 1
    return found


async def _find(broker: Broker, queues: Sequence[str], job_id: str) -> ParkedJob:
    return await parking.find_parked(broker, await parking.lots(broker, queues), job_id)


def _line(job: ParkedJob) -> list[object]:
    envelope, about = job.envelope, job.envelope.parking
    detail = (about.detail if about else "set aside by the broker at its delivery limit")[:80]
    return [
        envelope.id,
        envelope.queue,
        envelope.task,
        parking.reason_of(envelope),
        envelope.attempt,
        instant(about.at_ms) if about else None,
        detail.splitlines()[0] if detail else "",
    ]


def _document(job: ParkedJob) -> dict[str, Any]:
    envelope, about = job.envelope, job.envelope.parking
    return {
        "id": envelope.id,
        "queue": envelope.queue,
        "task": envelope.task,
        "reason": parking.reason_of(envelope),
        "detail": about.detail if about else None,
        "parked_at": instant(about.at_ms) if about else None,
        "parked_by": about.worker if about else None,
        "attempt": envelope.attempt,
        "deliveries": envelope.deliveries,
        "priority": envelope.priority,
        "enqueued_at": instant(envelope.enqueued_ms),
        "app": envelope.app,
        "args": shown(envelope),
        "error": None if about is None or about.error is None else msgspec.to_builtins(about.error),
    }
