"""What both producers accept: a job, or a task with its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec

from taskyard.shared.context import current_job
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError, PayloadTooLarge
from taskyard.shared.job import Job
from taskyard.shared.sealing import seal
from taskyard.shared.settings import Settings
from taskyard.shared.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.duration import Duration
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.keyring import KeyRing


def settings_of(
    broker_url: str | None, settings: Settings | None, spool: str | None = None
) -> Settings:
    """Return the settings of a producer: those given, or the environment's; `spool` overrides.

    Raises:
        ConfigurationError: both are given, or a variable is not valid.

    """
    if settings is None:
        settings = Settings() if broker_url is None else Settings(broker_url=broker_url)
    elif broker_url is not None:
        msg = "give a broker URL or settings, not both"
        raise ConfigurationError(msg)
    return settings if spool is None else settings.but(spool_url=spool)


def job_of(
    what: object, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[Job[Any], Any]:
    """Return the job that a call of `send` means, and its own deadline (None: the default).

    Raises:
        ConfigurationError: it is neither a job nor a task, or a job with arguments beside it.
        InvalidArguments: the arguments do not fit the task.

    """
    if _is_task(what):
        return what.job(*args, **kwargs), None
    if not _is_job(what):
        msg = (
            f"send() takes a job or a task, not {type(what).__name__}: declare the function with "
            "@queue.task, or send Job(queue=…, task=…, args=…)"
        )
        raise ConfigurationError(msg)
    if args or kwargs.keys() - {"deadline"}:
        msg = f"job {what.id} carries its arguments already; send it alone, with at most deadline="
        raise ConfigurationError(msg)
    return what, kwargs.get("deadline")


def envelope_of(
    job: Job[Any],
    now_ms: int,
    *,
    settings: Settings,
    app: str | None,
    parent: str | None,
    address: str | None,
    keys: KeyRing,
    origin: str | None = None,
) -> Envelope:
    """Return a job as it travels when it is sent here and now, by the job that runs here.

    Args:
        job: to be sent.
        now_ms: the broker's instant, in milliseconds since the epoch.
        settings: with the payload limit.
        app: the sending application.
        parent: id of the job it comes from; None takes the job that runs here, if one does.
        address: for its outcome, if it asks for one.
        keys: for arguments that travel encrypted.
        origin: `host:pid` of this process.

    Raises:
        PayloadTooLarge: its arguments exceed the limit.
        ConfigurationError: they are to be encrypted, and there is no key.

    """
    context = current_job()
    reply = address if job.resolved.reply else None
    if context is None:
        envelope = job.envelope(now_ms, app=app, parent=parent, reply=reply, submitted_from=origin)
    else:
        envelope = job.envelope(
            now_ms,
            app=app,
            parent=parent or context.job_id,
            reply=reply,
            submitted_from=origin,
        )
        trace = context.envelope.traceparent
        if trace is not None:
            envelope = msgspec.structs.replace(envelope, traceparent=trace)
    if job.resolved.encrypt or job.secrets is not None:
        envelope = seal(envelope, job.secrets or {}, keys, whole=job.resolved.encrypt)
    if len(envelope.body) > settings.payload_limit:
        raise PayloadTooLarge(job.task, len(envelope.body), settings.payload_limit)
    return envelope


def deadline_of(deadline: Duration | None, settings: Settings) -> float:
    """Return a publish deadline in seconds: the call's own, or the setting.

    Raises:
        ConfigurationError: it is not a duration above zero.

    """
    if deadline is None:
        return settings.publish_deadline
    seconds = parse_duration(deadline)
    if seconds <= 0:
        msg = f"deadline {deadline!r} is not valid: it must be above zero"
        raise ConfigurationError(msg)
    return seconds


def _is_task(what: object) -> TypeGuard[Task[..., Any]]:
    return isinstance(what, Task)


def _is_job(what: object) -> TypeGuard[Job[Any]]:
    return isinstance(what, Job)
