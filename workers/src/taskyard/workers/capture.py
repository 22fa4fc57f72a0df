"""Captures what jobs print and log while they run, kept apart from what others do at that moment.

Whose a line is says the execution context that it is written in (`current_job`), which follows
coroutines and the worker's threads. What a job writes goes where it always went as well.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from taskyard.shared.context import current_job
from taskyard.shared.log_lines import Event
from taskyard.workers.attempt import Attempt
from taskyard.workers.captured import line_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from taskyard.workers.captured import Captured


@contextmanager
def capturing() -> Iterator[None]:
    """Have what jobs print and log captured.

    A process that was started without a stream has None for it, to which `print` writes nothing.
    """
    streams: tuple[TextIO | None, ...] = sys.stdout, sys.stderr
    handler = _Handler()
    root = logging.getLogger()
    with ExitStack() as opened:
        sys.stdout, sys.stderr = (
            cast("TextIO", _Stream(stream or opened.enter_context(_nowhere())))
            for stream in streams
        )
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            sys.stdout, sys.stderr = cast("tuple[TextIO, TextIO]", streams)


def captured_here() -> Captured | None:
    """Return where the output of the job that runs here goes; None where there is no such place."""
    job = current_job()
    runtime = None if job is None else job.runtime
    return runtime.capture() if isinstance(runtime, Attempt) else None


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8", errors="replace")


class _Stream:
    """Standard output or error, with a copy of what jobs write to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as the stream does."""
        written = self._stream.write(text)  # first, because it refuses what is no text
        captured = captured_here()
        if captured is not None:
            captured.write(text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines, as the stream does."""
        for line in lines:
            self.write(line)


class _Handler(logging.Handler):
    """Takes the lines that jobs log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Capture a line if a job wrote it."""
        captured = captured_here()
        if captured is None:
            return
        try:
            event = record.msg if isinstance(record.msg, Event) else Event(record.getMessage(), {})
            line = line_of(record.created, record.levelname, record.name, event.name, event.fields)
            if record.exc_info:
                formatter = self.formatter or logging.Formatter()
                line += formatter.formatException(record.exc_info) + "\n"
        except Exception:  # noqa: BLE001  # as every handler: a line that cannot be made is reported
            self.handleError(record)
        else:
            captured.write(line)
