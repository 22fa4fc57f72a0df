"""`taskyard send`: one job from the command line."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from taskyard.producer.producer import Producer
from taskyard.shared.cli import NO, exit_code_of
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import JobError, ResultTimeout
from taskyard.shared.job import Job, Options
from taskyard.shared.logs import configure_logging
from taskyard.shared.secret import Secret
from taskyard.shared.settings import Settings
from taskyard.shared.states import State

if TYPE_CHECKING:
    from taskyard.producer.handle import Handle


@click.command(short_help="Send a job and print its id.")
@click.argument("target", metavar="QUEUE:TASK[:MESSAGE]")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--args", "text", metavar="JSON", help="All arguments as one JSON object.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="A text argument that travels encrypted; without VALUE it is asked for, or read from standard "
    "input.",
)
@click.option("--encrypt", is_flag=True, help="Encrypt all arguments.")
@click.option("--name", metavar="TEXT", help="What to call it: 2 to 32 characters.")
@click.option("--priority", default="normal", help="low, normal, high, urgent, or 0 to 9.")
@click.option("--delay", metavar="TIME", help="Time until it is due, such as 90, 5m or 2h.")
@click.option("--at", metavar="DATE", help="When it is due: ISO 8601 with its offset from UTC.")
@click.option("--ttr", metavar="TIME", help="Time that each attempt may take.")
@click.option("--expires", metavar="TIME", help="Time after which it must not start any more.")
@click.option("--wait", is_flag=True, help="Wait for the job's end and print its result as JSON.")
@click.option("--timeout", metavar="TIME", help="With --wait: how long to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def send(
    *,
    target: str,
    pairs: tuple[str, ...],
    text: str | None,
    secrets: tuple[str, ...],
    encrypt: bool,
    name: str | None,
    priority: str,
    delay: str | None,
    at: str | None,
    ttr: str | None,
    expires: str | None,
    wait: bool,
    timeout: str | None,
    as_json: bool,
) -> None:
    """Send a job and print its id.

    QUEUE:TASK:MESSAGE is short for the argument message=MESSAGE; whatever follows the second
    colon is the message, further colons included. A VALUE is read as JSON if it is JSON (7,
    true, [1, 2]) and is text otherwise; a secret one is always text.

    \b
    taskyard send default:test:hello
    taskyard send checkout:verify_card order_id=7 --priority high --wait --timeout 30
    """  # noqa: D301  # \b is click's mark for lines that keep their breaks
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    options = Options(priority=cast("Any", priority), reply=wait, encrypt=encrypt)
    if name is not None:
        options["name"] = name
    if delay is not None:
        options["delay"] = delay
    if at is not None:
        options["at"] = instant(at)
    if ttr is not None:
        options["ttr"] = ttr
    if expires is not None:
        options["expires"] = expires
    queue, task, message = split_target(target)
    args = with_secrets(arguments(message, pairs, text), secrets)
    job = Job[object](queue=queue, task=task, args=args, **options)
    settings = Settings()
    configure_logging(settings)
    with Producer(settings=settings) as producer:
        handle = producer.send(job)
        if wait:
            _print_result(handle, timeout, as_json=as_json)
        else:
            _print_id(handle, as_json=as_json)


def _print_id(handle: Handle[object], *, as_json: bool) -> None:
    found = {"id": handle.id}
    if handle.spooled:
        found["state"] = State.PENDING_PUBLISH.value
        click.echo("taskyard: the broker takes no jobs; this one is in the spool", err=True)
    click.echo(_json(found) if as_json else handle.id)


def split_target(target: str) -> tuple[str, str, str | None]:
    """Return queue, task and message of `QUEUE:TASK[:MESSAGE]`, split at the first two colons.

    Raises:
        click.UsageError: there is no task.

    """
    queue, _, rest = target.partition(":")
    task, colon, message = rest.partition(":")
    if not queue or not task:
        raise click.UsageError(f"{target!r} is not QUEUE:TASK or QUEUE:TASK:MESSAGE")
    return queue, task, message if colon else None


def arguments(message: str | None, pairs: tuple[str, ...], text: str | None) -> dict[str, object]:
    """Return a job's arguments from what the command line gave of them.

    Raises:
        click.UsageError: they are given in two ways, one twice, or not in the right form.

    """
    if text is not None:
        if message is not None or pairs:
            raise click.UsageError("give --args, or a message and KEY=VALUE, not both")
        return _object(text)
    found: dict[str, object] = {} if message is None else {"message": message}
    for number, pair in enumerate(pairs, 1):
        key, equals, value = pair.partition("=")
        if not equals or not key:  # not quoted: it may be meant to travel encrypted
            raise click.UsageError(f"argument {number} is not KEY=VALUE")
        if key in found:
            raise click.UsageError(f"argument {key!r} is given twice")
        found[key] = _value(value)
    return found


def with_secrets(found: dict[str, object], secrets: tuple[str, ...]) -> dict[str, object]:
    """Return arguments with those of `--secret` added.

    Raises:
        click.UsageError: one is given twice, or two are to be read from one standard input.

    """
    read = [secret for secret in secrets if "=" not in secret]
    if len(read) > 1 and not sys.stdin.isatty():
        raise click.UsageError("only one --secret can be read from standard input")
    for secret in secrets:
        key, equals, value = secret.partition("=")
        if not key or key in found:
            raise click.UsageError(
                f"argument {key!r} is given twice" if key else "--secret needs KEY"
            )
        found[key] = Secret(value if equals else _asked(key))
    return found


def _asked(key: str) -> str:
    """Return a secret that is on no command line, where other users of the machine can see it."""
    if sys.stdin.isatty():
        return str(click.prompt(key, hide_input=True, err=True))
    return sys.stdin.read().rstrip("\n")


def instant(text: str) -> datetime:
    """Return an ISO 8601 date with its offset.

    Raises:
        click.UsageError: it is no such date, or its offset is missing.

    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"--at {text!r} is not an ISO 8601 date such as 2030-01-31T18:00:00+01:00"
        raise click.UsageError(msg) from error
    if found.tzinfo is None:
        msg = (
            f"--at {text!r} does not say in which time zone: add its offset, "
            f"for example {text}+00:00 or {text}Z for UTC"
        )
        raise click.UsageError(msg)
    return found


def _object(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except UNREADABLE as error:
        msg = f'--args must be a JSON object such as {{"order_id": 7}}: {error}'
        raise click.UsageError(msg) from error


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return text


def _print_result(handle: Handle[object], timeout: str | None, *, as_json: bool) -> None:
    try:
        value = handle.result(timeout=timeout)
    except ResultTimeout as error:
        _fail(handle, "timed_out", str(error), code=exit_code_of(error), as_json=as_json)
    except JobError as error:
        outcome = type(error).__name__.removeprefix("Job").lower()
        _fail(handle, outcome, str(error), code=NO, kind=error.kind, as_json=as_json)
    else:
        found: dict[str, object] = {
            "id": handle.id,
            "outcome": "succeeded",
            "logical": handle.logical,
        }
        if handle.said:
            found["said"] = handle.said
        found["result"] = value
        click.echo(_json(found if as_json else value))


def _fail(
    handle: Handle[object], outcome: str, text: str, *, code: int, as_json: bool, kind: str = ""
) -> None:
    click.echo(f"taskyard: {text}", err=True)
    if as_json:
        click.echo(_json({"id": handle.id, "outcome": outcome, "kind": kind}))
    sys.exit(code)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
