"""A private RabbitMQ node of the test that starts it: stop it, kill it, set its alarms. Blocking.

A guard process stands between the test and the server, so that nothing is left behind, however the
test ends. See `rabbitmq` for the same in async.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from support.guarded import Guarded, Launch
from support.handshake import server_version
from support.leftovers import sweep
from support.management import ManagementError
from support.node_config import (
    DISK_LIMIT,
    MEMORY_LIMIT,
    PLUGINS,
    NodeAddress,
    epmd_launch,
    logs,
    server_launch,
    write_files,
)
from support.ports import free_port, free_ports
from support.roots import RabbitMQRoot
from support.server import BlockingSharedNode, ToolError

_FOLDER_PREFIX = "taskyard-node"

#: Has the server write down what it holds back: Mnesia's log, and Ra's directory of queues.
WRITE_DOWN = "catch mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()]."


class NodeFailed(RuntimeError):
    """The node did not start or stop; the message holds the end of its logs."""


class BlockingNode(BlockingSharedNode):
    """A node with its own ports, data and epmd, under the control of the process that made it."""

    def __init__(
        self,
        root: RabbitMQRoot,
        *,
        config: Sequence[str] = (),
        advanced: str | None = None,
        plugins: Sequence[str] = PLUGINS,
        address: NodeAddress | None = None,
        cookie: str | None = None,
    ) -> None:
        """Prepare a node; `start` starts it.

        Args:
            root: The installation to run.
            config: Further lines for `rabbitmq.conf`, such as `consumer_timeout = 2000`.
            advanced: The text of an `advanced.config`.
            plugins: The plugins to enable; the management plugin is needed for virtual hosts.
            address: Its names and ports; by default new ones.
            cookie: The secret that it shares with others; by default it has one of its own.
        """
        super().__init__(root, address or new_address(), version="")
        self._config = tuple(config)
        self._advanced = advanced
        self._plugins = tuple(plugins)
        self._cookie = cookie
        self._running: Guarded | None = None
        self._alarms_on = False
        self._used_up = False
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """The server's process id; 0 when it does not run."""
        return self._running.pid if self._running is not None and self.is_running else 0

    @property
    def folder(self) -> Path:
        """The node's folder, as seen from this process; `log/` and `server.out` are in it."""
        return self.root.outside(self.address.folder)

    @property
    def is_running(self) -> bool:
        """Whether the server process is there."""
        return self._running is not None and self._running.is_running

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start the server and wait until it takes connections and serves its management API.

        Raises:
            NodeFailed: It ended, or was not ready in time.
        """
        if self.is_running:
            return
        if self.root.folder is not None and os.geteuid() != 0:
            raise NodeFailed(f"root {self.root.name}: only root may chroot to {self.root.folder}")
        sweep(self.folder.parent, _FOLDER_PREFIX)
        write_files(
            self.root,
            self.address,
            config=self._config,
            advanced=self._advanced,
            plugins=self._plugins,
            cookie=self._cookie,
        )
        self._running = Guarded(self._launches(), remove=[self.folder])
        try:
            self._wait_until_ready(timeout_s)
        except BaseException:
            # Also when the wait is interrupted: a half-started server is of no use to anyone.
            self._end(signal.SIGKILL, timeout_s=10.0)
            raise

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Have the server stop in good order; its data stays.

        Raises:
            NodeFailed: It did not stop in time; it has been killed.
        """
        self._used_up = self._used_up or self.is_running
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """Kill the server (SIGKILL); its data stays as it is on disk.

        RabbitMQ writes some of what it knows of *new* queues down a second or two after it has
        answered. One that dies in between forgets streams and quorum queues with all they hold, and
        cannot make streams any more. Tests that kill are about jobs, and begin with new queues, so
        that is written down first.
        """
        if self.is_running:
            self._used_up = True
            with contextlib.suppress(ToolError, subprocess.SubprocessError):
                self.ctl("eval", WRITE_DOWN, timeout_s=30.0)
        self._end(signal.SIGKILL, timeout_s=10.0)

    def restart(self) -> None:
        """Stop the server in good order and start it on the same ports and data."""
        self.stop()
        self.start()

    def kill_and_start(self) -> None:
        """Kill the server and start it on the same ports and data."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Suspend the server process (SIGSTOP) and wait until it stands still: connections stay,
        nothing is answered.
        """
        self._serving().suspend()

    def thaw(self) -> None:
        """Let a suspended server go on."""
        self._serving().signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server at once and remove its folder. Safe to call twice."""
        self._end(signal.SIGKILL, timeout_s=10.0)
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def set_memory_alarm(self, *, on: bool) -> None:
        """Raise or clear the memory alarm: while it is on, publishing connections are blocked."""
        self._alarms_on = self._alarms_on or on
        limit = ["0.0000001"] if on else ["absolute", MEMORY_LIMIT]
        self.ctl("set_vm_memory_high_watermark", *limit)

    def set_disk_alarm(self, *, on: bool) -> None:
        """Raise or clear the alarm of a full disk, with the same effect."""
        self._alarms_on = self._alarms_on or on
        self.ctl("set_disk_free_limit", "1000000GB" if on else DISK_LIMIT)

    def mend(self) -> None:
        """Undo what a test did to the node: start it if it is down, clear the alarms.

        One that was killed or stopped begins anew, without data, and hands nothing on to the next
        test: a killed one may have forgotten things (see `kill`), and one that has just started
        again may never be able to make a queue again when a virtual host is deleted whose quorum
        queues are still electing their leaders (seen on 3.10).
        """
        if self._used_up:
            self._end(signal.SIGKILL, timeout_s=10.0)
            shutil.rmtree(self.folder, ignore_errors=True)
            self._used_up = self._alarms_on = False
        self.start()
        self.thaw()
        if self._alarms_on:
            self.set_memory_alarm(on=False)
            self.set_disk_alarm(on=False)
            self._alarms_on = False

    def _launches(self) -> list[Launch]:
        """What makes a node: an epmd of its own, and the server."""
        return [epmd_launch(self.root, self.address), server_launch(self.root, self.address)]

    def _wait_until_ready(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while not self._is_ready():
            if not self.is_running:
                raise NodeFailed(f"RabbitMQ {self.root.name} ended while starting\n{self._logs()}")
            if time.monotonic() > until:
                raise NodeFailed(f"RabbitMQ {self.root.name} not ready in time\n{self._logs()}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        version = server_version("127.0.0.1", self.address.amqp_port)
        if version is None:
            return False
        self.version = version
        if "rabbitmq_management" not in self._plugins:
            return True
        with contextlib.suppress(ManagementError):
            self.management.request("GET", "whoami")
            return True
        return False

    def _serving(self) -> Guarded:
        if self._running is None:
            raise NodeFailed(f"RabbitMQ {self.root.name} does not run")
        return self._running

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.signal(how)
        try:
            running.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            running.abandon()
            raise NodeFailed(f"RabbitMQ {self.root.name} did not stop\n{self._logs()}") from error

    def _logs(self) -> str:
        return logs(self.root, self.address)


def new_address(*, epmd_port: int | None = None) -> NodeAddress:
    """Return names and ports that nobody else has; the epmd's may be that of others."""
    unique = f"{os.getpid()}-{secrets.token_hex(3)}"
    amqp, management, prometheus, distribution = free_ports(4)
    return NodeAddress(
        nodename=f"taskyard-{unique}@localhost",
        amqp_port=amqp,
        management_port=management,
        prometheus_port=prometheus,
        distribution_port=distribution,
        epmd_port=epmd_port or free_port(),
        folder=f"/tmp/{_FOLDER_PREFIX}-{unique}",
    )
