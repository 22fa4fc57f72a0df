"""Run the `taskyard` command, or any program, under test: watch its output, signals and memory.

The waiting methods come in two: `wait_…` to be awaited, `wait_…_blocking` for tests without a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from support.eventually import NeverHappened, eventually_blocking
from support.guarded import Guarded, Launch

_POLL_S = 0.02

#: What a program under test must not inherit from the environment of the test run.
_OWN_VARIABLES = ("TASKYARD_", "PYTEST_", "COV_", "CI")


def taskyard_command() -> list[str]:
    """Return the command line of `taskyard` as installed beside the running Python."""
    script = Path(sys.executable).with_name("taskyard")
    return [str(script)] if script.exists() else [sys.executable, "-m", "taskyard.shared.cli"]


class Program:
    """One running program. `with Program(…) as p:` (or `async with`) ends it, however it goes."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start the program.

        Args:
            argv: Its command line.
            log: The file that takes its output, standard error included.
            env: Variables on top of the test run's own, less those of Taskyard, pytest and CI.
            cwd: The folder to run in; the log's by default.
        """
        self.argv = tuple(argv)
        self.log = log
        self.exit_code: int | None = None
        launch = Launch(
            argv=self.argv,
            env=_environment(env or {}),
            output=str(log),
            cwd=str(cwd or log.parent),
        )
        self._guarded = Guarded([launch])

    @classmethod
    def taskyard(
        cls,
        *arguments: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Self:
        """Start `taskyard` with these arguments."""
        return cls([*taskyard_command(), *arguments], log=log, env=env, cwd=cwd)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._guarded.pid

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The complete lines that it has written so far."""
        return [line[:-1] for line in self.output.splitlines(keepends=True) if line[-1] == "\n"]

    @property
    def is_running(self) -> bool:
        """Whether it runs, or is suspended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._reap(0.0)
        return self.exit_code is None

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM)."""
        self._guarded.signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Press Ctrl-C (SIGINT)."""
        self._guarded.signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it (SIGKILL); return at once, see `wait_exit`."""
        self._guarded.signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Suspend it (SIGSTOP); return when it stands still."""
        self._guarded.suspend()

    def thaw(self) -> None:
        """Let it go on after `freeze` (SIGCONT)."""
        self._guarded.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and all that it started, at once. Safe to call twice."""
        if self.exit_code is None:
            self._guarded.abandon()
            self.exit_code = -signal.SIGKILL

    async def wait_line(self, pattern: str, *, within: float = 10.0, count: int = 1) -> str:
        """Wait until it has written `count` lines in which the regular expression is found.

        Returns:
            The last of these lines.

        Raises:
            NeverHappened: It did not, or ended before; the message holds the end of its output.
        """
        until = time.monotonic() + within
        while (line := self._found(pattern, count, until)) is None:
            await asyncio.sleep(_POLL_S)
        return line

    def wait_line_blocking(self, pattern: str, *, within: float = 10.0, count: int = 1) -> str:
        """Wait for a line; see `wait_line`."""
        until = time.monotonic() + within
        while (line := self._found(pattern, count, until)) is None:
            time.sleep(_POLL_S)
        return line

    async def wait_exit(self, *, within: float = 10.0) -> int:
        """Wait for its end.

        Returns:
            Its exit code; negative for the signal that ended it.

        Raises:
            NeverHappened: It still runs; the message holds the end of its output.
        """
        return await asyncio.to_thread(self.wait_exit_blocking, within=within)

    def wait_exit_blocking(self, *, within: float = 10.0) -> int:
        """Wait for its end; see `wait_exit`."""
        if self.exit_code is None:
            try:
                self._reap(within)
            except subprocess.TimeoutExpired:
                raise self._failure(f"still runs after {within:g} s") from None
        assert self.exit_code is not None
        return self.exit_code

    def resident_bytes(self) -> int:
        """Return the memory that it and its descendants hold, shared pages counted once for each."""
        return sum(process.memory_info().rss for process in self._tree())

    def proportional_bytes(self) -> int:
        """Return the memory that it and its descendants hold, shared pages divided fairly."""
        return sum(map(self._proportional_bytes, self._tree()))

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its descendants have used so far."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(each.user + each.system for each in times)

    def anonymous_bytes(self) -> int:
        """Return what it and its descendants have allocated, without what is mapped from files.

        Unlike `proportional_bytes` it does not move when others begin or cease to share a library.
        """
        return sum(_anonymous_bytes(process.pid) for process in self._tree())

    def _proportional_bytes(self, process: psutil.Process) -> int:
        try:
            return int(process.memory_full_info().pss)
        except psutil.NoSuchProcess:
            if process.pid == self.pid:
                raise
            return 0  # a child that has ended meanwhile

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    def _reap(self, timeout_s: float) -> None:
        if self.exit_code is None:
            self.exit_code = self._guarded.wait(timeout_s)

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def _found(self, pattern: str, count: int, until: float) -> str | None:
        # Asked before the log is read, so that the last words of a program are not missed.
        over = not self.is_running
        found = [line for line in self.lines if re.search(pattern, line)]
        if len(found) >= count:
            return found[count - 1]
        if over:
            raise self._failure(f"ended with {self.exit_code} before it wrote {pattern!r}")
        if time.monotonic() > until:
            raise self._failure(f"wrote {pattern!r} {len(found)} times, not {count}, in time")
        return None

    def _failure(self, what: str) -> NeverHappened:
        tail = "\n".join(self.output.splitlines()[-40:])
        return NeverHappened(f"{' '.join(self.argv)} (pid {self.pid}) {what}; its output:\n{tail}")


def run_taskyard(
    *arguments: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    within: float = 30.0,
) -> tuple[int, str]:
    """Run a `taskyard` command to its end; return its exit code and its output."""
    with Program.taskyard(*arguments, log=log, env=env) as program:
        code = program.wait_exit_blocking(within=within)
        return code, program.output


def wait_gone_blocking(pid: int, *, within: float = 5.0) -> None:
    """Wait until no process of this id runs; see `is_gone`."""
    eventually_blocking(lambda: is_gone(pid), within=within, hint=f"process {pid} gone")


def is_gone(pid: int) -> bool:
    """Tell whether no process of this id runs; one that is dead but not collected does not run."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _anonymous_bytes(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return 0
    found = re.search(r"^Pss_Anon:\s+(\d+) kB$", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found is not None else 0


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}
