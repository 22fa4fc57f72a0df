"""One child process as the worker sees it: started, talked to, killed with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import msgspec

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.logs import get_logger
from taskyard.workers.captured import line_of
from taskyard.workers.isolation.messages import (
    BrokenFrame,
    Frames,
    Logged,
    Setup,
    ToChild,
    ToWorker,
    decode_to_worker,
    encode,
)
from taskyard.workers.isolation.output import Output, nowhere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from taskyard.shared.clock import Clock
    from taskyard.workers.captured import Captured

_log = get_logger(__name__)

#: Bytes taken from the channel in one turn of the event loop, which has other things to do.
_READ_BYTES: Final = 4 * 1024
#: Seconds that the channel of a dead child may stay open, held by something that it started, and
#: that a child whose channel is closed may live.
_LAST_WORDS_S: Final = 1.0

_json = msgspec.json.Decoder(dict[str, object])


class Child(asyncio.BufferedProtocol):
    """A child process. Belongs to the event loop.

    Its channel is a socket that no other process has, so that one child's death, at whatever
    moment, can leave nothing locked or half written for the others.

    Attributes:
        pid: of the process, which leads a group of its own.
        ended: its exit code, negative for a signal, once it is dead and its last words are read.
        on_message: takes what it says.
        unheard: it died with something unread that was said to it.

    """

    def __init__(self, setup: Setup, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        """Start the process; `open` connects to it. Call this on the main thread only (see `die_with`).

        Raises:
            OSError: the system does not start it.

        """
        self._loop = loop
        self._setup = setup
        self._frames = Frames()
        self._buffer = bytearray(_READ_BYTES)
        self._transport: asyncio.WriteTransport | None = None
        self._silent = loop.create_future()
        self._lock = threading.Lock()
        self._reaped = False
        self._clock = clock
        self._fields: Mapping[str, Any] = {}
        self._capture: Callable[[], Captured | None] = nowhere
        self.unheard = False
        self.on_message: Callable[[ToWorker], None] = _ignore
        self.ended: asyncio.Future[int] = loop.create_future()
        self._ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(theirs.fileno())
            except OSError:
                self._ours.close()
                raise
        self.pid = self._process.pid
        streams = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        self.output = Output({n: file for n, file in streams.items() if file}, loop, clock)
        # A thread that waits is the one way that works under every loop and kernel.
        self._reaper = threading.Thread(target=self._reap, name=f"child-{self.pid}", daemon=True)
        self._reaper.start()

    async def open(self) -> None:
        """Connect to it and tell it what to become."""
        self._ours.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=self._ours)
        self.send(self._setup)

    @property
    def alive(self) -> bool:
        """Whether it has neither died nor lost its channel."""
        return not self.ended.done() and not self._silent.done()

    def assign(
        self, fields: Mapping[str, Any], capture: Callable[[], Captured | None] = nowhere
    ) -> None:
        """Give its output and log lines the fields of the job that runs there from now on.

        Args:
            fields: of each line.
            capture: returns where they are to be kept as well.

        """
        self.output.assign(fields, capture)
        self._fields, self._capture = fields, capture

    def send(self, message: ToChild) -> None:
        """Say something; nobody hears it when it is dead."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))
        else:
            self.unheard = True

    def kill(self) -> None:
        """Kill it and its process group; see `ended`."""
        with self._lock:
            if not self._reaped:  # afterwards the number may be somebody else's
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    # as a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what writes."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Offer the same small buffer each time."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come."""
        try:
            for body in self._frames.feed(memoryview(self._buffer)[:nbytes]):
                self._take(decode_to_worker(body))
        except BrokenFrame as error:
            _log.error(
                "a child process is killed: it talks nonsense", pid=self.pid, problem=str(error)
            )
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it will say no more; without a channel it is of no use.

        The other end of a Unix socket that closes with something unread resets it (unix(7)); one
        that is closed already breaks the pipe.
        """
        self.unheard = self.unheard or isinstance(exc, (ConnectionResetError, BrokenPipeError))
        if not self._silent.done():
            self._silent.set_result(None)
        if not self.ended.done():
            self._loop.call_later(_LAST_WORDS_S, self.kill)

    def _take(self, message: ToWorker) -> None:
        if isinstance(message, Logged):
            self._log(message.line)
        else:
            self.on_message(message)

    def _log(self, line: str) -> None:
        """Log a line of the child as one of ours; it was filtered there."""
        try:
            fields = {**self._fields, **_json.decode(line)}
        except UNREADABLE:  # it was cut
            fields = {**self._fields, "event": "a log line too long to be read", "line": line}
        for name in ("timestamp", "self"):  # ours is the time; the other is no keyword
            fields.pop(name, None)
        name, level = str(fields.pop("logger", __name__)), str(fields.pop("level", "info"))
        event = str(fields.pop("event", ""))
        captured = self._capture()
        if captured is not None:
            own = {name: value for name, value in fields.items() if name not in self._fields}
            traces = [f"{own.pop(each)}\n" for each in ("exception", "stack") if each in own]
            line = line_of(self._clock.now_ms() / 1000, level, name, event, own)
            captured.write("".join((line, *traces)))
        log = get_logger(name)
        match level:
            case "debug":
                log.debug(event, **fields)
            case "info":
                log.info(event, **fields)
            case "warning":
                log.warning(event, **fields)
            case _:
                log.error(event, **fields)

    # its end

    def _reap(self) -> None:
        """Wait for its death, in a thread, and kill what it leaves behind before its number is free."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            code = self._process.wait()
            self._reaped = True
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._died, code)

    def _died(self, code: int) -> None:
        if self._silent.done() or self._transport is None:
            self._bury(code)
            return
        # What it said before it died is still to be read.
        late = self._loop.call_later(_LAST_WORDS_S, self.connection_lost, None)

        def silent(_: asyncio.Future[None]) -> None:
            late.cancel()
            self._bury(code)

        self._silent.add_done_callback(silent)

    def _bury(self, code: int) -> None:
        self.output.close()
        if self._transport is None:
            self._ours.close()
        else:
            self._transport.close()
        self._end(code)

    def _end(self, code: int) -> None:
        if not self.output.said:
            self._loop.call_soon(self._end, code)
        elif not self.ended.done():
            self.ended.set_result(code)


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    """Start the program of this package with one end of a channel, in a session of its own."""
    return subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-m", "taskyard.workers.isolation", str(descriptor), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=[descriptor],
        start_new_session=True,
    )


def _ignore(message: ToWorker) -> None:
    del message
