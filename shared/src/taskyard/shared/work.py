"""Tasks written as classes: typed fields, and one method that does the work.

    class Resize(Work[str], queue=media, ttr="5m"):
        path: str
        width: int = 100

        async def run(self, ctx: Context) -> str: ...

    producer.send(Resize(path="a.png").job())

A subclass is a dataclass without being decorated. Its fields travel as named JSON arguments, never
as a pickle; the worker makes an instance of them and calls `run`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, get_type_hints

from typing_extensions import dataclass_transform

from taskyard.shared.context import Context
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.signature import Signature
from taskyard.shared.task import Task

if TYPE_CHECKING:
    from taskyard.shared.duration import Duration
    from taskyard.shared.job import Job
    from taskyard.shared.retry import RetryPolicy
    from taskyard.shared.task import Queue

R_co = TypeVar("R_co", covariant=True)


@dataclass_transform(kw_only_default=True)
class Work(Generic[R_co]):
    """Base of tasks written as classes; `Work[str]` returns text. See the module's docstring."""

    __task__: ClassVar[Task[..., Any] | None] = None

    def __init_subclass__(
        cls,
        *,
        queue: Queue[Any] | None = None,
        name: str | None = None,
        ttr: Duration | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Make a dataclass of it, and declare it as a task.

        Args:
            queue: takes the task; None declares none, for a base of others.
            name: of the task (default: the class's).
            ttr: time to run (seconds or text).
            retry: its policy.

        Raises:
            ConfigurationError: the name is taken or not valid, or a field hides `job` or `run`.

        """
        super().__init_subclass__()
        dataclasses.dataclass(kw_only=True)(cls)
        hidden = {"job", "run"} & {field.name for field in dataclasses.fields(_as_data(cls))}
        if hidden:
            msg = f"{cls.__qualname__}: a field must not be named {', '.join(sorted(hidden))}"
            raise ConfigurationError(msg)
        cls.__task__ = None
        if queue is not None:
            short = name or cls.__name__
            cls.__task__ = queue.put(WorkTask(cls, queue=queue, name=short, ttr=ttr, retry=retry))

    def run(self, ctx: Context[Any], /) -> R_co | Coroutine[Any, Any, R_co]:
        """Do the work; `async def` runs on the event loop, `def` in a thread."""
        raise NotImplementedError(f"{type(self).__qualname__} has no method run")

    def job(self) -> Job[R_co]:
        """Return a job of the fields as they are now; what changes later is not seen by it.

        Raises:
            InvalidArguments: a field's value does not fit its type.
            ConfigurationError: the class was declared without a queue.

        """
        task = self.__task__
        if task is None:
            msg = f"{type(self).__qualname__} has no queue: class {type(self).__name__}(…, queue=…)"
            raise ConfigurationError(msg)
        fields = [f.name for f in dataclasses.fields(_as_data(self)) if f.init]
        return cast("Job[R_co]", task.job(**{name: getattr(self, name) for name in fields}))


class WorkTask(Task[..., Any]):
    """The task that a `Work` class stands for."""

    def __init__(
        self, work: type[Work[Any]], *, queue: Queue[Any], name: str, **options: Any
    ) -> None:
        """Declare `work` as a task; see `Work.__init_subclass__`."""
        self._work = work
        super().__init__(_handler_of(work), queue=queue, name=name, **options)
        self.__doc__ = work.__doc__

    @cached_property
    def signature(self) -> Signature:
        """The fields, with their types; read at first use, when all their types are defined."""
        work = self._work
        try:
            fields = get_type_hints(work, include_extras=True)
            returns = get_type_hints(work.run, include_extras=True).get("return", Any)
        except (NameError, AttributeError, TypeError) as error:
            msg = (
                f"task {self.name}: an annotation of its class cannot be resolved ({error}); "
                "import its type at run time, not under TYPE_CHECKING"
            )
            raise ConfigurationError(msg) from error
        self.function.__annotations__ = {**fields, "ctx": Context, "return": returns}
        return Signature(self.name, self.function)


def _handler_of(work: type[Work[Any]]) -> Callable[..., Any]:
    """Return a function that makes an instance and runs it, with the fields as its parameters."""

    async def on_loop(ctx: Context[Any], /, **fields: object) -> object:
        return await work(**fields).run(ctx)

    def in_thread(ctx: Context[Any], /, **fields: object) -> object:
        return work(**fields).run(ctx)

    handler: Callable[..., Any] = on_loop if inspect.iscoroutinefunction(work.run) else in_thread
    first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    fields = inspect.signature(work).parameters.values()
    handler.__signature__ = inspect.Signature([first, *fields])  # type: ignore[attr-defined]
    handler.__name__ = work.__name__
    return handler


def _as_data(work: Any) -> Any:
    """Return what a type checker does not know to be a dataclass."""
    return work
