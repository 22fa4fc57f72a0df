"""One server of a kind per test run, shared by the parallel workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Generic, TypeVar

from support import keeper

#: A RabbitMQ node takes 3 to 5 s to start; a machine with many tests under way, more.
_START_PATIENCE_S = 90.0

S = TypeVar("S")


class SharedServerFailed(RuntimeError):
    """The server could not be started; the message holds what its keeper wrote."""


class SharedServer(Generic[S]):
    """A server that this process uses together with the others of its test run."""

    def __init__(
        self, state: Path, maker: Sequence[str], find: Callable[[Mapping[str, Any]], S | None]
    ) -> None:
        """Name the server; `use` starts it.

        Args:
            state: The file that says where it is, in a folder that the run's processes share.
            maker: What the keeper makes it from; see `keeper`.
            find: Takes what the file says; returns the server, or None when it does not answer.
        """
        self._state = state
        self._maker = tuple(maker)
        self._find = find
        self._held: tuple[S, TextIOWrapper] | None = None

    def use(self) -> S:
        """Return the run's server, started if need be; it stays up until `release`.

        Raises:
            SharedServerFailed: It could not be started.
        """
        if self._held is None:
            self._held = self._join()
        return self._held[0]

    def release(self) -> None:
        """Stop using it; the last user's release ends it."""
        held, self._held = self._held, None
        if held is not None:
            held[1].close()

    def _join(self) -> tuple[S, TextIOWrapper]:
        with self._state.with_suffix(".start").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            users = self._state.with_suffix(".users").open("w")
            # Waits for a keeper that is just ending its server.
            fcntl.flock(users, fcntl.LOCK_SH)
            try:
                server = self._running() or self._start()
            except BaseException:
                # Also when interrupted: the lock would keep a server alive that nobody uses.
                users.close()
                raise
        return server, users

    def _running(self) -> S | None:
        try:
            state = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        return self._find(state)

    def _start(self) -> S:
        log = self._state.with_suffix(".log")
        opened = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        command = [sys.executable, keeper.__file__, str(self._state), *self._maker]
        # Not a Popen: this child is meant to outlive the process that starts it.
        pid = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[opened, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setsid=True,
        )
        until = time.monotonic() + _START_PATIENCE_S
        while (server := self._running()) is None:
            if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > until:
                said = log.read_text(errors="replace")
                raise SharedServerFailed(f"no server of {' '.join(self._maker)}:\n{said}")
            time.sleep(0.05)
        return server
