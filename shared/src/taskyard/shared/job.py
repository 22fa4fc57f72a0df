"""A job as a value: made, typed and given its id before it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar
from weakref import WeakSet

from typing_extensions import Unpack

from taskyard.shared.clock import from_datetime
from taskyard.shared.duration import Duration, parse_duration
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.errors import ConfigurationError, InvalidArguments
from taskyard.shared.naming import check_job_name, check_queue_name, check_task_name, full_task_name
from taskyard.shared.priority import Priority, parse_priority
from taskyard.shared.propagation import current_values, encode_values
from taskyard.shared.retry import RetryPolicy, encode_policy
from taskyard.shared.secret import Secret
from taskyard.shared.secret_arguments import set_apart
from taskyard.shared.signature import ENCODER, encode_json

if TYPE_CHECKING:
    from taskyard.shared.task import Queue, Task

R_co = TypeVar("R_co", covariant=True)

#: A due time further off than this is taken for a mistake (a timestamp in the wrong unit).
_LONGEST_DELAY_S = 10 * 365 * 86_400.0


class Options(TypedDict, total=False):
    """What may be set per job; everything left out comes from the task, its queue or a default.

    Keys:
        priority: low, normal, high, urgent, or 0 to 9 (higher first).
        delay: time until it is due (seconds, text such as `4h`, or a timedelta).
        at: when it is due, an aware datetime; not together with `delay`.
        ttr: time to run of each attempt.
        expires: time after sending, or an aware datetime, after which it must not start.
        retry: its own retry policy.
        reply: send the outcome back, so that `result()` works.
        app: overrides the producer's application name.
        values: propagated values; None captures those current when it is sent.
        name: a label for people, 2 to 32 characters without `<`, `>` and control characters.
        encrypt: encrypt all arguments. True stays, and jobs of a queue that encrypts always are.
    """

    priority: Priority | None
    delay: Duration | None
    at: datetime | None
    ttr: Duration | None
    expires: Duration | datetime | None
    retry: RetryPolicy | None
    reply: bool
    app: str | None
    values: Mapping[str, object] | None
    name: str | None
    encrypt: bool


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Options after checking; durations in seconds, instants in milliseconds."""

    priority: int = 4
    delay_s: float | None = None
    at_ms: int | None = None
    ttr_s: float | None = None
    expires_s: float | None = None
    expires_at_ms: int | None = None
    retry: RetryPolicy | None = None
    reply: bool = False
    app: str | None = None
    values: Mapping[str, object] | None = None
    encrypt: bool = False
    name: str | None = None
    own_id: bool = False
    """The job's id was chosen, not minted."""


_DEFAULTS = ResolvedOptions()
_ENCRYPTED = ResolvedOptions(encrypt=True)

#: Declared in this process with `encrypt`; jobs made by name look here.
encrypting_queues: WeakSet[Queue[Any]] = WeakSet()


