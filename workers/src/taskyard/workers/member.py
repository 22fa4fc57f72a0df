"""One place in a group of worker processes: the process that has it, and what it said last."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.logs import get_logger
from taskyard.workers.group import REPLACE_S, MemberSigns, why_member_dead
from taskyard.workers.link import Order, Report, words_for
from taskyard.workers.succession import End

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.clock import Clock

_log = get_logger(__name__)

#: Bytes that one report may have: a worker with a thousand tasks stays far below.
_REPORT_LIMIT: Final = 32 * 1024 * 1024
#: Seconds for the last words of a process that has ended.
_LAST_WORDS_S: Final = 2.0

_decode: Final = msgspec.json.Decoder(Report).decode
_encode: Final = msgspec.json.Encoder().encode


class Member:
    """See the module's docstring. Belongs to the supervisor's loop; `signs` may be asked anywhere.

    Attributes:
        number: its place in the group, from 1.
        report: what it said last; None before its first word.
        resting: no process is started here any more.

    """

    def __init__(
        self, number: int, command: Sequence[str], *, patience_s: float, clock: Clock
    ) -> None:
        """Have no process yet.

        Args:
            number: its place in the group, from 1.
            command: arguments of `taskyard`.
            patience_s: how long a process that was told to end may take, in seconds.
            clock: measures durations.

        """
        self.number = number
        self.report: Report | None = None
        self.resting = False
        self._command = command
        self._patience_s = patience_s
        self._clock = clock
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._heard_s: float | None = None
        self._dead_since_s: float | None = None
        self._told_s: float | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None while none runs."""
        return None if self._process is None else self._process.pid

    async def run(self, *, fresh_s: float | None, confirmed_s: float | None) -> End:
        """Run a process to its end, and return how it ended.

        Args:
            fresh_s: for how long a confirmation of the group's lock is good; None: no lock.
            confirmed_s: when it was confirmed last, on the monotonic clock.

        """
        began_s = self._clock.monotonic_s()
        self.report = self._heard_s = self._dead_since_s = self._told_s = None
        ours, theirs = socket.socketpair()
        try:
            words = words_for(theirs.fileno(), fresh_s)
            head, *rest = self._command
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskyard.shared.cli",
                head,
                f"--supervised={words}",
                *rest,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the supervisor, which passes it on once
            )
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_REPORT_LIMIT)
        if confirmed_s is not None:
            self.confirm(confirmed_s)
        listening = asyncio.create_task(self._listen(reader), name=f"process {self.number}")
        try:
            code = await self._process.wait()
            await asyncio.wait({listening}, timeout=_LAST_WORDS_S)
        finally:
            listening.cancel()
            self._writer.close()
            self._writer = None
            self._kill()
            self._process = None
        said = self.report or Report()
        return End(
            code=code,
            uptime_s=self._clock.monotonic_s() - began_s,
            worked=said.worked,
            drained=said.drained,
        )

    def confirm(self, at_s: float) -> None:
        """Tell the process when the group's lock was known to be held."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(_encode(Order(lock_confirmed_s=at_s)) + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; one that has ended is no error."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def mind(self) -> None:
        """Replace a process that has been dead inside for long."""
        now_s = self._clock.monotonic_s()
        if self._told_s is not None:
            if now_s - self._told_s > self._patience_s:
                self._kill()
            return
        problems = why_member_dead(self.signs())
        if not problems:
            self._dead_since_s = None
        elif self._dead_since_s is None:
            self._dead_since_s = now_s
        elif now_s - self._dead_since_s >= REPLACE_S:
            _log.warning("a process is replaced", process=self.pid, why="; ".join(problems))
            self._told_s = now_s
            self.signal(signal.SIGTERM)

    def signs(self) -> MemberSigns:
        """Return how it is now."""
        report, heard_s, process = self.report, self._heard_s, self._process
        return MemberSigns(
            number=self.number,
            pid=None if process is None else process.pid,
            silent_s=None
            if heard_s is None or process is None
            else self._clock.monotonic_s() - heard_s,
            dead=() if report is None or process is None else report.dead,
            unready=() if report is None or process is None else report.unready,
            replacing=self._told_s is not None,
            resting=self.resting,
        )

    def _kill(self) -> None:
        self.signal(signal.SIGKILL)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                self.report = _decode(line)
                self._heard_s = self._clock.monotonic_s()
        except (OSError, ValueError) as error:
            _log.warning("a process is not understood", process=self.pid, problem=str(error))
