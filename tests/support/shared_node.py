"""One RabbitMQ node per root and test run, shared by the parallel workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path

from support import keeper
from support.blocking_node import NodeFailed
from support.handshake import server_version
from support.node_config import NodeAddress
from support.roots import RabbitMQRoot
from support.server import BlockingSharedNode

#: A node takes 3 to 5 s to start; a machine with many tests under way, more.
_START_PATIENCE_S = 90.0


class SharedNodes:
    """The nodes that this process uses together with the others of its test run."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that all processes of the test run share."""
        self._folder = folder
        self._held: dict[str, tuple[BlockingSharedNode, TextIOWrapper]] = {}

    def use(self, root: RabbitMQRoot) -> BlockingSharedNode:
        """Return the run's node of `root`, started if need be; it stays up until `release`.

        Raises:
            NodeFailed: It could not be started.
        """
        if root.name not in self._held:
            self._held[root.name] = self._join(root)
        return self._held[root.name][0]

    def release(self) -> None:
        """Stop using the nodes; the last user's release ends them."""
        for _, users in self._held.values():
            users.close()
        self._held.clear()

    def _join(self, root: RabbitMQRoot) -> tuple[BlockingSharedNode, TextIOWrapper]:
        with (self._folder / f"{root.name}.start").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            users = (self._folder / f"{root.name}.users").open("w")
            # Waits for a keeper that is just ending its node.
            fcntl.flock(users, fcntl.LOCK_SH)
            try:
                node = self._running(root) or self._start(root)
            except BaseException:
                # Also when interrupted: the lock would keep a node alive that nobody uses.
                users.close()
                raise
        return node, users

    def _running(self, root: RabbitMQRoot) -> BlockingSharedNode | None:
        try:
            state = json.loads((self._folder / f"{root.name}.json").read_text())
        except FileNotFoundError:
            return None
        address = NodeAddress(**state["address"])
        if server_version("127.0.0.1", address.amqp_port) is None:
            return None
        return BlockingSharedNode(root, address, state["version"])

    def _start(self, root: RabbitMQRoot) -> BlockingSharedNode:
        log = self._folder / f"{root.name}.keeper.log"
        opened = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        command = [sys.executable, keeper.__file__, root.name, str(self._folder)]
        # Not a Popen: this child is meant to outlive the process that starts it.
        pid = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[opened, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setsid=True,
        )
        until = time.monotonic() + _START_PATIENCE_S
        while (node := self._running(root)) is None:
            if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > until:
                raise NodeFailed(f"no node of {root.name}:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)
        return node
