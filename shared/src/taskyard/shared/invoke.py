"""Calling a handler: what a worker and eager mode do alike, so that both mean the same.

    arguments = bind(task, envelope, keys)                  # InvalidArguments parks it as invalid
    context = Context(envelope, runtime, resources, keys)
    value = await call_async(task, context, arguments)      # in a task of its own
    value = call_sync(task, context, arguments)             # under copy_context().run, or to_thread
    text, problem = encode_result(value)
    reply = reply_of(envelope, outcome, text, problem)      # None when the job goes on

Both calls make the job and its propagated values current and leave them so: run each in an
execution context of its own. What an exception means is decided in `decide`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from taskyard.shared.context import Context, set_current_job
from taskyard.shared.decide import text_of
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import Reply
from taskyard.shared.keyring import NO_KEYS, KeyRing
from taskyard.shared.middleware import Middleware
from taskyard.shared.outcomes import (
    OUTCOME_NAMES,
    Cancelled,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    Retried,
    Succeeded,
)
from taskyard.shared.propagation import set_values
from taskyard.shared.sealing import open_body, open_value
from taskyard.shared.signature import encode_json
from taskyard.shared.task import Task
from taskyard.shared.wire import ENCRYPTED

Proceed = Callable[[], Awaitable[object]]

#: Largest returned value that travels with a record or a reply, in bytes of JSON.
RESULT_LIMIT_BYTES: Final = 1024 * 1024


def bind(task: Task[..., Any], envelope: Envelope, keys: KeyRing = NO_KEYS) -> dict[str, object]:
    """Return the handler's arguments by name, without the context, decrypted.

    Args:
        task: whose handler is called.
        envelope: its job, with the task's full name.
        keys: of this process.

    Raises:
        Undecryptable: the arguments are encrypted, and `keys` does not decrypt them.
        InvalidArguments: the body is not JSON, or does not fit the handler's signature.
        ConfigurationError: the handler's own annotations cannot be read.

    """
    signature = task.signature
    if not signature.secrets and envelope.content_type != ENCRYPTED:
        return signature.decode(envelope.body)
    return signature.decode(
        open_body(envelope, keys),
        opened=lambda name, text: open_value(text, envelope, name, keys),
        discreet=envelope.content_type == ENCRYPTED,
    )


async def call_async(
    task: Task[..., Any], context: Context[Any], arguments: Mapping[str, object]
) -> object:
    """Call an `async def` handler and return its value; whatever it raises passes through."""
    activate(context)
    if task.signature.wants_context:
        return await task.function(context, **arguments)
    return await task.function(**arguments)


def call_sync(
    task: Task[..., Any], context: Context[Any], arguments: Mapping[str, object]
) -> object:
    """Call a `def` handler and return its value; whatever it raises passes through."""
    activate(context)
    if task.signature.wants_context:
        return task.function(context, **arguments)
    return task.function(**arguments)


def activate(context: Context[Any]) -> None:
    """Make a job, and the values it carries, current in this execution context."""
    set_current_job(context)
    set_values(context.values)


def wrap(middleware: Sequence[Middleware], context: Context[Any], call: Proceed) -> Proceed:
    """Return `call` inside its middleware, the first outermost."""
    for layer in reversed(middleware):
        call = _inside(layer, context, call)
    return call


def _inside(layer: Middleware, context: Context[Any], proceed: Proceed) -> Proceed:
    return lambda: layer.execute(context, proceed)


class EncodedResult(msgspec.Struct, frozen=True):
    """A handler's value that was encoded where it came about: what `encode_result` returned."""

    value: msgspec.Raw | None
    problem: str


def encode_result(value: object) -> tuple[msgspec.Raw | None, str]:
    """Return a handler's value as JSON text for records and replies, and what is wrong with it.

    A value that has no JSON form, or a far too large one, is left out with a reason in words: the
    work is done, and must not be repeated because its result cannot travel.
    """
    if value is None:
        return None, ""
    if isinstance(value, EncodedResult):
        return value.value, value.problem
    try:
        text = encode_json(value)
    except Exception as error:  # noqa: BLE001  # a value's own conversion may raise anything
        return None, f"its result has no JSON form: {text_of(error)}"
    if len(text) > RESULT_LIMIT_BYTES:
        return None, f"its result of {len(text)} bytes exceeds {RESULT_LIMIT_BYTES} and is left out"
    return msgspec.Raw(text), ""


def reply_of(
    envelope: Envelope, outcome: Outcome, value: msgspec.Raw | None = None, problem: str = ""
) -> Reply | None:
    """Return what whoever asked for the job's result is told; None while the job goes on.

    Args:
        envelope: the attempt that ended.
        outcome: how it ended.
        value: the encoded result, and
        problem: why there is none, both from `encode_result`.

    """
    if isinstance(outcome, (Retried, HandedBack)):
        return None
    detail, message, error = "", problem, None
    if isinstance(outcome, Failed):
        detail, message, error = outcome.kind.value, outcome.message, outcome.error
    elif isinstance(outcome, Parked):
        detail, message, error = outcome.reason.value, outcome.detail, outcome.error
    elif isinstance(outcome, Cancelled):
        detail, message = "aborted" if outcome.aborted else "", outcome.by
    return Reply(
        job=envelope.id,
        attempt=envelope.attempt,
        outcome=OUTCOME_NAMES[type(outcome)],
        detail=detail,
        message=message,
        value=value,
        ok=outcome.ok if isinstance(outcome, Succeeded) else None,
        error=error,
    )