class Job(Generic[R_co]):
    """One run of a task: its queue, arguments and options, with an id minted here.

    Made by `task.job(…)`, or directly where the worker's code is not at hand. Its arguments are
    frozen when it is made. Sending the same value twice means the same job.
    """

    __slots__ = ("body", "declared", "id", "queue", "resolved", "secrets", "task")

    id: str
    queue: str
    task: str
    body: bytes
    resolved: ResolvedOptions
    declared: Task[..., Any] | None
    """The task it was made from, if it was: it types the result, and eager mode runs it."""
    secrets: Mapping[str, Secret[bytes]] | None
    """JSON of its secret arguments; in `body` each is null. They are sealed when it is sent."""

    def __init__(
        self,
        *,
        queue: str,
        task: str,
        args: Mapping[str, object] | None = None,
        id: str | None = None,  # the field's standard name
        **options: Unpack[Options],
    ) -> None:
        """Make a job of a task that is known by name only.

        Args:
            queue: the queue's name.
            task: the task's name, short or full.
            args: its named arguments, JSON values; one that is a `Secret` travels encrypted.
            id: a job id to use instead of a new one.
            **options: see `Options`.

        Raises:
            ConfigurationError: a name or an option is not valid.
            InvalidArguments: the arguments have no JSON form.

        """
        check_queue_name(queue)
        check_task_name(task)
        name = full_task_name(queue, task)
        values, secrets = set_apart(ENCODER, name, args or {})
        try:
            body = encode_json(values)
        except (TypeError, ValueError) as error:
            raise InvalidArguments(name, str(error)) from error
        resolved = resolve(options) if options else _DEFAULTS
        if encrypting_queues and any(each.name == queue for each in encrypting_queues):
            resolved = replace(resolved, encrypt=True)
        if id:
            resolved = replace(resolved, own_id=True)
        self._fill(id or mint_id(), queue, name, body, resolved, None, secrets)

    @classmethod
    def from_body(
        cls,
        task: Task[..., Any],
        body: bytes,
        secrets: Mapping[str, Secret[bytes]] | None = None,
    ) -> Self:
        """Make a job of a declared task from arguments that are already checked and encoded."""
        job = cls.__new__(cls)
        resolved = _ENCRYPTED if task.queue.encrypt else _DEFAULTS
        job._fill(mint_id(), task.queue.name, task.name, body, resolved, task, secrets)
        return job

    @classmethod
    def from_parts(  # noqa: PLR0917  # the slots, in order
        cls,
        job_id: str,
        queue: str,
        task: str,
        body: bytes,
        resolved: ResolvedOptions,
        declared: Task[..., Any] | None,
        secrets: Mapping[str, Secret[bytes]] | None,
    ) -> Self:
        """Make a job of another one's checked parts: it is the same job, in another process."""
        job = cls.__new__(cls)
        job._fill(job_id, queue, task, body, resolved, declared, secrets)
        return job

    def _fill(  # noqa: PLR0917  # the slots, in order; a private constructor on a fast path
        self,
        job_id: str,
        queue: str,
        task: str,
        body: bytes,
        resolved: ResolvedOptions,
        declared: Task[..., Any] | None,
        secrets: Mapping[str, Secret[bytes]] | None,
    ) -> None:
        put = object.__setattr__
        put(self, "id", job_id)
        put(self, "queue", queue)
        put(self, "task", task)
        put(self, "body", body)
        put(self, "resolved", resolved)
        put(self, "declared", declared)
        put(self, "secrets", secrets)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a job is a value."""
        msg = f"a Job does not change; use options({name}=…) for a changed copy"
        raise AttributeError(msg)

    def __repr__(self) -> str:
        """Show what it is, never its arguments."""
        return f"Job(id={self.id!r}, task={self.task!r})"

    def under(self, id: str) -> Self:  # the field's standard name
        """Return a copy under another id, which is another job."""
        copy = self.options()
        object.__setattr__(copy, "id", id)
        return copy

    def options(self, **options: Unpack[Options]) -> Self:
        """Return a copy with these options set (the id stays).

        Raises:
            ConfigurationError: an option is unknown or not valid.

        """
        copy = type(self).__new__(type(self))
        resolved = resolve(options, self.resolved)
        copy._fill(self.id, self.queue, self.task, self.body, resolved, self.declared, self.secrets)
        return copy

    def envelope(
        self,
        now_ms: int,
        *,
        app: str | None = None,
        parent: str | None = None,
        reply: str | None = None,
        submitted_from: str | None = None,
    ) -> Envelope:
        """Return the job as it travels when sent at `now_ms`, its secrets not sealed yet (null).

        Args:
            now_ms: the sender's instant, in milliseconds since the epoch.
            app: the sending application.
            parent: id of the job that sends it.
            reply: the address for the outcome, if one is wanted.
            submitted_from: `host:pid` of the sending process.

        """
        o = self.resolved
        due_ms = o.at_ms if o.delay_s is None else now_ms + round(o.delay_s * 1000)
        expires_ms = o.expires_at_ms if o.expires_s is None else now_ms + round(o.expires_s * 1000)
        values = current_values() if o.values is None else o.values
        return Envelope(
            id=self.id,
            queue=self.queue,
            task=self.task,
            body=self.body,
            priority=o.priority,
            enqueued_ms=now_ms,
            not_before_ms=due_ms if due_ms is not None and due_ms > now_ms else None,
            expires_ms=expires_ms,
            ttr_ms=None if o.ttr_s is None else round(o.ttr_s * 1000),
            app=o.app or app,
            context=encode_values(values) if values else None,
            parent=parent,
            retry=None if o.retry is None else encode_policy(o.retry),
            reply=(reply,) if reply is not None else (),
            name=o.name,
            submitted_from=submitted_from,
        )


def resolve(options: Options, base: ResolvedOptions = _DEFAULTS) -> ResolvedOptions:
    """Check options and lay them over `base`.

    Raises:
        ConfigurationError: one is unknown or not valid, or both `delay` and `at` are given.

    """
    values: dict[str, Any] = {f.name: getattr(base, f.name) for f in fields(base)}
    for name, value in options.items():
        setter = _SETTERS.get(name)
        if setter is None:
            msg = f"unknown option {name!r}; known are {', '.join(_SETTERS)}"
            raise ConfigurationError(msg)
        setter(values, value)
    if options.get("delay") is not None and options.get("at") is not None:
        msg = "give either delay or at, not both"
        raise ConfigurationError(msg)
    return ResolvedOptions(**values)


def _set_delay(values: dict[str, Any], value: Any) -> None:
    values["at_ms"] = None
    values["delay_s"] = None if value is None else _bounded(parse_duration(value), "delay")


def _set_at(values: dict[str, Any], value: Any) -> None:
    if value is not None:
        values["delay_s"] = None
        values["at_ms"] = _instant("at", value)
    elif values["delay_s"] is None:
        values["at_ms"] = None


def _set_expires(values: dict[str, Any], value: Any) -> None:
    values["expires_s"] = values["expires_at_ms"] = None
    if isinstance(value, datetime):
        values["expires_at_ms"] = _instant("expires", value)
    elif value is not None:
        values["expires_s"] = _bounded(parse_duration(value), "expires")


def _set_ttr(values: dict[str, Any], value: Any) -> None:
    values["ttr_s"] = None if value is None else positive_ttr(value)


def _set_priority(values: dict[str, Any], value: Any) -> None:
    values["priority"] = parse_priority(value)


def _set_name(values: dict[str, Any], value: Any) -> None:
    if value is not None and not isinstance(value, str):
        msg = f"name={value!r} is not text"
        raise ConfigurationError(msg)
    values["name"] = None if value is None else check_job_name(value)


def _set_encrypt(values: dict[str, Any], value: Any) -> None:
    values["encrypt"] = values["encrypt"] or bool(value)


def _plain(name: str) -> Any:
    def put(values: dict[str, Any], value: Any) -> None:
        values[name] = value

    return put


_SETTERS: dict[str, Any] = {
    "priority": _set_priority,
    "delay": _set_delay,
    "at": _set_at,
    "ttr": _set_ttr,
    "expires": _set_expires,
    "retry": _plain("retry"),
    "reply": _plain("reply"),
    "app": _plain("app"),
    "values": _plain("values"),
    "name": _set_name,
    "encrypt": _set_encrypt,
}


def positive_ttr(value: Duration) -> float:
    """Return a time to run in seconds (ConfigurationError unless above zero)."""
    seconds = parse_duration(value)
    if seconds <= 0:
        msg = f"ttr {value!r} is not valid: the time to run must be above zero"
        raise ConfigurationError(msg)
    return seconds


def _bounded(seconds: float, what: str) -> float:
    if seconds > _LONGEST_DELAY_S:
        msg = f"{what} of {timedelta(seconds=seconds)} is longer than ten years"
        raise ConfigurationError(msg)
    return seconds


def _instant(what: str, value: object) -> int:
    if not isinstance(value, datetime):
        msg = f"{what}={value!r} is not a datetime"
        raise ConfigurationError(msg)
    try:
        return from_datetime(value)
    except ValueError as error:
        msg = f"{what}: {error}"
        raise ConfigurationError(msg) from error
