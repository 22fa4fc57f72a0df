"""The child's end of the channel to its worker: read by a thread, written by anyone.

A thread reads, so that the worker is heard, and its death noticed, while a handler keeps the event
loop busy. Without its worker a child ends at once: nobody would settle what it does.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from taskyard.workers.isolation.messages import (
    BrokenFrame,
    End,
    Frames,
    Logged,
    Order,
    Setup,
    ToChild,
    ToWorker,
    decode_to_child,
    encode,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from taskyard.workers.isolation.runtime import HostedRuntime

_READ_BYTES = 64 * 1024
#: Longest log line, in characters.
_LINE_LENGTH = 64 * 1024


class Channel:
    """See the module's docstring.

    Attributes:
        on_order: takes each job, and None at the end; called on the reading thread.
        runtime: of the job that runs; takes the worker's answers.

    """

    def __init__(self, sock: socket.socket) -> None:
        """Talk over `sock`, which blocks."""
        self._socket = sock
        self._forgotten = False
        self._frames = Frames()
        self._lock = threading.Lock()
        self.on_order: Callable[[Order | None], object] = _ignore
        self.runtime: HostedRuntime | None = None

    def receive_setup(self) -> Setup:
        """Wait for what to become; from then on a thread reads."""
        message = self._receive()
        threading.Thread(target=self._read, name="channel", daemon=True).start()
        if isinstance(message, Setup):
            return message
        return os._exit(1)

    def send(self, message: ToWorker) -> None:
        """Say something, from any thread; waits while the worker is busy.

        Raises:
            RuntimeError: this is a process that a handler forked; the job is not its own.

        """
        if self._forgotten:
            raise RuntimeError(
                "only the process that runs the job speaks for it, none that it forks"
            )
        frame = encode(message)
        try:
            with self._lock:
                self._socket.sendall(frame)
        except OSError:
            os._exit(1)

    def forget(self) -> None:
        """Have no part in the channel any more, in a process that a handler has forked."""
        self._forgotten = True
        self._socket.close()

    def log(self, line: str) -> None:
        """Have the worker log a line; a forked process prints it instead."""
        if self._forgotten:
            sys.stderr.write(line)
        else:
            self.send(Logged(line[:_LINE_LENGTH]))

    def _receive(self) -> ToChild:
        while True:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                os._exit(1)
            for body in self._frames.feed(data):
                return decode_to_child(body)

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                os._exit(1)
            try:
                for body in self._frames.feed(data):
                    self._take(decode_to_child(body))
            except BrokenFrame:
                os._exit(1)

    def _take(self, message: ToChild) -> None:
        if isinstance(message, Order):
            self.on_order(message)
        elif isinstance(message, End):
            self.on_order(None)
        elif self.runtime is not None:
            self.runtime.take(message)


class LogStream:
    """Sends log lines to the worker, which logs them as its own."""

    def __init__(self, channel: Channel) -> None:
        """Write to `channel`."""
        self._channel = channel

    def write(self, text: str, /) -> None:
        """Take a line with its end."""
        self._channel.log(text)

    def flush(self) -> None:
        """Do nothing: each line is sent at once."""

    def isatty(self) -> bool:
        """Nobody reads it here."""
        return False


def _ignore(order: Order | None) -> None:
    del order
