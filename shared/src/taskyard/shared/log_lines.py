"""What a log line is, and how it looks: JSON for machines, aligned and coloured text for people.

Lines are records of the standard library's logging whose message is an `Event`; those of other
libraries, whose message is text, look the same.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.context import current_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: How far the text of an event reaches before its fields begin, so that these stand in columns.
_EVENT_WIDTH: Final = 30
_LEVEL_WIDTH: Final = 9

_RESET, _BRIGHT, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_CYAN, _MAGENTA = "\x1b[36m", "\x1b[35m"
_COLOURS: Final = {"debug": "\x1b[32m", "info": "\x1b[32m", "warning": "\x1b[33m"}
_RED: Final = "\x1b[31m"


class Event:
    """What happened, in a few constant words, and to what, in fields."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: Mapping[str, object]) -> None:
        """Say that something happened."""
        self.name = name
        self.fields = fields

    def __str__(self) -> str:
        """Return it as text: where nobody has configured our lines, they look so."""
        return " ".join(
            f"{key}={value!r}" for key, value in {"event": self.name, **self.fields}.items()
        )


class LineFormatter(logging.Formatter):
    """Makes lines of records."""

    def __init__(self, render: Callable[[dict[str, Any]], str], *, show_pid: bool = False) -> None:
        """Have `render` make text of an event with all its fields; `show_pid`: one is the process."""
        super().__init__()
        self._render = render
        self._show_pid = show_pid

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record. Fields of the job that runs here are looked up now."""
        event = record.msg if isinstance(record.msg, Event) else Event(record.getMessage(), {})
        line: dict[str, Any] = {**_bound(), **event.fields, "event": event.name}
        job = current_job()
        if job is not None:
            for name in ("job_id", "task", "queue", "attempt"):
                line.setdefault(name, getattr(job, name))
        if self._show_pid:
            line["pid"] = os.getpid()
        line["level"], line["logger"] = record.levelname.lower(), record.name
        written = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        line["timestamp"] = written.replace("+00:00", "Z")
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return self._render(line)


def _bound() -> Mapping[str, Any]:
    """Return what the application has bound in structlog's context, if it uses structlog."""
    # While it is being imported it has nothing yet.
    context = getattr(sys.modules.get("structlog"), "contextvars", None)
    return {} if context is None else context.get_contextvars()


def as_json(line: Mapping[str, Any]) -> str:
    """Return a line for machines. What has no JSON form is shown as Python shows it."""
    return json.dumps(line, default=repr)


def as_text(line: dict[str, Any], *, colours: bool) -> str:
    """Return a line for people."""
    paint = _painted if colours else _plain
    level, event, logger = line.pop("level"), str(line.pop("event")), line.pop("logger")
    words = [
        paint(_DIM, line.pop("timestamp")),
        f"[{paint(_COLOURS.get(level, _RED), level.ljust(_LEVEL_WIDTH))}]",
        paint(_BRIGHT, event.ljust(_EVENT_WIDTH)),
        f"[{paint(_BRIGHT, logger)}]",
    ]
    traces = [str(line.pop(name)) for name in ("stack", "exception") if name in line]
    words += [
        f"{paint(_CYAN, name)}={paint(_MAGENTA, _shown(line[name]))}" for name in sorted(line)
    ]
    return "\n".join([" ".join(words), *traces])


def _shown(value: object) -> str:
    """Return a value as it is if it is one plain word."""
    if isinstance(value, str) and value and not set(value) & set(" \t=\r\n\"'"):
        return value
    return repr(value)


def _painted(colour: str, text: str) -> str:
    return f"{colour}{text}{_RESET}"


def _plain(colour: str, text: str) -> str:
    del colour
    return text
