"""The files and the environment of a private RabbitMQ node: loopback only, small, quick to start."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from support.guarded import Launch
from support.management import PASSWORD, USER
from support.roots import RabbitMQRoot

#: What a node may use before it raises its memory alarm; many times what any test needs.
MEMORY_LIMIT = "1GiB"
DISK_LIMIT = "1MB"
#: How much of its write-ahead log a node keeps in memory until it goes to the segments; a node of the
#: limit above would raise its alarm over the 512 MiB that RabbitMQ means for larger ones.
WAL_LIMIT_BYTES = 64 * 2**20
PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus")

#: Two schedulers, no spinning, and the ports between Erlang nodes on the loopback interface only.
_ERLANG_SERVER = "+S 2:2 +SDcpu 1:1 +SDio 4 +sbwt none +sbwtdcpu none +sbwtdio none"
#: RabbitMQ 4.3 reads the limit of the log of quorum queues from here and no longer from `raft.*`;
#: its name in `rabbitmq.conf` is one that earlier versions refuse.
_ERLANG_WAL = f"-rabbit quorum_wal_max_size_bytes {WAL_LIMIT_BYTES}"
_ERLANG_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAddress:
    """Where a private node is: its names, ports and folder."""

    nodename: str
    amqp_port: int
    management_port: int
    prometheus_port: int
    distribution_port: int
    epmd_port: int
    folder: str
    """The node's own folder, as seen from inside its root."""


def write_files(
    root: RabbitMQRoot,
    address: NodeAddress,
    *,
    config: Sequence[str],
    advanced: str | None,
    plugins: Sequence[str],
    cookie: str | None = None,
) -> None:
    """Make the node's folder and put its configuration there.

    Args:
        root: The installation that will run the node.
        address: The node's names and ports.
        config: Further lines for `rabbitmq.conf`; they win over ours.
        advanced: The text of `advanced.config`, or None.
        plugins: The plugins to enable.
        cookie: The secret that the nodes of a cluster share; by default the node gets one of its own.
    """
    folder = root.outside(address.folder)
    for name in ("data", "log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = _defaults(address)
    lines.update(_setting(line) for line in config)
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    (folder / "rabbitmq.conf").write_text(text)
    (folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    if advanced is not None:
        (folder / "advanced.config").write_text(advanced)
    secret = folder / ".erlang.cookie"
    if not secret.exists():
        secret.write_text(cookie or new_cookie())
        secret.chmod(0o400)


def new_cookie() -> str:
    """Return a secret by which Erlang nodes know each other."""
    return secrets.token_hex(10).upper()


def _defaults(address: NodeAddress) -> dict[str, str]:
    return {
        "listeners.tcp.1": f"127.0.0.1:{address.amqp_port}",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": str(address.management_port),
        "prometheus.tcp.ip": "127.0.0.1",
        "prometheus.tcp.port": str(address.prometheus_port),
        "default_user": USER,
        "default_pass": PASSWORD,
        "default_user_tags.administrator": "true",
        "vm_memory_high_watermark.absolute": MEMORY_LIMIT,
        "disk_free_limit.absolute": DISK_LIMIT,
        # Counts that the management API shows are at most this old, in milliseconds.
        "collect_statistics_interval": "1000",
        "management.sample_retention_policies.global.minute": "5",
        "management.sample_retention_policies.basic.minute": "5",
        "management.sample_retention_policies.detailed.10": "5",
        "raft.wal_max_size_bytes": str(WAL_LIMIT_BYTES),
        "log.file": "rabbit.log",
    }


def _setting(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals:
        raise ValueError(f"not a line of rabbitmq.conf: {line!r}")
    return key.strip(), value.strip()


def environment(address: NodeAddress) -> dict[str, str]:
    """Return the whole environment of the server and of its command line tools."""
    folder = address.folder
    return {
        "HOME": folder,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        # A node that cannot start must not write its whole memory into the current folder.
        "ERL_CRASH_DUMP_SECONDS": "0",
        "ERL_EPMD_PORT": str(address.epmd_port),
        "RABBITMQ_NODENAME": address.nodename,
        # Whatever the system's own files say must not reach a private node.
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
        "RABBITMQ_MNESIA_BASE": f"{folder}/data",
        "RABBITMQ_LOG_BASE": f"{folder}/log",
        "RABBITMQ_DIST_PORT": str(address.distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_ERLANG_SERVER} {_ERLANG_LOOPBACK} {_ERLANG_WAL}",
        "RABBITMQ_CTL_ERL_ARGS": f"+S 1:1 {_ERLANG_LOOPBACK}",
        # The launch script then becomes the server instead of waiting for it, so that the process
        # we start is the one to kill.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def epmd_launch(root: RabbitMQRoot, address: NodeAddress) -> Launch:
    """Return what to start for the register of ports that the nodes of one epmd find each other by."""
    return _launch(root, address, "epmd", "-port", str(address.epmd_port), "-address", "127.0.0.1")


def server_launch(root: RabbitMQRoot, address: NodeAddress) -> Launch:
    """Return what to start for the server itself."""
    return _launch(root, address, f"{root.scripts}/rabbitmq-server", output="server.out")


def _launch(
    root: RabbitMQRoot, address: NodeAddress, *argv: str, output: str = "epmd.out"
) -> Launch:
    path = root.outside(address.folder) / output
    return Launch(argv=root.argv(*argv), env=environment(address), output=str(path))


def logs(root: RabbitMQRoot, address: NodeAddress) -> str:
    """Return the first and last lines of what the node printed and logged, for a failure message."""
    folder = root.outside(address.folder)
    shown: list[str] = []
    for path in (folder / "server.out", *sorted((folder / "log").glob("*.log"))):
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            # The cause stands first, a crash report of many lines after it.
            middle = [] if len(lines) <= 40 else ["…"]
            shown += [f"--- {path}", *lines[:20], *middle, *lines[20:][-20:]]
    return "\n".join(shown)
