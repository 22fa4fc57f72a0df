"""`taskyard parked list|show`: jobs that wait for a human, and why."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click
import msgspec

from taskyard.broker_setup import parking
from taskyard.broker_setup.cli.output import instant, print_json, print_table
from taskyard.broker_setup.editing import trail_of
from taskyard.broker_setup.releasing import look
from taskyard.broker_setup.session import run_with_broker
from taskyard.shared.broker import Selection, fingerprint_of, park_reason_of
from taskyard.shared.sealing import shown
from taskyard.shared.wire import RELEASED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from taskyard.broker_setup.survey import Group
    from taskyard.shared.broker import Broker, ParkedJob

QUEUE = click.option(
    "--queue", "-q", "queues", multiple=True, metavar="QUEUE", help="Look only here (repeatable)."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
FINGERPRINT = click.option(
    "--fingerprint",
    metavar="TEXT",
    help="Those of one group of `parked list --group`: its id, its fingerprint or how that begins.",
)
TASK = click.option("--task", metavar="TASK", help="Those of this task, by its full name.")


@click.command("list")
@QUEUE
@click.option("--reason", help="Only those parked for this reason.")
@FINGERPRINT
@TASK
@click.option("-n", "limit", type=click.IntRange(min=1), help="At most so many per queue.")
@click.option("--group", is_flag=True, help="Count them by what they failed with.")
@JSON
def list_parked(
    queues: tuple[str, ...],
    *,
    reason: str | None,
    fingerprint: str | None,
    task: str | None,
    limit: int | None,
    group: bool,
    as_json: bool,
) -> None:
    """List parked jobs, the longest parked first. Looking changes nothing.

    With --group, one line for all jobs with the same exception from the same place; jobs without
    an exception are grouped by their reason.
    """
    parking.check_reason(reason)
    selection = Selection(reason=reason, fingerprint=fingerprint, task=task)
    if group:
        if limit is not None:
            raise click.UsageError("-n says how many jobs to list; it goes without --group")
        _print_groups(run_with_broker(lambda broker: _groups(broker, queues, selection)), as_json)
        return
    if as_json:
        print_json(run_with_broker(lambda b: _browse(b, queues, selection, limit, _document)))
        return
    print_table(
        ("id", "queue", "task", "reason", "attempt", "parked", "detail"),
        run_with_broker(lambda broker: _browse(broker, queues, selection, limit, _line)),
    )


@click.command()
@click.argument("job_id", metavar="ID")
@QUEUE
@JSON
def show(job_id: str, queues: tuple[str, ...], *, as_json: bool) -> None:
    """Show one parked job in full: why, with which error, its arguments and what they were."""
    job = run_with_broker(lambda broker: _find(broker, queues, job_id))
    document = _document(job)
    if as_json:
        print_json(document)
        return
    document.pop("error")
    edits = document.pop("edits")
    for name, value in document.items():
        if value is not None:
            click.echo(f"{name + ':':<12} {value}")
    for edit in edits:
        was = "(too long to be kept)" if edit["was"] is None else edit["was"]
        added = f", added {', '.join(edit['added'])}" if edit["added"] else ""
        click.echo(
            f"edited:      by {edit['by']} at {edit['at']}, generation {edit['generation']} had "
            f"{was}{added}"
        )
    about = job.envelope.parking
    if about is not None and about.error is not None:
        click.echo(f"\n{about.error.traceback or about.error.message}")


async def _groups(broker: Broker, queues: Sequence[str], selection: Selection) -> list[Group]:
    return (await look(broker, queues, selection))[2].groups()


def _print_groups(groups: Sequence[Group], as_json: bool) -> None:
    if as_json:
        print_json([group_document(group) for group in groups])
        return
    print_table(
        ("group", "count", "queue", "reason", "task", "first", "last", "fingerprint", "example"),
        [
            [
                group.id,
                group.count,
                ",".join(sorted(group.queues)),
                ",".join(sorted(group.reasons)),
                ",".join(sorted(group.tasks)),
                instant(group.first_ms),
                instant(group.last_ms),
                group.fingerprint,
                group.examples[0],
            ]
            for group in groups
        ],
    )


def group_document(group: Group) -> dict[str, Any]:
    """Return a group for programs."""
    return {
        "group": group.id,
        "fingerprint": group.fingerprint,
        "count": group.count,
        "queues": sorted(group.queues),
        "reasons": sorted(group.reasons),
        "tasks": sorted(group.tasks),
        "first_parked": instant(group.first_ms),
        "last_parked": instant(group.last_ms),
        "examples": group.examples,
    }


async def _browse(
    broker: Broker,
    queues: Sequence[str],
    selection: Selection,
    limit: int | None,
    shown: Callable[[ParkedJob], Any],
) -> list[Any]:
    if selection.fingerprint is not None:
        selection = (await look(broker, queues, selection))[1]
    found: list[Any] = []
    for queue in await parking.lots(broker, queues):
        here = 0
        async for job in _matching(broker, queue, selection):
            if limit is not None and here >= limit:
                break
            found.append(shown(job))
            here += 1
    return found


async def _matching(broker: Broker, queue: str, selection: Selection) -> AsyncIterator[ParkedJob]:
    async with aclosing(broker.parked(queue)) as lot:
        async for job in lot:
            if selection.matches(job.envelope):
                yield job


async def _find(broker: Broker, queues: Sequence[str], job_id: str) -> ParkedJob:
    return await parking.find_parked(broker, await parking.lots(broker, queues), job_id)


def _line(job: ParkedJob) -> list[object]:
    envelope, about = job.envelope, job.envelope.parking
    detail = (about.detail if about else "set aside by the broker at its delivery limit")[:80]
    return [
        envelope.id,
        envelope.queue,
        envelope.task,
        park_reason_of(envelope),
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
        "reason": park_reason_of(envelope),
        "fingerprint": fingerprint_of(envelope),
        "detail": about.detail if about else None,
        "parked_at": instant(about.at_ms) if about else None,
        "parked_by": about.worker if about else None,
        "released": (envelope.extra or {}).get(RELEASED),
        "attempt": envelope.attempt,
        "deliveries": envelope.deliveries,
        "generation": envelope.generation,
        "priority": envelope.priority,
        "enqueued_at": instant(envelope.enqueued_ms),
        "app": envelope.app,
        "args": shown(envelope),
        "edits": [
            {
                "by": edit.by,
                "at": instant(edit.at),
                "generation": edit.generation,
                "was": edit.was,
                "added": list(edit.added),
                "digest": edit.digest,
            }
            for edit in trail_of(envelope)
        ],
        "error": None if about is None or about.error is None else msgspec.to_builtins(about.error),
    }
