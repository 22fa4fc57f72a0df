"""Run a private RabbitMQ node in the foreground, for development: `python -m tests.support.node 4.3`.

Prints its AMQP URL, then its management URL, and ends the node when it is itself ended.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

# `support` is importable in tests because their folder is on the path; here it is not yet.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    """Start the node that the command line names and wait for SIGTERM or SIGINT."""
    from support.blocking_node import BlockingNode
    from support.roots import find_root

    parser = argparse.ArgumentParser(prog="python -m tests.support.node", description=__doc__)
    parser.add_argument("root", help="the installation: a name such as 4.3, or `system`")
    parser.add_argument("--config", action="append", default=[], help="a line of rabbitmq.conf")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(0))
    try:
        root = find_root(options.root)
    except (LookupError, ValueError) as error:
        parser.error(str(error))
    node = BlockingNode(root, config=options.config)
    try:
        node.start()
        print(node.url, node.management_url, sep="\n", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        return 130
    finally:
        node.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
