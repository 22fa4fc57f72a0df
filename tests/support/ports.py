"""Free TCP ports on 127.0.0.1, reserved across the processes of a parallel test run.

A port is chosen below the range that the kernel gives to outgoing connections, so that a server
which is killed and started again finds its port still free.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

#: Below 32768, where Linux starts to hand out ports to outgoing connections.
LOWEST_PORT = 20_000
HIGHEST_PORT = 32_000

_reserved: dict[int, int] = {}


def free_port() -> int:
    """Reserve one port until this process ends.

    Returns:
        The number of a TCP port on which nothing listens and which no other process has reserved.

    Raises:
        RuntimeError: No port of the range is free.
    """
    chooser = random.SystemRandom()
    for _ in range(2_000):
        port = chooser.randrange(LOWEST_PORT, HIGHEST_PORT)
        if port not in _reserved and _reserve(port):
            return port
    raise RuntimeError(f"no free TCP port between {LOWEST_PORT} and {HIGHEST_PORT}")


def free_ports(count: int) -> list[int]:
    """Reserve `count` different ports until this process ends."""
    return [free_port() for _ in range(count)]


def _reserve(port: int) -> bool:
    folder = Path(tempfile.gettempdir()) / f"taskyard-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # The lock goes with the process, however it ends; the empty file stays and is used again.
    lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError:
        os.close(lock)
        return False
    _reserved[port] = lock
    return True
