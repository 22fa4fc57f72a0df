"""Keep one RabbitMQ node for all the processes of a test run, and end it when the last is gone.

Run as a script by `shared_node`: the name of the root, and the folder that the run shares. Every
user of the node holds a shared lock on `<root>.users`, which the kernel releases however the user
ends; this process waits for the exclusive lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

# Started by path, so that it needs nothing of its starter's import path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    """Start the node, say where it is, and wait until nobody uses it."""
    from support.blocking_node import BlockingNode
    from support.roots import find_root

    name, folder = sys.argv[1], Path(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    state = folder / f"{name}.json"
    node = BlockingNode(find_root(name))
    try:
        node.start()
        draft = state.with_suffix(".draft")
        draft.write_text(
            json.dumps(
                {"keeper": os.getpid(), "version": node.version, "address": asdict(node.address)}
            )
        )
        draft.replace(state)
        with (folder / f"{name}.users").open("w") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            state.unlink()
            # Whoever comes next waits for this lock, finds no state and starts another node.
            node.close()
    finally:
        node.close()
        state.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
