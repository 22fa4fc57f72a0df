"""One node for all the processes of a test run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.eventually import eventually_blocking
from support.handshake import server_version
from support.rabbitmq import RabbitMQRoot
from support.shared_node import SharedNodes

OTHER = """
    import sys, time
    from pathlib import Path
    from support.rabbitmq import find_root
    from support.shared_node import SharedNodes
    nodes = SharedNodes(Path(sys.argv[2]))
    print(nodes.use(find_root(sys.argv[1])).address.amqp_port, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_processes_share_a_node_until_the_last_is_gone(
    rabbitmq_root: RabbitMQRoot, tmp_path: Path
) -> None:
    """A second process gets the same node; it ends when neither uses it, and not before.

    A process that is killed no longer uses it, and whoever comes after the end gets a new node.
    """
    command = [sys.executable, "-c", textwrap.dedent(OTHER), rabbitmq_root.name, str(tmp_path)]
    tests = Path(__file__).resolve().parents[1]
    other = subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    nodes = SharedNodes(tmp_path)
    try:
        port = nodes.use(rabbitmq_root).address.amqp_port
        assert int(other.stdout.readline()) == port
        nodes.release()
        assert server_version("127.0.0.1", port) is not None
        assert nodes.use(rabbitmq_root).address.amqp_port == port
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert server_version("127.0.0.1", port) is not None

    nodes.release()
    eventually_blocking(lambda: server_version("127.0.0.1", port) is None, hint="node ended")
    try:
        assert nodes.use(rabbitmq_root).address.amqp_port != port
    finally:
        nodes.release()
