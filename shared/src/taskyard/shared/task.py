"""Queues and tasks as an application declares them."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    get_args,
    overload,
)
from weakref import WeakSet

from taskyard.shared.context import Context, S_co
from taskyard.shared.duration import Duration
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.job import Job, encrypting_queues, positive_ttr
from taskyard.shared.naming import check_queue_name, check_task_name, full_task_name
from taskyard.shared.recording import RecordedArguments, RecordedJobs
from taskyard.shared.retry import RetryPolicy
from taskyard.shared.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from taskyard.shared.middleware import Middleware

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

QueueType = Literal["auto", "classic", "quorum"]
Mode = Literal["async", "thread", "process"]
KeptOutput = Literal["all", "failed", "none"]

DEFAULT_OUTPUT: KeptOutput = "failed"

#: Seconds that an attempt may run unless its job, task or queue says otherwise.
DEFAULT_TTR_S = 60.0
#: Deliveries of one attempt before the job is parked as poison.
DEFAULT_MAX_DELIVERIES = 5

_declared: WeakSet[Queue[Any]] = WeakSet()


def declared_queues() -> list[str]:
    """Return the names of the queues declared in this process, for error messages."""
    return sorted({queue.name for queue in _declared})


def find_declared(queue: str, task: str) -> Task[..., Any]:
    """Return a task declared in this process by its queue's name and its own, short or full.

    Raises:
        NotFound: there is none; the text lists those there are.

    """
    queues = [declared for declared in _declared if declared.name == queue]
    if not queues:
        known = ", ".join(declared_queues()) or "none"
        msg = f"no queue {queue!r} is declared in this process (declared: {known})"
        raise NotFound(msg)
    name = full_task_name(queue, task)
    for declared in queues:
        if name in declared.tasks:
            return declared.tasks[name]
    return queues[0].find(task)


class Task(Generic[P, R_co]):
    """A declared unit of work. Calling it calls the handler itself, as plain Python."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        queue: Queue[Any],
        name: str,
        ttr: Duration | None = None,
        retry: RetryPolicy | None = None,
        mode: Mode | None = None,
    ) -> None:
        """Declare `function` as the handler of task `name` of `queue`; see `Queue.task`."""
        self.function = function
        self.queue = queue
        self.short_name = check_task_name(name)
        self.name = full_task_name(queue.name, name)
        self.ttr_s = None if ttr is None else positive_ttr(ttr)
        self.retry = retry
        asynchronous = inspect.iscoroutinefunction(function)
        fitting: Mode = "async" if asynchronous else "thread"
        if mode not in (None, fitting, "process"):
            msg = f"task {self.name}: mode {mode!r} does not fit its handler"
            raise ConfigurationError(msg)
        self.asynchronous = asynchronous
        self.mode: Mode = mode or fitting
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__wrapped__ = function

    @cached_property
    def signature(self) -> Signature:
        """The handler's parameters; read at first use, when all its types are defined."""
        return Signature(self.name, self.function, discreet=self.queue.encrypt)

    def job(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]:
        """Return a job of this task with these arguments (without the context).

        Raises:
            InvalidArguments: they do not fit the handler's signature.

        """
        signature = self.signature
        arguments = signature.bind(args, kwargs)
        if signature.secrets:
            return cast("Job[R_co]", Job.from_body(self, *signature.encode_apart(arguments)))
        body = signature.encode(arguments)
        # `Job[R_co].from_body` would cost microseconds at run time.
        return cast("Job[R_co]", Job.from_body(self, body))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler directly, as the plain function it is."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the full name."""
        return f"Task({self.name!r})"


class TaskDecorator(Generic[S_co]):
    """What `queue.task(…)` with options returns; applied to a handler, it gives the task."""

    def __init__(self, queue: Queue[S_co], options: Mapping[str, Any]) -> None:
        """Keep the options until the handler comes."""
        self._queue = queue
        self._options = options

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[S_co], P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context[S_co], P], R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Task[..., Any]:
        """Declare the handler."""
        return self._queue.add(function, **self._options)


