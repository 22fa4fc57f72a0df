"""Which process sends: what a job carries of its origin."""

from __future__ import annotations

import os
import socket


def origin() -> str:
    """Return `host:pid` of this process; to be asked once, and again after a fork."""
    return f"{socket.gethostname()}:{os.getpid()}"
