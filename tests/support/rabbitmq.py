"""Private RabbitMQ nodes for tests, in async: the module to import.

`Node` is a node of one's own, to be stopped, killed and filled; `Server` one that other tests use
too. Each has the blocking twin as `.blocking`, for tests without a loop.
`cluster` makes three `BlockingNode`s one broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from support.blocking_node import BlockingNode, NodeFailed
from support.node_config import PLUGINS
from support.roots import RabbitMQRoot, find_root, installed_roots
from support.server import BlockingServer, BlockingSharedNode, ToolError, vhost_of

__all__ = [
    "BlockingNode",
    "BlockingServer",
    "BlockingSharedNode",
    "Node",
    "NodeFailed",
    "RabbitMQRoot",
    "Server",
    "ToolError",
    "find_root",
    "installed_roots",
    "vhost_of",
]


class Server:
    """A RabbitMQ server: its addresses, virtual hosts, queues and command line tools."""

    def __init__(self, blocking: BlockingServer) -> None:
        """Wrap the blocking twin."""
        self._blocking = blocking

    @property
    def blocking(self) -> BlockingServer:
        """The blocking twin."""
        return self._blocking

    @property
    def name(self) -> str:
        """What tests call it, such as `4.3`."""
        return self.blocking.name

    @property
    def url(self) -> str:
        """Its AMQP URL with user, password and the default virtual host."""
        return self.blocking.url

    @property
    def management_url(self) -> str | None:
        """The base URL of its management API, with user and password."""
        return self.blocking.management_url

    @property
    def version(self) -> str:
        """The version that it states, such as `4.3.6`."""
        return self.blocking.version

    @property
    def version_tuple(self) -> tuple[int, int]:
        """The release as numbers, such as (4, 3)."""
        return self.blocking.version_tuple

    async def vhost(self, name: str | None = None) -> str:
        """Create a virtual host of a unique name made from `name`; return its AMQP URL."""
        return await asyncio.to_thread(self.blocking.vhost, name)

    async def delete_vhost(self, url: str) -> None:
        """Delete the virtual host of an AMQP URL, with everything in it."""
        await asyncio.to_thread(self.blocking.delete_vhost, url)

    async def purge_queue(self, url: str, queue: str) -> None:
        """Throw away the ready messages of a queue in the virtual host of `url`."""
        await asyncio.to_thread(self.blocking.purge_queue, url, queue)

    async def delete_queue(self, url: str, queue: str) -> None:
        """Delete a queue in the virtual host of `url`."""
        await asyncio.to_thread(self.blocking.delete_queue, url, queue)

    async def close_connections(self, url: str) -> int:
        """Have the server close every connection to the virtual host of `url`."""
        return await asyncio.to_thread(self.blocking.close_connections, url)

    async def ctl(self, *arguments: str, tool: str = "rabbitmqctl") -> str:
        """Run a command line tool of the node against it; return what it printed.

        Raises:
            ToolError: It failed, or this server was given by URL and has no tools here.
        """
        return await asyncio.to_thread(self.blocking.ctl, *arguments, tool=tool)


class Node(Server):
    """A private node. `async with Node.of(root) as node:` starts it and removes it afterwards."""

    def __init__(self, blocking: BlockingNode) -> None:
        """Wrap the blocking twin."""
        super().__init__(blocking)
        self._node = blocking

    @property
    def blocking(self) -> BlockingNode:
        """The blocking twin."""
        return self._node

    @classmethod
    def of(
        cls,
        root: RabbitMQRoot,
        *,
        config: Sequence[str] = (),
        advanced: str | None = None,
        plugins: Sequence[str] = PLUGINS,
    ) -> Node:
        """Prepare a node of an installation.

        Args:
            root: The installation.
            config: Further lines for `rabbitmq.conf`.
            advanced: The text of an `advanced.config`.
            plugins: The plugins to enable.
        """
        return cls(BlockingNode(root, config=config, advanced=advanced, plugins=plugins))

    async def start(self) -> None:
        """Start it and wait until it takes connections; 3 to 5 s on an idle machine."""
        await asyncio.to_thread(self._node.start)

    async def stop(self) -> None:
        """Stop it in good order; its data stays."""
        await asyncio.to_thread(self._node.stop)

    async def kill(self) -> None:
        """Kill the server process (SIGKILL); its data stays as it is on disk."""
        await asyncio.to_thread(self._node.kill)

    async def restart(self) -> None:
        """Stop it in good order and start it on the same ports and data."""
        await asyncio.to_thread(self._node.restart)

    async def kill_and_start(self) -> None:
        """Kill it and start it on the same ports and data."""
        await asyncio.to_thread(self._node.kill_and_start)

    async def close(self) -> None:
        """End it at once and remove its folder."""
        await asyncio.to_thread(self._node.close)

    async def set_memory_alarm(self, *, on: bool) -> None:
        """Raise or clear the memory alarm; takes about a second."""
        await asyncio.to_thread(self._node.set_memory_alarm, on=on)

    async def set_disk_alarm(self, *, on: bool) -> None:
        """Raise or clear the alarm of a full disk; takes about a second."""
        await asyncio.to_thread(self._node.set_disk_alarm, on=on)

    def freeze(self) -> None:
        """Suspend the server process (SIGSTOP) and wait until it stands still: connections stay,
        nothing is answered.
        """
        self._node.freeze()

    def thaw(self) -> None:
        """Let a suspended server go on."""
        self._node.thaw()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
