"""`taskyard jobs list|show|failures`: what the ledger knows of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from taskyard.broker_setup.cli.output import instant, print_json, print_table
from taskyard.ledger.cli.documents import failures_document, history_document, job_document
from taskyard.ledger.cli.options import JSON, MOST, filter_of, filter_options
from taskyard.ledger.cli.session import run_with_ledger
from taskyard.ledger.filters import parse_sort
from taskyard.ledger.result import result_of
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.effective import Effective
    from taskyard.ledger.failures import Failures
    from taskyard.ledger.filters import Filter
    from taskyard.ledger.lookup import History
    from taskyard.ledger.reading import Count, JobRow
    from taskyard.ledger.rows import Run

#: How much of an error's text a line of a list has room for.
_LINE: Final = 60


@click.command("list")
@filter_options
@click.option(
    "--sort", default="-created", metavar="NAME", help="By what; -NAME: the greatest first."
)
@click.option("--limit", "-n", type=click.IntRange(0, MOST), default=100, help="At most so many.")
@click.option("--offset", type=click.IntRange(0, MOST), default=0, help="Pass over so many.")
@click.option("--with-arguments", is_flag=True, help="Also show their arguments.")
@click.option("--count", "only_count", is_flag=True, help="Say how many there are, and no more.")
@JSON
def list_jobs(
    *,
    sort: str,
    limit: int,
    offset: int,
    with_arguments: bool,
    only_count: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """List jobs, the newest first, and say how many there are (exactly, up to 10 000).

    Options may be given more than once, and hold comma lists: any one of an option's values, and
    all of the options, must hold. WHEN is a date of ISO 8601 (UTC if it does not say), or how long
    ago: 90m, 2d; +2h is in two hours.

    NAME is id, created, changed, due, started, ended, queue, task, priority, state or attempt.
    To see what waits longest in a queue, take --state queued --queue QUEUE --sort due; what
    becomes due next: --state scheduled. Looking changes nothing.
    """
    now_ms = SystemClock().now_ms()
    meant = filter_of(options, now_ms)
    by, descending = parse_sort(sort)
    total, jobs = run_with_ledger(
        lambda ledger: _page(
            ledger,
            meant,
            now_ms=now_ms,
            sort=by,
            descending=descending,
            limit=0 if only_count else limit,
            offset=offset,
            arguments=with_arguments,
        )
    )
    if as_json:
        counted: dict[str, object] = {"total": total.number, "more": total.more}
        print_json(
            counted if only_count else {**counted, "jobs": [job_document(job) for job in jobs]}
        )
    elif only_count:
        click.echo(str(total))
    else:
        _print_jobs(jobs, total, offset, arguments=with_arguments)


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--value", is_flag=True, help="Print what it returned, as JSON, and nothing else.")
@click.option(
    "--effective",
    metavar="MODULE",
    help="Also say which options hold for it, and who set them, by the declarations of MODULE.",
)
@JSON
def show(job_id: str, *, value: bool, effective: str | None, as_json: bool) -> None:
    """Show one job in full: its arguments, where it stands, and each of its runs.

    With --value: exit 1 with its error if it did not succeed, and 124 while it is not over.
    """
    now_ms = SystemClock().now_ms()
    history = run_with_ledger(lambda ledger: _history(ledger, job_id, now_ms))
    if value:
        click.echo(result_of(history))
        return
    options = {} if effective is None else _effective(history, effective)
    if as_json:
        more = {"effective": options} if options else {}
        print_json({**history_document(history, now_ms), **more})
    else:
        _print_history(history, now_ms)
        for name, each in options.items():
            click.echo(f"effective {name + ':':<15} {each}")


@click.command("failures")
@filter_options
@click.option("--limit", "-n", type=click.IntRange(1, MOST), default=100, help="At most so many.")
@JSON
def list_failures(*, limit: int, as_json: bool, **options: Any) -> None:
    """Count the jobs that failed or are parked by their cause, the most frequent first.

    Of one cause are those with the same exception from the same place, and those without an
    exception that failed or were parked for the same reason. The options are those of
    `taskyard jobs list`; the last hour's: --ended-after 1h.
    """
    now_ms = SystemClock().now_ms()
    meant = filter_of(options, now_ms)
    groups = run_with_ledger(lambda ledger: _failures(ledger, meant, now_ms, limit))
    if as_json:
        print_json([failures_document(group) for group in groups])
        return
    print_table(
        ("count", "fingerprint", "reason", "queue", "task", "first", "last", "example", "error"),
        [
            [
                group.count,
                group.fingerprint,
                ",".join(group.details),
                ",".join(group.queues),
                ",".join(group.tasks),
                instant(group.first_ms),
                instant(group.last_ms),
                group.examples[0],
                _line(group.error_message),
            ]
            for group in groups
        ],
    )


def _effective(history: History, module: str) -> dict[str, Effective]:
    from taskyard.ledger.effective import effective
    from taskyard.shared.catalogue import load_queues

    if history.envelope is None:
        raise NotFound(f"the ledger does not hold what was asked of job {history.job.id}")
    return effective(history.envelope, load_queues([module]))


async def _page(
    ledger: AsyncConnection, meant: Filter, *, now_ms: int, limit: int, **page: Any
) -> tuple[Count, list[JobRow]]:
    from taskyard.ledger import reading

    total = await reading.count(ledger, meant, now_ms=now_ms)
    if not limit:
        return total, []
    return total, await reading.list_jobs(
        ledger, meant, now_ms=now_ms, limit=limit, few=not total.more, **page
    )


async def _history(ledger: AsyncConnection, job_id: str, now_ms: int) -> History:
    from taskyard.ledger import lookup

    history = await lookup.job(ledger, job_id, now_ms=now_ms)
    if history is None:
        raise NotFound(f"the ledger knows no job {job_id!r}")
    return history


async def _failures(
    ledger: AsyncConnection, meant: Filter, now_ms: int, limit: int
) -> list[Failures]:
    from taskyard.ledger.failures import failures

    return await failures(ledger, meant, now_ms=now_ms, limit=limit)


def _print_jobs(jobs: list[JobRow], total: Count, offset: int, *, arguments: bool) -> None:
    columns = ("id", "queue", "task", "state", "reason", "priority", "attempt", "created", "ended")
    named = any(job.name for job in jobs)
    print_table(
        (
            *columns,
            *(("name",) if named else ()),
            "error",
            *(("arguments",) if arguments else ()),
        ),
        [
            [
                job.id,
                job.queue,
                job.task,
                job.state,
                job.detail,
                job.priority,
                job.attempt,
                instant(job.created_ms),
                instant(job.ended_ms),
                *((job.name,) if named else ()),
                _line(job.error_message),
                *((_json(job.arguments),) if arguments else ()),
            ]
            for job in jobs
        ],
    )
    shown = f"{offset + 1} to {offset + len(jobs)}" if jobs else "none"
    click.echo(f"{shown} of {total}")


def _print_history(history: History, now_ms: int) -> None:
    document = history_document(history, now_ms)
    counted = document.pop("counters")
    del document["runs"]
    document["arguments"] = _json(history.job.arguments)
    document["value"] = None if history.last is None else history.last.value
    document["error_message"] = _line(history.job.error_message)
    for name, value in document.items():
        if value is not None:
            click.echo(f"{name + ':':<15} {value}")
    click.echo(f"{'counters:':<15} {', '.join(f'{name} {n}' for name, n in counted.items())}\n")
    print_table(
        ("attempt", "delivery", "outcome", "reason", "started", "ended", "waited", "ran", "worker"),
        [
            [
                run.attempt,
                run.deliveries,
                run.outcome,
                run.detail,
                instant(run.started_ms),
                instant(run.ended_ms),
                _milliseconds(run.wait_ms),
                _milliseconds(run.run_ms),
                run.worker,
            ]
            for run in history.runs
        ],
    )
    far = [run for run in history.runs if run.progressed_ms is not None]
    if far:
        click.echo(f"\nprogress of attempt {far[-1].attempt}: {_progress(far[-1])}")
    failed = [run for run in history.runs if run.error_type]
    if failed:
        click.echo(f"\n{failed[-1].traceback or failed[-1].error_message}")
    talked = [run for run in history.runs if run.output]
    if talked:
        click.echo(f"\noutput of attempt {talked[-1].attempt}:\n{talked[-1].output}", nl=False)


def _progress(run: Run) -> str:
    of = "" if run.progress_of is None else f"/{run.progress_of:g}"
    note = f" {run.progress_note}" if run.progress_note else ""
    return f"{run.progress_done:g}{of}{note} at {instant(run.progressed_ms)}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _milliseconds(number: int | None) -> str | None:
    return None if number is None else f"{number} ms"


def _line(text: str | None) -> str | None:
    """Return the beginning of a text's first line."""
    return text.splitlines()[0][:_LINE] if text else None
