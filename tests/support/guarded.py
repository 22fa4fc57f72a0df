"""Start programs behind a guard process, so that none outlives the test. Blocking."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from support import guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One program to start."""

    argv: Sequence[str]
    env: Mapping[str, str]
    output: str
    """The file that its output is appended to."""
    cwd: str | None = None
    user: str | None = None
    """The user that it runs as; None is this process's own. Only root may choose another."""
    ends_by: int = signal.SIGKILL
    """What it is ended with when its owner is gone; what is left a second later is killed."""


@dataclass(slots=True)
class Guarded:
    """Programs that run behind one guard; the last of them is the main one."""

    launches: Sequence[Launch]
    remove: Sequence[Path] = ()
    """Folders that the guard removes when this process dies without cleaning up."""
    pid: int = field(init=False, default=0)
    """The main program's process id."""
    _guard: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        """Start the programs.

        Raises:
            ChildProcessError: The guard could not start them.
        """
        order = {
            "processes": [asdict(launch) for launch in self.launches],
            "remove": [str(folder) for folder in self.remove],
        }
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal must reach the test, not its servers.
            start_new_session=True,
        )
        line = self._read_line()
        if not line:
            self.abandon()
            raise ChildProcessError(f"could not start {self.launches[-1].argv}")
        self.pid = int(json.loads(line)[-1])

    @property
    def is_running(self) -> bool:
        """Whether the main program, or something that it left behind, still runs."""
        return self._guard.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main program; one that has ended is no error."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def suspend(self) -> None:
        """Suspend the main program (SIGSTOP); return when each of its threads stands still.

        The signal alone stops them one after another: on busy cores some still run, and answer,
        milliseconds after it was sent.

        Raises:
            TimeoutError: A thread still ran after 10 s.
        """
        self.signal(signal.SIGSTOP)
        until = time.monotonic() + 10.0
        while self.is_running and not _stands_still(self.pid):
            if time.monotonic() > until:
                raise TimeoutError(f"process {self.pid} did not stand still within 10 s of SIGSTOP")
            time.sleep(0.001)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the main program and of all that it started.

        Returns:
            Its exit code; negative for a signal, as in `subprocess`.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        self._guard.wait(timeout_s)
        line = self._read_line()
        self.abandon()
        return int(line) if line else -signal.SIGKILL

    def abandon(self) -> None:
        """End everything at once, and the guard with it. Safe to call twice."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        try:
            self._guard.wait(10)
        except subprocess.TimeoutExpired:
            # The kernel then ends what it started.
            self._guard.kill()
            self._guard.wait()
        if self._guard.stdout is not None:
            self._guard.stdout.close()

    def _read_line(self) -> str:
        return self._guard.stdout.readline() if self._guard.stdout else ""


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped; one that has ended is, too."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The program's name, in parentheses before the state, may hold anything.
            if stat.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True
