"""From how a handler ended to the attempt's outcome: pure decisions, shared by every runner."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError, InvalidArguments, Undecryptable
from taskyard.shared.outcomes import (
    ErrorInfo,
    Fail,
    Failed,
    Hold,
    Outcome,
    Parked,
    Retried,
    Retry,
)
from taskyard.shared.priority import parse_priority
from taskyard.shared.retry import RetryPolicy, decode_policy
from taskyard.shared.states import FailureKind, ParkReason

if TYPE_CHECKING:
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.retry import Random
    from taskyard.shared.task import Task

DEFAULT_POLICY: Final = RetryPolicy()

#: Longest traceback kept, in characters; the end of it says most.
TRACEBACK_LIMIT: Final = 16_000
#: Longest error text kept, in characters.
MESSAGE_LIMIT: Final = 4_000
#: Longest name of an exception's class kept, in characters.
_NAME_LIMIT: Final = 300
#: Control characters take six bytes each in JSON, and harm terminals.
_CONTROLS: Final = {n: "\ufffd" for n in (*range(32), 127) if chr(n) not in "\t\n"}


class TimedOut(Exception):  # named for the outcome, as it is shown to people
    """An attempt ran past its time to run."""


def policy_of(envelope: Envelope, task: Task[..., Any]) -> RetryPolicy:
    """Return the retry policy in force: the job's own, its task's, its queue's, or the default."""
    if envelope.retry is not None:
        try:
            return decode_policy(envelope.retry)
        except ConfigurationError:
            pass  # a foreign header that is no policy must not keep the job from its queue's one
    return task.retry or task.queue.retry or DEFAULT_POLICY


def ttr_s_of(envelope: Envelope, task: Task[..., Any]) -> float:
    """Return the time to run in force, in seconds: the job's own, its task's, or its queue's."""
    if envelope.ttr_ms is not None and envelope.ttr_ms > 0:
        return envelope.ttr_ms / 1000
    return task.ttr_s or task.queue.ttr_s


def outcome_of_error(
    error: BaseException, envelope: Envelope, policy: RetryPolicy, *, now_ms: int, rng: Random
) -> Outcome:
    """Return how an attempt ends whose handler raised.

    `Hold` parks, `Fail` ends, wrong arguments park as invalid and encrypted ones without their key
    as undecryptable; anything else is retried by the policy until its attempts are spent, then
    parked. A retry that would come after the job's
    expiry parks it at once.
    """
    info = describe(error)
    if isinstance(error, Hold):
        return Parked(reason=ParkReason.HELD, detail=text_of(error))
    if isinstance(error, Fail):
        return Failed(kind=FailureKind.LOGICAL, message=text_of(error))
    if isinstance(error, InvalidArguments) and error.task == envelope.task:
        return Parked(
            reason=ParkReason.INVALID, detail=_carried(error.problem, MESSAGE_LIMIT), error=info
        )
    if isinstance(error, Undecryptable) and error.job_id == envelope.id:
        return Parked(
            reason=ParkReason.UNDECRYPTABLE, detail=_carried(error.problem, MESSAGE_LIMIT)
        )
    failed = envelope.attempt - envelope.base
    if not policy.allows(failed):
        return Parked(reason=ParkReason.EXHAUSTED, detail=_spent(failed, info), error=info)
    delay_ms, priority = policy.gap_ms(failed, rng), None
    if isinstance(error, Retry):
        try:
            if error.delay is not None:
                delay_ms = round(parse_duration(error.delay) * 1000)
            priority = None if error.priority is None else parse_priority(error.priority)
        except ConfigurationError as wrong:
            info = describe(wrong)
    if envelope.expires_ms is not None and now_ms + delay_ms >= envelope.expires_ms:
        return Parked(
            reason=ParkReason.EXPIRED,
            detail="its next attempt would come after its expiry",
            error=info,
        )
    return Retried(delay_ms=delay_ms, priority=priority, error=info)


def describe(error: BaseException) -> ErrorInfo:
    """Return an exception as it travels, with its traceback (cut at the front) and fingerprint."""
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    name = _carried(name, _NAME_LIMIT)
    frames = traceback.extract_tb(error.__traceback__)
    site = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].name}" if frames else "-"
    text = "".join(traceback.format_exception(error))
    if len(text) > TRACEBACK_LIMIT:
        text = "… (cut)\n" + text[-TRACEBACK_LIMIT:]
    return ErrorInfo(
        type=name,
        message=text_of(error),
        traceback=_carried(text, len(text)),
        fingerprint=_carried(f"{name} at {site}", 2 * _NAME_LIMIT),
    )


def text_of(error: BaseException) -> str:
    """Return an exception's text as it can travel: of bounded length, and always encodable."""
    try:
        text = str(error)
    except BaseException as broken:  # noqa: BLE001  # a foreign __str__ must decide nothing here
        return f"<its text cannot be had: {type(broken).__name__}>"
    return _carried(text, MESSAGE_LIMIT)


def carried(text: str) -> str:
    """Return a handler's text as it can travel: of bounded length, and always encodable."""
    return _carried(text, MESSAGE_LIMIT)


def _carried(text: str, limit: int) -> str:
    """Cut a text, and mark what UTF-8 or a terminal cannot take."""
    text = text[:limit].translate(_CONTROLS)
    try:
        text.encode()
    except UnicodeEncodeError:  # such as the name of a file that is no UTF-8
        return text.encode("utf-8", "replace").decode()
    return text


def _spent(failed: int, info: ErrorInfo) -> str:
    attempts = "1 attempt" if failed == 1 else f"{failed} attempts"
    return f"{attempts} failed, the last with {info.type}: {info.message[:200]}"
