"""Three RabbitMQ nodes on this machine that form one broker: kill one, and the others go on. Blocking.

Every queue of ours is replicated there, so the death of any one node must lose nothing.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self
from urllib.parse import quote, urlsplit, urlunsplit

from support.blocking_node import WRITE_DOWN, BlockingNode, NodeFailed, new_address
from support.eventually import eventually_blocking
from support.guarded import Guarded, Launch
from support.management import Management, ManagementError
from support.node_config import NodeAddress, epmd_launch, new_cookie, server_launch
from support.ports import free_port
from support.roots import RabbitMQRoot
from support.server import ToolError, vhost_of

#: As few as can lose one and still agree.
SIZE = 3
#: Three nodes start at once, on few cores.
START_S = 120.0
PATIENCE_S = 30.0


class Member(BlockingNode):
    """One node of a cluster; its epmd is the cluster's."""

    @property
    def management(self) -> Management:
        """Its management API: what all nodes must agree on takes its time when they have just met."""
        assert self.management_url is not None
        return Management(self.management_url, timeout_s=PATIENCE_S)

    def kill(self) -> None:
        """Kill the server (SIGKILL) at once: what it alone has not written down, the others have."""
        self._used_up = True
        self._end(signal.SIGKILL, timeout_s=10.0)

    def _launches(self) -> list[Launch]:
        return [server_launch(self.root, self.address)]


