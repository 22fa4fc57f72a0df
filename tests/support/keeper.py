"""Keep one server for all the processes of a test run, and end it when the last is gone.

Run as a script by `shared_server`: the file that says where the server is, what kind of server it
is, and which installation of it: `rabbitmq` and the name of a root, or `postgresql` and the folder
of its programs. Every user of the server holds a shared lock on the file `….users` beside, which
the kernel releases however the user ends; this process waits for the exclusive lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Protocol

# Started by path, so that it needs nothing of its starter's import path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


class Kept(Protocol):
    """A server that can be kept."""

    def start(self) -> None:
        """Start it and wait until it takes connections."""

    def close(self) -> None:
        """End it at once and remove its folder; safe to call twice."""

    def state(self) -> dict[str, Any]:
        """Return what others need to know to use it."""


def main() -> int:
    """Start the server, say where it is, and wait until nobody uses it."""
    state, kind, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    server = _server(kind, name)
    try:
        server.start()
        draft = state.with_suffix(".draft")
        draft.write_text(json.dumps({"keeper": os.getpid(), **server.state()}))
        draft.replace(state)
        with state.with_suffix(".users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            state.unlink()
            # Whoever comes next waits for this lock, finds no state and starts another server.
            server.close()
    finally:
        server.close()
        state.unlink(missing_ok=True)
    return 0


def _server(kind: str, name: str) -> Kept:
    if kind == "rabbitmq":
        from support.blocking_node import BlockingNode
        from support.roots import find_root

        return BlockingNode(find_root(name))
    from support.postgres import Postgres
    from support.postgres_installation import PostgresInstallation

    return Postgres(PostgresInstallation(folder=Path(name)))


if __name__ == "__main__":
    sys.exit(main())
