"""A private PostgreSQL server of the test that starts it: stop it, kill it, start it. Blocking.

A guard process stands between the test and the server, so that nothing is left behind, however the
test ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.guarded import Guarded, Launch
from support.leftovers import sweep
from support.ports import free_port
from support.postgres_installation import PostgresInstallation, server_user
from support.postgres_server import ENVIRONMENT, SUPERUSER, USER, PostgresFailed, PostgresServer

_FOLDER_PREFIX = "taskyard-postgres"


class Postgres(PostgresServer):
    """A server with a port and data of its own, under the control of the process that made it."""

    def __init__(self, installation: PostgresInstallation, *, fsync: bool = True) -> None:
        """Prepare a server; `start` starts it.

        Args:
            installation: The programs to run.
            fsync: Whether it waits for the disk, as in production; without, it is faster.
        """
        super().__init__(installation, free_port(), secrets.token_urlsafe(12))
        # Not pytest's own folder, which only root may enter where root runs the tests.
        self.folder = Path(f"/tmp/{_FOLDER_PREFIX}-{os.getpid()}-{secrets.token_hex(3)}")
        """Its folder; `server.out` is in it."""
        self._data = self.folder / "data"
        self._fsync = fsync
        self._user = server_user()
        self._is_made = False
        self._running: Guarded | None = None
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it does not run."""
        return self._running.pid if self._running is not None and self.is_running else 0

    @property
    def is_running(self) -> bool:
        """Whether the server process is there."""
        return self._running is not None and self._running.is_running

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start the server, on the same port and data as before, and wait until it serves.

        Raises:
            PostgresFailed: It ended, or was not ready in time.
        """
        if self.is_running:
            return
        sweep(self.folder.parent, _FOLDER_PREFIX)
        if not self._is_made:
            self._make(timeout_s)
        self._running = self._guarded("postgres", "-D", str(self._data), *self._settings())
        try:
            self._wait_until_ready(timeout_s)
            if not self._is_made:
                self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{self.password}'")
                self._is_made = True
        except BaseException:
            # Also when the wait is interrupted: a half-started server is of no use to anyone.
            self._end(signal.SIGQUIT, timeout_s=10.0)
            raise

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Have the server throw its clients out and stop in good order; its data stays.

        Raises:
            PostgresFailed: It did not stop in time; it has been killed.
        """
        self._end(signal.SIGINT, timeout_s)

    def kill(self) -> None:
        """Kill the server (SIGKILL); its data stays as it is on disk."""
        self._end(signal.SIGKILL, timeout_s=10.0)

    def restart(self) -> None:
        """Stop the server in good order and start it on the same port and data."""
        self.stop()
        self.start()

    def drop_database(self, url: str) -> None:
        """Drop a database; a server that a test has stopped is started for that."""
        self.start()
        super().drop_database(url)

    def close(self) -> None:
        """End the server at once and remove its folder. Safe to call twice."""
        self._end(signal.SIGQUIT, timeout_s=10.0)
        self._remove_segment()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def _make(self, timeout_s: float) -> None:
        """Make the data folder, not synced: nobody misses it when the machine goes down."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        password = self.folder / "password"
        password.write_text(self.password)
        for path in (self.folder, password):
            if self._user is not None:
                shutil.chown(path, self._user)
        making = self._guarded(
            "initdb",
            f"--pgdata={self._data}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # There on every Linux. Unlike `C`, it leaves LIKE without an index, as most locales do.
            "--locale=C.UTF-8",
            "--no-sync",
        )
        try:
            code = making.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise PostgresFailed(f"initdb did not end in time\n{self._log()}") from error
        finally:
            making.abandon()
        if code != 0:
            raise PostgresFailed(f"initdb ended with {code}\n{self._log()}")
        self.version = (self._data / "PG_VERSION").read_text().strip()

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            # In files of the data folder, which goes: of the system's, a killed server leaves some.
            "dynamic_shared_memory_type": "mmap",
        }
        if not self._fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [word for name, text in settings.items() for word in ("-c", f"{name}={text}")]

    def _guarded(self, program: str, *arguments: str) -> Guarded:
        launch = Launch(
            argv=[self.installation.program(program), *arguments],
            env=ENVIRONMENT,
            output=str(self.folder / "server.out"),
            cwd=str(self.folder),
            user=self._user,
            # Ends at once, but not without giving its shared memory back.
            ends_by=signal.SIGQUIT,
        )
        return Guarded([launch], remove=[self.folder])

    def _wait_until_ready(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not self._is_ready():
            if not self.is_running:
                raise PostgresFailed(f"PostgreSQL ended while starting\n{self._log()}")
            if time.monotonic() > until:
                raise PostgresFailed(f"PostgreSQL not ready in time\n{self._log()}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        """Ask the file in which the server says so; one that was killed left its own there."""
        lines = self._said()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _said(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return (self._data / "postmaster.pid").read_text().splitlines()
        return []

    def _remove_segment(self) -> None:
        """Give back the shared memory of a killed server, which its next start would have done."""
        lines = self._said()
        if sys.platform == "linux" and len(lines) > 6 and lines[6].strip():
            _key, segment = lines[6].split()
            ctypes.CDLL(None).shmctl(int(segment), 0, None)

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.signal(how)
        try:
            running.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            running.abandon()
            raise PostgresFailed(f"PostgreSQL did not stop\n{self._log()}") from error

    def _log(self) -> str:
        path = self.folder / "server.out"
        text = path.read_text(errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-40:])
