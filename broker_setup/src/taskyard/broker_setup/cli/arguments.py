"""Other arguments for a job, as the command line gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from taskyard.broker_setup.editing import arguments_of, full_task
from taskyard.shared.catalogue import load_queues
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import InvalidArguments
from taskyard.shared.sealing import sealed_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TextIO

    from taskyard.shared.envelope import Envelope

_object: Final = msgspec.json.Decoder(dict[str, Any])


def both(text: str | None, file: TextIO) -> str:
    """Return the arguments of a file (click.UsageError where they are given as a text, too)."""
    if text is not None:
        raise click.UsageError("give --args or --args-file, not both")
    return file.read()


def argument_change(
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


def checker(modules: Sequence[str]) -> Callable[[Envelope, bytes], None]:
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
