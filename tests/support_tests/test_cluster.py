"""The three-node cluster, on each installation: what the attacks on it stand on."""

from __future__ import annotations

import contextlib
import os

import pika
import pytest

from support.broker import BrokerUnderTest
from support.cluster import SIZE, Cluster, Member
from support.eventually import NeverHappened, eventually_blocking
from support.handshake import server_version
from support.server import vhost_of

pytestmark = [pytest.mark.slow, pytest.mark.system]

QUORUM = {"x-queue-type": "quorum"}


def connect(member: Member, url: str) -> pika.BlockingConnection:
    """Connect to one node."""
    return pika.BlockingConnection(pika.URLParameters(member.url_of(vhost_of(url))))


def put(cluster: Cluster, url: str, body: bytes) -> None:
    """Publish to a replicated queue through the first node that runs; confirmed."""
    with contextlib.closing(connect(cluster.running[0], url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("q", durable=True, arguments=QUORUM)
        channel.basic_publish("", "q", body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def take(cluster: Cluster, url: str) -> bytes | None:
    """Take a message through the last node that runs."""
    with contextlib.closing(connect(cluster.running[-1], url)) as connection:
        body: bytes | None = connection.channel().basic_get("q", auto_ack=True)[2]
        return body


def test_the_nodes_are_one_broker(cluster: Cluster, cluster_broker: BrokerUnderTest) -> None:
    """What one node takes another gives; the URL names all of them, on loopback only."""
    put(cluster, cluster_broker.url, b"shared")
    assert take(cluster, cluster_broker.url) == b"shared"
    assert cluster_broker.url.count("127.0.0.1:") == SIZE
    assert len({member.address.nodename for member in cluster.members}) == SIZE


def test_another_leads_when_the_leader_is_killed(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """While the leader is dead the others have its queue; started again it is one of them, and
    the next one can die.
    """
    url = cluster_broker.url
    put(cluster, url, b"precious")
    first = cluster.leader(url, "q")
    pid = first.pid
    first.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert server_version("127.0.0.1", first.address.amqp_port) is None
    with pytest.raises(NeverHappened, match="a healthy cluster"):
        cluster.wait_healthy(within=0.5)

    second = eventually_blocking(lambda: cluster.leader(url, "q"), within=30)
    assert second is not first
    put(cluster, url, b"more")
    first.start()
    cluster.wait_healthy()
    assert cluster.kill_leader(url, "q") is second
    assert first.is_running
    assert {take(cluster, url), take(cluster, url)} == {b"precious", b"more"}


def test_a_stopped_node_comes_back(cluster: Cluster, cluster_broker: BrokerUnderTest) -> None:
    """An orderly stop and start of any node leaves the cluster whole."""
    put(cluster, cluster_broker.url, b"kept")
    member = cluster.members[1]
    member.stop()
    assert cluster.running == [cluster.members[0], cluster.members[2]]
    cluster.mend()
    assert len(cluster.running) == SIZE
    assert take(cluster, cluster_broker.url) == b"kept"