class Cluster:
    """`with Cluster(root) as cluster:` starts the nodes and removes them afterwards.

    Attributes:
        members: the nodes, whether they run or not.
        kills: when leaders were killed, in seconds since the epoch.

    """

    def __init__(self, root: RabbitMQRoot, *, size: int = SIZE, config: Sequence[str] = ()) -> None:
        """Prepare the nodes; `start` starts them.

        Args:
            root: The installation to run.
            size: How many nodes.
            config: Further lines for the `rabbitmq.conf` of each.
        """
        epmd_port, cookie = free_port(), new_cookie()
        addresses = [new_address(epmd_port=epmd_port) for _ in range(size)]
        lines = [*_formation(addresses), *config]
        self.root = root
        self.members = tuple(
            Member(root, config=lines, address=address, cookie=cookie) for address in addresses
        )
        self.kills: list[float] = []
        self._epmd: Guarded | None = None

    # what it is

    @property
    def running(self) -> list[Member]:
        """The nodes that run now."""
        return [member for member in self.members if member.is_running]

    @property
    def version(self) -> str:
        """The version that its nodes state."""
        return self.members[0].version

    def url_of(self, url: str) -> str:
        """Return the URL of a node's virtual host with all nodes in it, as a client gets it."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        hosts = ",".join(f"127.0.0.1:{member.address.amqp_port}" for member in self.members)
        return urlunsplit(parts._replace(netloc=f"{login}@{hosts}"))

    @property
    def management(self) -> Management:
        """The management API of a node that runs."""
        return self._any().management

    def vhost(self, name: str) -> str:
        """Create a virtual host; return its URL, with all nodes in it.

        Nodes that have just met may be too busy with each other to agree on one at once.
        """
        url = eventually_blocking(lambda: self._any().vhost(name), within=START_S, every=0.5)
        return self.url_of(url)

    def delete_vhost(self, url: str) -> None:
        """Delete the virtual host of a URL, with everything in it."""
        with contextlib.suppress(ManagementError):  # the cluster goes with the module
            self.management.delete_vhost(vhost_of(url))

    def close_connections(self, url: str) -> int:
        """Have the nodes that run close every connection to the virtual host of `url`."""
        return self._any().close_connections(url)

    def leader(self, url: str, queue: str) -> Member:
        """Return the node that leads a queue or stream of the virtual host of `url`, or holds it.

        Raises:
            LookupError: None that runs does so now.
        """
        path = f"queues/{quote(vhost_of(url), safe='')}/{quote(queue, safe='')}"
        found: dict[str, Any] = self.management.request("GET", path)
        name = found.get("leader") or found.get("node")
        for member in self.running:
            if member.address.nodename == name:
                return member
        raise LookupError(f"{queue} is led by {name!r}, which does not run")

    # life

    def start(self) -> None:
        """Start the nodes that do not run, side by side, and wait until they are one broker.

        Raises:
            NodeFailed: One was not ready in time.
        """
        folder = self.members[0].folder
        folder.mkdir(parents=True, exist_ok=True)
        if self._epmd is None or not self._epmd.is_running:
            self._epmd = Guarded([epmd_launch(self.root, self.members[0].address)])
        with ThreadPoolExecutor(len(self.members)) as side_by_side:
            list(side_by_side.map(lambda member: member.start(timeout_s=START_S), self.members))
        self.wait_healthy()

    def stop(self) -> None:
        """Stop all nodes in good order, side by side; their data stays.

        Raises:
            NodeFailed: One did not stop in time; it has been killed.
        """
        with ThreadPoolExecutor(len(self.members)) as side_by_side:
            list(side_by_side.map(lambda member: member.stop(timeout_s=START_S), self.members))

    def kill_leader(self, url: str, queue: str, *, down_s: float = 0.0) -> Member:
        """Kill the node that leads a queue, and start it again when it was down for so long.

        It begins when the cluster can bear that, and returns when it could bear the next.
        """
        self.wait_healthy()
        victim = self._settled_leader(url, queue)
        self.kills.append(time.time())
        victim.kill()
        time.sleep(down_s)
        victim.start(timeout_s=START_S)
        self.wait_healthy()
        return victim

    def write_down(self) -> None:
        """Have each node write down what it knows of new queues (see `BlockingNode.kill`)."""
        for member in self.running:
            with contextlib.suppress(ToolError, subprocess.SubprocessError):
                member.ctl("eval", WRITE_DOWN, timeout_s=30.0)

    def wait_healthy(self, *, within: float = START_S) -> None:
        """Wait until all nodes run, see each other, and any one of them could die.

        Raises:
            NeverHappened: That was not so in time.
        """
        eventually_blocking(self._is_healthy, within=within, every=0.2, hint="a healthy cluster")

    def close(self) -> None:
        """End all nodes at once and remove their folders. Safe to call twice."""
        for member in self.members:
            member.close()
        if self._epmd is not None:
            self._epmd.abandon()
            self._epmd = None

    def mend(self) -> None:
        """Make it whole again after a test: start what is down, clear what is raised."""
        self.start()
        for member in self.members:
            member.thaw()

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.close()

    def _any(self) -> Member:
        if not self.running:
            raise NodeFailed(f"no node of the cluster of RabbitMQ {self.root.name} runs")
        return self.running[0]

    def _settled_leader(self, url: str, queue: str) -> Member:
        # Between two leaders the API names the one before.
        return eventually_blocking(lambda: self.leader(url, queue), within=30.0, every=0.1)

    def _is_healthy(self) -> bool:
        return all(member.is_running and self._could_go(member) for member in self.members)

    def _could_go(self, member: Member) -> bool:
        """Tell whether a node sees all others, and no queue would be without a majority if it died."""
        try:
            nodes = member.management.request("GET", "nodes?columns=name,running")
            member.management.request("GET", "health/checks/node-is-quorum-critical")
        except ManagementError:
            return False
        return sum(bool(node["running"]) for node in nodes) == len(self.members)


def _formation(addresses: Sequence[NodeAddress]) -> list[str]:
    """Return the lines by which nodes that start find each other."""
    kind = "cluster_formation"
    lines = [f"{kind}.peer_discovery_backend = classic_config"]
    for number, address in enumerate(addresses, start=1):
        lines.append(f"{kind}.classic_config.nodes.{number} = {address.nodename}")
    return lines
