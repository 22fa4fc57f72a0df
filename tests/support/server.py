"""What a test may do to a RabbitMQ server that it shares with others. Blocking; see `rabbitmq`.

A server is either a node that some process of this test run started, or one that the user gave by
URL; the latter has no command line tools.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from support.handshake import server_version
from support.management import PASSWORD, USER, Management, ManagementError
from support.node_config import NodeAddress, environment
from support.roots import RabbitMQRoot


class ToolError(RuntimeError):
    """A command line tool of RabbitMQ failed; the message holds what it printed."""


@dataclass(frozen=True, slots=True)
class ManagementMissing(RuntimeError):
    """The server has no management API within reach, so it cannot make virtual hosts."""

    url: str


class BlockingServer:
    """One RabbitMQ server: its addresses, virtual hosts and queues."""

    def __init__(self, name: str, url: str, management_url: str | None, version: str) -> None:
        """Describe a running server.

        Args:
            name: What tests call it, such as `4.3`.
            url: Its AMQP URL, with user and password and the default virtual host.
            management_url: The base URL of its management API, or None where there is none.
            version: The version that it states.
        """
        self.name = name
        self.url = url
        self.management_url = management_url
        self.version = version

    @property
    def management(self) -> Management:
        """Its management API.

        Raises:
            ManagementMissing: It has none.
        """
        if self.management_url is None:
            raise ManagementMissing(self.url)
        return Management(self.management_url)

    @property
    def version_tuple(self) -> tuple[int, int]:
        """The release as numbers, such as (4, 3), for comparisons."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    def url_of(self, vhost: str) -> str:
        """Return the AMQP URL of a virtual host."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path="/" + quote(vhost, safe="")))

    def vhost(self, name: str | None = None) -> str:
        """Create a virtual host and return its AMQP URL.

        Args:
            name: What to call it; a random name by default. Other characters than letters, digits
                and `_.-` become `-`, and something random is added, so that names never meet.
        """
        readable = re.sub(r"[^A-Za-z0-9_.]+", "-", name or "test").strip("-")[-80:]
        unique = f"{readable}-{secrets.token_hex(4)}"
        self.management.add_vhost(unique)
        return self.url_of(unique)

    def delete_vhost(self, url: str) -> None:
        """Delete the virtual host of an AMQP URL, with everything in it."""
        self.management.delete_vhost(vhost_of(url))

    def purge_queue(self, url: str, queue: str) -> None:
        """Throw away the ready messages of a queue in the virtual host of `url`."""
        self.management.purge_queue(vhost_of(url), queue)

    def delete_queue(self, url: str, queue: str) -> None:
        """Delete a queue in the virtual host of `url`."""
        self.management.delete_queue(vhost_of(url), queue)

    def close_connections(self, url: str) -> int:
        """Have the server close every connection to the virtual host of `url`."""
        return self.management.close_connections(vhost_of(url))

    def ctl(self, *arguments: str, tool: str = "rabbitmqctl", timeout_s: float = 60.0) -> str:
        """Run one of the command line tools against the server.

        Raises:
            ToolError: This server was given by URL, so it has none here.
        """
        raise ToolError(f"{tool}: {self.url} is not a node of this test run")


class BlockingSharedNode(BlockingServer):
    """A node that this test run started; it may be used, but not broken, by many tests at once."""

    def __init__(self, root: RabbitMQRoot, address: NodeAddress, version: str) -> None:
        """Describe a node of `root` at `address`."""
        super().__init__(
            root.name,
            f"amqp://{USER}:{PASSWORD}@127.0.0.1:{address.amqp_port}/%2F",
            f"http://{USER}:{PASSWORD}@127.0.0.1:{address.management_port}",
            version,
        )
        self.root = root
        self.address = address

    @property
    def prometheus_url(self) -> str:
        """Where its metrics are."""
        return f"http://127.0.0.1:{self.address.prometheus_port}/metrics"

    def state(self) -> dict[str, Any]:
        """Return what another process of this test run needs to use it."""
        return {"version": self.version, "address": asdict(self.address)}

    def ctl(self, *arguments: str, tool: str = "rabbitmqctl", timeout_s: float = 60.0) -> str:
        """Run one of the node's command line tools against it; takes about a second.

        Args:
            arguments: The command and its arguments.
            tool: `rabbitmqctl`, `rabbitmq-diagnostics`, `rabbitmq-queues`, …
            timeout_s: How long it may take, in seconds.

        Returns:
            What it printed.

        Raises:
            ToolError: It failed.
        """
        command = [f"{self.root.scripts}/{tool}", "-q", "-n", self.address.nodename, *arguments]
        done = subprocess.run(
            self.root.argv(*command),
            env=environment(self.address),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise ToolError(f"{tool} {' '.join(arguments)}: exit {done.returncode}: {said}")
        return done.stdout


def given_server(url: str, management_url: str | None = None) -> BlockingServer:
    """Describe a server that the user gave by its AMQP URL.

    Args:
        url: With user and password.
        management_url: Its management API; guessed as port 15672 (and tried) by default.

    Raises:
        ConnectionError: Nobody answers there in AMQP.
    """
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    version = server_version(host, parts.port or 5672)
    if version is None:
        raise ConnectionError(f"no AMQP server answers at {host}:{parts.port or 5672}")
    credentials = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
    guess = management_url or f"http://{credentials}@{host}:15672"
    name = ".".join(version.split(".")[:2])
    return BlockingServer(name, url, guess if _answers(guess) else None, version)


def vhost_of(url: str) -> str:
    """Return the virtual host that an AMQP URL names."""
    return unquote(urlsplit(url).path[1:]) or "/"


def _answers(management_url: str) -> bool:
    try:
        Management(management_url, timeout_s=2.0).request("GET", "whoami")
    except ManagementError:
        return False
    return True
