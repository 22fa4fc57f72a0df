"""The brokers that the product is tested on from outside, behind one small face."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from support.blocking_node import BlockingNode
from support.cluster import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUnderTest:
    """A broker for one test: an empty SQLite file, or a virtual host of its own on RabbitMQ."""

    url: str
    """For `TASKYARD_BROKER_URL`."""
    kind: Literal["sqlite", "rabbitmq"]
    version: str
    """Of SQLite or of RabbitMQ, such as `4.3.6`."""
    management_url: str | None = None
    """RabbitMQ's management API, where there is one."""
    node: BlockingNode | None = None
    """The private node, in tests marked `breaks_broker` on RabbitMQ."""
    cluster: Cluster | None = None
    """The private nodes, where the broker is a cluster."""

    @property
    def version_tuple(self) -> tuple[int, int]:
        """The release as numbers, such as (4, 3)."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def node_url(self) -> str:
        """The same at one node alone, for clients that take a single address."""
        before, at, after = self.url.rpartition("@")
        hosts, slash, vhost = after.partition("/")
        return f"{before}{at}{hosts.partition(',')[0]}{slash}{vhost}"

    async def restart_broker(self) -> None:
        """Stop the broker in good order and start it again; nothing to do without a server."""
        await asyncio.to_thread(self.restart_broker_blocking)

    async def kill_broker(self) -> None:
        """Kill the broker (SIGKILL) and start it again; nothing to do without a server."""
        await asyncio.to_thread(self.kill_broker_blocking)

    async def stop_broker(self) -> None:
        """Stop the broker in good order, all of its nodes."""
        await asyncio.to_thread(self._whole().stop)

    async def start_broker(self) -> None:
        """Start the broker again, with its data."""
        await asyncio.to_thread(self._whole().start)

    async def set_memory_alarm(self, *, on: bool) -> None:
        """Raise or clear the memory alarm; in a cluster one node's is for all."""
        node = self.own_node() if self.cluster is None else self.cluster.members[0]
        await asyncio.to_thread(node.set_memory_alarm, on=on)

    def restart_broker_blocking(self) -> None:
        """Restart the broker; see `restart_broker`."""
        if self.kind == "rabbitmq":
            self.own_node().restart()

    def kill_broker_blocking(self) -> None:
        """Kill the broker and start it again; see `kill_broker`."""
        if self.kind == "rabbitmq":
            self.own_node().kill_and_start()

    def own_node(self) -> BlockingNode:
        """Return the private node, to be broken.

        Raises:
            RuntimeError: The test is not marked, so the node is shared with other tests.
        """
        if self.node is None:
            raise RuntimeError("mark the test with @pytest.mark.breaks_broker: this node is shared")
        return self.node

    def _whole(self) -> BlockingNode | Cluster:
        return self.own_node() if self.cluster is None else self.cluster
