"""`taskyard parked edit`: other arguments for a parked job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.cli.parked import DRY_RUN, JSON, QUEUE
from taskyard.broker_setup.editing import arguments_of, edit as edit_job, full_task
from taskyard.broker_setup.moving import Tally
from taskyard.broker_setup.releasing import Order, Releasing
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.broker import Selection
from taskyard.shared.catalogue import load_queues
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import InvalidArguments
from taskyard.shared.sealing import sealed_arguments, shown
from taskyard.shared.settings import Settings
from taskyard.shared.signature import encode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TextIO

    from taskyard.shared.broker import Broker
    from taskyard.shared.envelope import Envelope

_object: Final = msgspec.json.Decoder(dict[str, Any])


@click.command()
@click.argument("job_id", metavar="ID")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--args", "text", metavar="JSON", help="All arguments anew, as one JSON object.")
@click.option("--args-file", "file", type=click.File(), help="The same from a file; - is stdin.")
@click.option("--unset", multiple=True, metavar="KEY", help="Leave an argument out (repeatable).")
@click.option(
    "--module", "modules", multiple=True, help="Check against the task in this module (repeatable)."
)
@click.option("--release", is_flag=True, help="Release it at once, with its new arguments.")
@DRY_RUN
@QUEUE
@JSON
def edit(
    job_id: str,
    pairs: tuple[str, ...],
    queues: tuple[str, ...],
    *,
    text: str | None,
    file: TextIO | None,
    unset: tuple[str, ...],
    modules: tuple[str, ...],
    release: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change the arguments of a parked job. It stays parked, unless --release is given.

    KEY=VALUE replaces one argument; a VALUE is read as JSON if it is JSON, and is text otherwise.
    The job keeps its id; `parked show` tells what was changed, by whom and when.
    """
    changed = _change(pairs, text if file is None else _both(text, file), unset)
    check = _checker(modules)
    limit = Settings().payload_limit
    by = operator()

    def change(envelope: Envelope) -> dict[str, Any]:
        arguments = changed(envelope)
        body = encode_json(arguments)
        if len(body) > limit:
            problem = f"the encoded arguments are {len(body)} bytes, the limit is {limit}"
            raise InvalidArguments(full_task(envelope), problem)
        check(envelope, body)
        return arguments

    async def act(broker: Broker) -> Envelope:
        lot, envelope = await edit_job(broker, queues, job_id, change, by=by, dry_run=dry_run)
        if release and not dry_run:
            selection = Selection(ids=frozenset({job_id}))
            order = Order(queues=[lot], selection=selection, by=by)
            await Releasing(broker, order, Tally()).run()
        return envelope

    _report(run_with_broker(act), release=release, dry_run=dry_run, as_json=as_json)


def _report(envelope: Envelope, *, release: bool, dry_run: bool, as_json: bool) -> None:
    if as_json:
        document = {
            "would_edit" if dry_run else "id": envelope.id,
            "generation": envelope.generation,
            "args": shown(envelope),
            "would_release" if dry_run else "released": release,
        }
        print_json(document)
    elif dry_run:
        also = " and release it" if release else ""
        click.echo(
            f"would edit {envelope.id}{also}: generation {envelope.generation} would have "
            f"{encode_json(shown(envelope)).decode()}; nothing was changed"
        )
    else:
        state = "released" if release else "still parked; `taskyard parked release` sends it back"
        click.echo(f"edited {envelope.id} (generation {envelope.generation}); {state}")


def _both(text: str | None, file: TextIO) -> str:
    if text is not None:
        raise click.UsageError("give --args or --args-file, not both")
    return file.read()


def _change(
    pairs: Sequence[str], text: str | None, unset: Sequence[str]
) -> Callable[[Envelope], dict[str, Any]]:
    """Return how arguments are changed, by what the command line gave.

    Raises:
        click.UsageError: nothing is to be changed, or it is given in two ways.

    """
    if text is not None:
        if pairs or unset:
            raise click.UsageError("give all arguments with --args, or KEY=VALUE and --unset")
        whole = _whole(text)
        return lambda _: whole
    if not pairs and not unset:
        raise click.UsageError("say what to change: KEY=VALUE, --unset KEY, --args or --args-file")
    new = dict(_pair(pair) for pair in pairs)

    def change(envelope: Envelope) -> dict[str, Any]:
        arguments = {**arguments_of(envelope), **new}
        for name in unset:
            if name not in arguments:
                raise InvalidArguments(full_task(envelope), f"there is no {name!r} to leave out")
            del arguments[name]
        return arguments

    return change


def _whole(text: str) -> dict[str, Any]:
    try:
        return _object.decode(text)
    except UNREADABLE as error:
        msg = f'the arguments must be a JSON object such as {{"order_id": 7}}: {error}'
        raise click.UsageError(msg) from error


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError("an argument is not KEY=VALUE")  # it may be a secret
    try:
        return key, msgspec.json.decode(value)
    except UNREADABLE:
        return key, value


def _checker(modules: Sequence[str]) -> Callable[[Envelope, bytes], None]:
    """Return what refuses arguments that the task would not take."""
    declared = load_queues(modules) if modules else None

    def check(envelope: Envelope, body: bytes) -> None:
        if declared is None:
            return
        queue = declared.get(envelope.queue)
        if queue is None:
            known = ", ".join(sorted(declared))
            problem = f"the given modules declare no queue {envelope.queue} (they declare {known})"
            raise InvalidArguments(full_task(envelope), problem)
        task = queue.find(envelope.task)
        task.signature.check(body)
        _check_secrets(envelope, body, task.signature.secrets)

    return check


def _check_secrets(envelope: Envelope, body: bytes, secrets: Iterable[str]) -> None:
    """Refuse a value that the task declares secret: it would be readable in the lot."""
    now = msgspec.structs.replace(envelope, body=body)
    sealed, arguments = sealed_arguments(now), _object.decode(body)
    clear = sorted(n for n in secrets if n not in sealed and arguments.get(n) is not None)
    if clear:
        problem = f"{', '.join(clear)} is secret, and would be readable; send the job anew instead"
        raise InvalidArguments(full_task(envelope), problem)
