"""One RabbitMQ node per root and test run, shared by the parallel workers of pytest-xdist."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from support.handshake import server_version
from support.node_config import NodeAddress
from support.roots import RabbitMQRoot
from support.server import BlockingSharedNode
from support.shared_server import SharedServer


class SharedNodes:
    """The nodes that this process uses together with the others of its test run."""

    def __init__(self, folder: Path) -> None:
        """Take the folder that all processes of the test run share."""
        self._folder = folder
        self._used: dict[str, SharedServer[BlockingSharedNode]] = {}

    def use(self, root: RabbitMQRoot) -> BlockingSharedNode:
        """Return the run's node of `root`, started if need be; it stays up until `release`.

        Raises:
            SharedServerFailed: It could not be started.
        """
        if root.name not in self._used:
            state = self._folder / f"rabbitmq-{root.name}.json"
            find = partial(_running, root)
            self._used[root.name] = SharedServer(state, ["rabbitmq", root.name], find)
        return self._used[root.name].use()

    def release(self) -> None:
        """Stop using the nodes; the last user's release ends them."""
        for each in self._used.values():
            each.release()


def _running(root: RabbitMQRoot, state: Mapping[str, Any]) -> BlockingSharedNode | None:
    address = NodeAddress(**state["address"])
    if server_version("127.0.0.1", address.amqp_port) is None:
        return None
    return BlockingSharedNode(root, address, state["version"])