class Queue(Generic[S_co]):
    """A named lane of jobs with its own workers, policy and parking lot."""

    def __init__(
        self,
        name: str,
        *,
        retry: RetryPolicy | None = None,
        ttr: Duration = DEFAULT_TTR_S,
        concurrency: int | None = None,
        lookahead: int = 0,
        max_deliveries: int = DEFAULT_MAX_DELIVERIES,
        lifespan: Callable[[], AbstractAsyncContextManager[S_co]] | None = None,
        middleware: Sequence[Middleware] = (),
        type: QueueType = "auto",  # the broker's own word for it
        label: str = "",
        encrypt: bool = False,
        output: KeptOutput | None = None,
        record: RecordedJobs | None = None,
        record_arguments: RecordedArguments | None = None,
    ) -> None:
        """Declare a queue.

        Args:
            name: `[a-z0-9][a-z0-9_-]*`, at most 64 characters.
            retry: the policy of its tasks; None takes the default policy.
            ttr: time to run of each attempt (seconds or text), unless a task or job says otherwise.
            concurrency: slots in each worker process; None takes the worker's setting.
            lookahead: jobs fetched beyond the free slots: throughput for very short jobs, paid
                for with priority, which cannot overtake what is fetched.
            max_deliveries: deliveries of one attempt before the job is parked as poison.
            lifespan: makes the resources its handlers share (`ctx.resources`), entered once per
                worker process and child process, never in a producer.
            middleware: run around each handler of this queue, the first outermost.
            type: of the RabbitMQ queue; `auto` resolves once, when it is created.
            label: one line for people.
            encrypt: the arguments of its jobs travel encrypted (`TASKYARD_ENCRYPTION_KEYS`).
            output: whose output the ledger keeps (what it prints and logs): that of `all`
                attempts, of the `failed` ones, of `none`; None takes the worker's setting.
            record: which jobs the ledger knows: `all`, those of which an attempt did not succeed
                (`failures`), `none`; None takes the setting of `taskyard broker apply`, which
                makes it known.
            record_arguments: what it keeps of their arguments: `full`, `redacted` (the names), or
                `none`; None takes that setting too.

        Raises:
            ConfigurationError: a value is not valid.

        """
        self.name = check_queue_name(name)
        self.retry = retry
        self.ttr_s = positive_ttr(ttr)
        self.concurrency = concurrency
        self.lookahead = lookahead
        self.max_deliveries = max_deliveries
        self.lifespan = lifespan
        self.middleware = tuple(middleware)
        self.type: QueueType = type
        self.label = label
        self.encrypt = encrypt
        self.output: KeptOutput | None = output
        self.record: RecordedJobs | None = record
        self.record_arguments: RecordedArguments | None = record_arguments
        self.tasks: dict[str, Task[..., Any]] = {}
        if type not in ("auto", "classic", "quorum"):
            msg = f"queue {name}: type {type!r} is not auto, classic or quorum"
            raise ConfigurationError(msg)
        for what, given, known in (
            ("output", output, get_args(KeptOutput)),
            ("record", record, get_args(RecordedJobs)),
            ("record_arguments", record_arguments, get_args(RecordedArguments)),
        ):
            if given is not None and given not in known:
                wanted = f"{', '.join(known[:-1])} or {known[-1]}"
                raise ConfigurationError(f"queue {name}: {what} {given!r} is not {wanted}")
        if (concurrency is not None and concurrency < 1) or lookahead < 0 or max_deliveries < 1:
            msg = (
                f"queue {name}: concurrency {concurrency} and max_deliveries {max_deliveries} "
                f"must be at least 1, lookahead {lookahead} at least 0"
            )
            raise ConfigurationError(msg)
        _declared.add(self)
        if encrypt:
            encrypting_queues.add(self)

    @overload
    def task(
        self, function: Callable[Concatenate[Context[S_co], P], Coroutine[Any, Any, R]], /
    ) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context[S_co], P], R], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        ttr: Duration | None = None,
        retry: RetryPolicy | None = None,
        mode: Mode | None = None,
    ) -> TaskDecorator[S_co]: ...
    def task(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Declare a handler as a task of this queue; with or without options.

        Args:
            function: `async def` runs on the event loop, `def` in a thread. Its first parameter
                may be annotated `Context`; the others are the job's arguments.
            **options: `name` (default: the function's), `ttr` (seconds or text), `retry`, and
                `mode`: `process` runs either kind in a child process, which is killed at the end
                of its time to run; `async` and `thread` only state what the function is.

        Raises:
            ConfigurationError: the name is taken or not valid.

        """
        if function is None:
            return TaskDecorator(self, options)
        return self.add(function, **options)

    def add(
        self, function: Callable[..., Any], *, name: str | None = None, **options: Any
    ) -> Task[..., Any]:
        """Declare a handler without decorator syntax; arguments as for `task`."""
        short = name or function.__name__
        return self.put(Task(function, queue=self, name=short, **options))

    def put(self, task: Task[P, R]) -> Task[P, R]:
        """Take in a task made of this queue (ConfigurationError when its name is taken)."""
        if task.name in self.tasks:
            msg = f"queue {self.name} has two tasks named {task.short_name!r}"
            raise ConfigurationError(msg)
        self.tasks[task.name] = task
        return task

    def find(self, task: str) -> Task[..., Any]:
        """Return a task by its short or full name.

        Raises:
            NotFound: there is none; the text lists those there are.

        """
        found = self.tasks.get(task) or self.tasks.get(f"{self.name}.{task}")
        if found is None:
            known = ", ".join(sorted(t.short_name for t in self.tasks.values())) or "none"
            msg = f"queue {self.name} has no task {task!r} (known: {known})"
            raise NotFound(msg)
        return found

    def __repr__(self) -> str:
        """Show the name."""
        return f"Queue({self.name!r})"
