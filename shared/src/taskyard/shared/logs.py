"""Structured logs: JSON lines for machines, or coloured lines for people, to one place.

`get_logger` is for every module; it never decides where lines go. A worker does, by
`configure_logging`; inside somebody else's process it is that process' own logging.
Payloads are never logged. Every line written while a job runs carries its fields (`job_id`, `task`,
`queue`, `attempt`), those of library code too; they are looked up when there is a line to write.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.log_lines import Event, LineFormatter, as_json, as_text
from taskyard.shared.structlogs import adopt_structlog, loaded_structlog

if TYPE_CHECKING:
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

    __slots__ = ("_log", "_name")

    def __init__(self, name: str) -> None:
        """Log under the name of a module."""
        self._name = name
        self._log: _Say | None = None

    def debug(self, event: str, **fields: object) -> None:
        """Log something that only somebody who looks for a fault wants to read."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log something that an operator expects."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log something that an operator may have to look at."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log something that an operator has to look at."""
        self._say(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Log an error with the traceback of the exception being handled."""
        self._say(logging.ERROR, event, fields, failed=True)

    def _say(
        self, level: int, event: str, fields: dict[str, object], *, failed: bool = False
    ) -> None:
        if self._log is None:
            self._log = _where_to(self._name)
        self._log(level, event, fields, failed)


def get_logger(name: str) -> Logger:
    """Return the logger of a module.

    Its lines go to structlog where the program that uses us has configured it, and otherwise to
    the standard library's logging: as lines of `configure_logging`, or else as text.
    """
    return Logger(name)


def configure_logging(settings: Settings, *, show_pid: bool = False) -> None:
    """Send our, the standard library's and structlog's lines to one stream in one format.

    Args:
        settings: say where lines go, which, and how they look.
        show_pid: each line carries the process id, for processes that share a stream.

    Raises:
        ConfigurationError: the log file cannot be written; the text names its folder.

    """
    stream = _open(settings)
    render = as_json
    if settings.log_format == "console":
        render = partial(as_text, colours=stream.isatty())
    _configure(stream, settings.log_level, LineFormatter(render, show_pid=show_pid))


def log_json(stream: Stream, level: str) -> None:
    """Send our, the standard library's and structlog's lines to a stream as JSON.

    Args:
        stream: where lines go, each in one call.
        level: the least level.

    """
    _configure(stream, level, LineFormatter(as_json))


def _configure(stream: Stream, level: str, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The AMQP clients report each reconnect as an error of their own; ours says what happens next.
    for noisy in ("pika", "aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    adopt_structlog()


class _Say(Protocol):
    def __call__(self, level: int, event: str, fields: dict[str, object], failed: bool, /) -> None:
        """Log an event; `failed`: with the exception being handled."""


def _where_to(name: str) -> _Say:
    structlog = loaded_structlog()
    if structlog is not None and structlog.is_configured():
        return _by_structlog(structlog.get_logger(name))
    return _by_logging(logging.getLogger(name))


def _by_logging(logger: logging.Logger) -> _Say:
    def say(level: int, event: str, fields: dict[str, object], failed: bool, /) -> None:
        if logger.isEnabledFor(level):
            logger.log(level, Event(event, fields), exc_info=failed, stacklevel=4)

    return say


def _by_structlog(logger: Any) -> _Say:
    def say(level: int, event: str, fields: dict[str, object], failed: bool, /) -> None:
        if failed:
            fields["exc_info"] = True
        getattr(logger, logging.getLevelName(level).lower())(event, **fields)

    return say


def _open(settings: Settings) -> Stream:
    if settings.log_file is None:
        return sys.stderr
    try:
        return settings.log_file.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        msg = f"TASKYARD_LOG_FILE: folder {settings.log_file.parent} cannot be written: {error.strerror}"
        raise ConfigurationError(msg) from error
