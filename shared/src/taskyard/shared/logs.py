"""Structured logs: JSON lines for machines, or coloured lines for people, to one place.

`get_logger` is for every module; it never decides where lines go. A worker does, by
`configure_logging`; inside somebody else's process it is that process' own logging.
Payloads are never logged. Every line written while a job runs carries its fields (`job_id`, `task`,
`queue`, `attempt`), those of library code too; they are looked up when there is a line to write.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Protocol, cast

import structlog

from taskyard.shared.context import current_job
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

    from taskyard.shared.settings import Settings


class Stream(Protocol):
    """Where lines go; a text file is one."""

    def write(self, text: str, /) -> object:
        """Take a line with its end."""
        ...

    def isatty(self) -> bool:
        """Tell whether a person reads it."""
        ...


class Logger:
    """Logs events with fields. Cheap to make; decides at its first line where lines go."""

    __slots__ = ("_name", "_target")

    def __init__(self, name: str) -> None:
        """Log under the name of a module."""
        self._name = name
        self._target: structlog.stdlib.BoundLogger | None = None

    def debug(self, event: str, **fields: object) -> None:
        """Log something that only somebody who looks for a fault wants to read."""
        self._bound().debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """Log something that an operator expects."""
        self._bound().info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log something that an operator may have to look at."""
        self._bound().warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Log something that an operator has to look at."""
        self._bound().error(event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception being handled."""
        self._bound().exception(event, **fields)

    def _bound(self) -> structlog.stdlib.BoundLogger:
        if self._target is None:
            self._target = _bind(self._name)
        return self._target


def get_logger(name: str) -> Logger:
    """Return the logger of a module.

    structlog, unless it was configured, prints to standard output, which belongs to the program
    that uses us: there our lines go to the standard library's logging, as text.
    """
    return Logger(name)


def _bind(name: str) -> structlog.stdlib.BoundLogger:
    if structlog.is_configured():
        return cast("structlog.stdlib.BoundLogger", structlog.get_logger(name))
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(name),
            wrapper_class=structlog.stdlib.BoundLogger,
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
        ),
    )


def configure_logging(settings: Settings, *, show_pid: bool = False) -> None:
    """Send structlog's and the standard library's records to one stream in one format.

    Args:
        settings: say where lines go, which, and how they look.
        show_pid: each line carries the process id, for processes that share a stream.

    Raises:
        ConfigurationError: the log file cannot be written; the text names its folder.

    """
    stream = _open(settings)
    _configure(stream, settings.log_level, _renderer(settings, stream), show_pid=show_pid)


def log_json(stream: Stream, level: str) -> None:
    """Send structlog's and the standard library's records to a stream as JSON lines.

    Args:
        stream: where lines go, each in one call.
        level: the least level.

    """
    _configure(stream, level, _json())


def _configure(
    stream: Stream, level: str, renderer: list[Processor], *, show_pid: bool = False
) -> None:
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_job,
        *((add_pid,) if show_pid else ()),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The AMQP clients report each reconnect as an error of their own; ours says what happens next.
    for noisy in ("pika", "aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def add_job(logger: object, method: str, event: EventDict) -> EventDict:
    """Add the fields of the job that runs here, if one does; a processor of structlog."""
    del logger, method
    job = current_job()
    if job is not None:
        event.setdefault("job_id", job.job_id)
        event.setdefault("task", job.task)
        event.setdefault("queue", job.queue)
        event.setdefault("attempt", job.attempt)
    return event


def add_pid(logger: object, method: str, event: EventDict) -> EventDict:
    """Add the process id; a processor of structlog."""
    del logger, method
    event["pid"] = os.getpid()
    return event


def _renderer(settings: Settings, stream: Stream) -> list[Processor]:
    if settings.log_format == "console":
        return [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                # Rich, where it is installed, would print the frames' variables: arguments.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    return _json()


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _open(settings: Settings) -> Stream:
    if settings.log_file is None:
        return sys.stderr
    try:
        return settings.log_file.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        msg = f"TASKYARD_LOG_FILE: folder {settings.log_file.parent} cannot be written: {error.strerror}"
        raise ConfigurationError(msg) from error
