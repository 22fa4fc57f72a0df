"""What a child process writes to its standard streams, as log lines of the job that ran there.

To log a line takes a tenth of a millisecond and more, so the event loop never logs many in one turn.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Final

from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    import asyncio

    from taskyard.shared.clock import Clock
    from taskyard.workers.captured import Captured

_log = get_logger(__name__)

#: Longest line, in bytes; a longer one is cut into several.
LINE_BYTES: Final = 8192
#: Lines that a job may write at once, and how many more with each second.
BURST_LINES: Final = 1000
LINES_A_SECOND: Final = 100
#: Bytes read, and lines logged, in one turn of the event loop.
_READ_BYTES: Final = 8 * 1024
_TURN_LINES: Final = 10
#: Reads that empty a pipe: Linux gives it 64 KiB. What comes later was written by something else.
_DRAIN_READS: Final = 9


class Lines:
    """Cuts bytes, in pieces of any size, into lines of bounded length."""

    def __init__(self, limit_bytes: int = LINE_BYTES) -> None:
        """Begin at the beginning of a line."""
        self._limit_bytes = limit_bytes
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Take the next piece and return the lines that it completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            if len(line) <= self._limit_bytes:
                yield _text(line)
            else:
                yield from self._cut(line)
        while len(self._rest) > self._limit_bytes:
            yield _text(self._rest[: self._limit_bytes])
            self._rest = self._rest[self._limit_bytes :]

    def flush(self) -> Iterator[str]:
        """Return the line that has begun, if one has."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._cut(rest)

    def _cut(self, line: bytes) -> Iterator[str]:
        for start in range(0, len(line), self._limit_bytes):
            yield _text(line[start : start + self._limit_bytes])


class Allowance:
    """How many lines may be logged: a burst, and so many more with each second."""

    def __init__(self, clock: Clock, burst: int = BURST_LINES, rate: int = LINES_A_SECOND) -> None:
        """Begin with a whole burst."""
        self._clock = clock
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._seen_s = clock.monotonic_s()

    def take(self, wanted: int) -> int:
        """Take up to `wanted` lines, and return how many there were to take."""
        now_s = self._clock.monotonic_s()
        self._left = min(self._left + (now_s - self._seen_s) * self._rate, self._burst)
        self._seen_s = now_s
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken


def nowhere() -> None:
    """Keep nothing."""


class Output:
    """Reads a child's streams and logs them with the fields of the job that runs there."""

    def __init__(
        self, streams: Mapping[str, IO[bytes]], loop: asyncio.AbstractEventLoop, clock: Clock
    ) -> None:
        """Read `streams`, by name, on `loop`, until they end or `close`."""
        self._loop = loop
        self._clock = clock
        self._fields: Mapping[str, Any] = {}
        self._allowance = Allowance(clock)
        self._left_out = 0
        self._capture: Callable[[], Captured | None] = nowhere
        #: Stream, line, and the fields of the job that wrote it.
        self._unsaid: deque[tuple[str, str, Mapping[str, Any]]] = deque()
        self._open = {file.fileno(): (name, file, Lines()) for name, file in streams.items()}
        for fd in self._open:
            os.set_blocking(fd, False)
            loop.add_reader(fd, self._read, fd)

    @property
    def said(self) -> bool:
        """Whether all that was read is logged."""
        return not self._unsaid

    def assign(
        self, fields: Mapping[str, Any], capture: Callable[[], Captured | None] = nowhere
    ) -> None:
        """Give what was written so far to the job before, and what comes to that of `fields`.

        `capture` returns where that is to be kept as well.
        """
        for fd in list(self._open):
            for _ in range(_DRAIN_READS):
                if not self._read(fd):
                    break
        for name, _, lines in self._open.values():
            self._take(name, lines.flush())
        if self._left_out:
            _log.warning(
                "job output left out: there was too much",
                lines=self._left_out,
                **self._fields,
            )
        self._fields, self._left_out, self._capture = fields, 0, capture
        self._allowance = Allowance(self._clock)

    def close(self) -> None:
        """Read what is there, and no more."""
        self.assign({})
        for fd in list(self._open):
            self._close(fd)

    def _read(self, fd: int) -> bool:
        """Read once; tell whether there may be more."""
        name, _, lines = self._open[fd]
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._take(name, lines.feed(data))
            return True
        self._take(name, lines.flush())
        self._close(fd)
        return False

    def _take(self, stream: str, lines: Iterator[str]) -> None:
        found = list(lines)
        captured = self._capture() if found else None
        if captured is not None:
            captured.write("".join(f"{line}\n" for line in found))
        taken = self._allowance.take(len(found))
        self._left_out += len(found) - taken
        idle = not self._unsaid
        self._unsaid.extend((stream, line, self._fields) for line in found[:taken])
        if idle and self._unsaid:
            self._loop.call_soon(self._say)

    def _say(self) -> None:
        for _ in range(min(_TURN_LINES, len(self._unsaid))):
            stream, line, fields = self._unsaid.popleft()
            event = "job output" if "job_id" in fields else "child process output"
            _log.info(event, stream=stream, line=line, **fields)
        if self._unsaid:
            self._loop.call_soon(self._say)

    def _close(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        _, file, _ = self._open.pop(fd)
        file.close()


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
