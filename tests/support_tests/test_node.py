"""The private RabbitMQ nodes, on each installation."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pika
import psutil
import pytest

from support.eventually import eventually, eventually_blocking
from support.handshake import server_version
from support.management import ManagementError
from support.process import wait_gone_blocking
from support.rabbitmq import Node, NodeFailed, RabbitMQRoot, Server, ToolError, vhost_of

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def publish(url: str, queue: str, *bodies: bytes) -> None:
    """Publish persistent messages, each confirmed."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        for body in bodies:
            channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)


def get(url: str, queue: str) -> bytes | None:
    """Take one message off a queue."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        body: bytes | None = connection.channel().basic_get(queue, auto_ack=True)[2]
        return body


async def test_a_confirmed_message_survives_the_kill_of_the_node(
    private_node: Node, private_amqp_url: str
) -> None:
    """A persistent, confirmed message is there after SIGKILL and start, at the same address."""
    publish(private_amqp_url, "q", b"precious")
    before = private_node.blocking.pid

    await private_node.kill()
    assert server_version("127.0.0.1", private_node.blocking.address.amqp_port) is None
    wait_gone_blocking(before)
    await private_node.start()

    assert private_node.blocking.pid != before
    assert get(private_amqp_url, "q") == b"precious"


async def test_a_killed_node_begins_anew_for_the_next_test(
    private_node: Node, private_amqp_url: str
) -> None:
    """What a killed node forgot stays with its test; one that was not killed keeps its data."""
    publish(private_amqp_url, "q", b"kept", b"gone")
    private_node.blocking.mend()
    assert get(private_amqp_url, "q") == b"kept"

    await private_node.kill()
    private_node.blocking.mend()
    with pytest.raises(ManagementError):
        private_node.blocking.management.queues(vhost_of(private_amqp_url))
    fresh = await private_node.vhost("fresh")
    publish(fresh, "q", b"works")
    assert get(fresh, "q") == b"works"


@pytest.mark.slow
async def test_a_restart_keeps_messages(private_node: Node, private_amqp_url: str) -> None:
    """An orderly restart keeps data and addresses; the next test gets the node anew."""
    publish(private_amqp_url, "q", b"kept")
    await private_node.restart()
    assert get(private_amqp_url, "q") == b"kept"
    private_node.blocking.mend()
    with pytest.raises(ManagementError):
        private_node.blocking.management.queues(vhost_of(private_amqp_url))


@pytest.mark.parametrize("alarm", ["memory", "disk"])
async def test_an_alarm_blocks_a_publisher_until_it_is_cleared(
    private_node: Node, private_amqp_url: str, alarm: str
) -> None:
    """While an alarm is on a publisher gets no confirm, and is told that it is blocked."""
    switch = private_node.set_memory_alarm if alarm == "memory" else private_node.set_disk_alarm
    said: list[str] = []
    confirmed = threading.Event()
    connection = pika.BlockingConnection(pika.URLParameters(private_amqp_url))
    connection.add_on_connection_blocked_callback(lambda *_: said.append("blocked"))
    connection.add_on_connection_unblocked_callback(lambda *_: said.append("unblocked"))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)

    def publish_one() -> None:
        channel.basic_publish("", "q", b"x", PERSISTENT)
        confirmed.set()

    await switch(on=True)
    await eventually(lambda: in_alarm(private_node))
    publisher = threading.Thread(target=publish_one)
    publisher.start()
    assert not confirmed.wait(0.5)

    await switch(on=False)
    await eventually(confirmed.is_set, hint="confirmed")
    publisher.join()
    while said != ["blocked", "unblocked"]:
        connection.process_data_events(time_limit=1)
    connection.close()


def in_alarm(node: Node) -> bool:
    """Whether the node itself says that an alarm is on."""
    try:
        node.blocking.management.request("GET", "health/checks/alarms")
    except ManagementError as error:
        return error.status == 503
    return False


@pytest.mark.slow
async def test_two_nodes_run_side_by_side(rabbitmq_root: RabbitMQRoot) -> None:
    """Nodes share nothing: not ports, not data, not epmd; each leaves nothing behind."""
    async with Node.of(rabbitmq_root) as one, Node.of(rabbitmq_root) as two:
        nodes = (one.blocking, two.blocking)
        for node, text in zip(nodes, (b"one", b"two"), strict=True):
            publish(node.url, "q", text)
        assert [get(node.url, "q") for node in nodes] == [b"one", b"two"]
        assert one.version.startswith(rabbitmq_root.name)
        pids = [node.pid for node in nodes]
        for node in nodes:
            listening = {
                each.laddr.ip
                for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children(True))
                for each in process.net_connections("tcp")
                if each.status == psutil.CONN_LISTEN
            }
            assert listening == {"127.0.0.1"}
    for pid, node in zip(pids, nodes, strict=True):
        wait_gone_blocking(pid)
        assert not node.folder.exists()
        assert server_version("127.0.0.1", node.address.amqp_port) is None


@pytest.mark.slow
async def test_a_node_takes_configuration(rabbitmq_root: RabbitMQRoot) -> None:
    """Further lines of rabbitmq.conf and an advanced.config reach the node."""
    advanced = "[{rabbit, [{channel_max, 17}]}]."
    async with Node.of(rabbitmq_root, config=["consumer_timeout = 123456"], advanced=advanced) as n:
        assert "123456" in await n.ctl("eval", "application:get_env(rabbit, consumer_timeout).")
        assert "17" in await n.ctl("eval", "application:get_env(rabbit, channel_max).")


@pytest.mark.slow
async def test_a_node_that_cannot_start_says_why(rabbitmq_root: RabbitMQRoot) -> None:
    """A wrong configuration fails at once, with the server's own words, and leaves nothing."""
    node = Node.of(rabbitmq_root, config=["no_such_setting = 1"])
    with pytest.raises(NodeFailed, match="no_such_setting"):
        await node.start()
    await node.close()
    assert not node.blocking.folder.exists()


async def test_a_frozen_node_answers_again_when_thawed(private_node: Node) -> None:
    """A suspended server accepts no handshake; afterwards it does."""
    port = private_node.blocking.address.amqp_port
    private_node.freeze()
    assert server_version("127.0.0.1", port, timeout_s=0.3) is None
    private_node.thaw()
    assert server_version("127.0.0.1", port) == private_node.version


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_process_that_started_a_node(
    rabbitmq_root: RabbitMQRoot, how: signal.Signals, tmp_path: Path
) -> None:
    """However its owner ends, the server, its epmd and its folder are gone soon after."""
    repository = Path(__file__).resolve().parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.support.node", rabbitmq_root.name],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("amqp://")
    tree = psutil.Process(owner.pid).children(recursive=True)
    assert any("beam" in process.name() for process in tree)
    assert any("epmd" in process.name() for process in tree)

    os.kill(owner.pid, how)
    owner.wait(10)
    owner.stdout.close()

    for process in tree:
        wait_gone_blocking(process.pid)
    folders = rabbitmq_root.outside("/tmp")
    mine = f"taskyard-node-{owner.pid}-*"
    eventually_blocking(lambda: not list(folders.glob(mine)), hint="folder removed")


def test_virtual_hosts_are_separate(amqp_url: str, rabbitmq_node: Server) -> None:
    """Each test has a virtual host of its own, named after it, with every permission."""
    assert vhost_of(amqp_url).startswith("test_virtual_hosts_are_separate-rabbitmq-")
    publish(amqp_url, "q", b"1", b"2", b"3")
    other = rabbitmq_node.blocking.vhost("other")
    publish(other, "q", b"elsewhere")

    assert get(amqp_url, "q") == b"1"
    rabbitmq_node.blocking.purge_queue(amqp_url, "q")
    assert get(amqp_url, "q") is None
    rabbitmq_node.blocking.delete_queue(amqp_url, "q")
    assert get(other, "q") == b"elsewhere"

    rabbitmq_node.blocking.delete_vhost(other)
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        publish(other, "q", b"gone")


async def test_the_server_can_close_connections(amqp_url: str, rabbitmq_node: Server) -> None:
    """A client's connection can be closed from the server's side."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    closed = 0
    until = time.monotonic() + 15
    # The management API learns of a connection with its next statistics.
    while not closed and time.monotonic() < until:
        closed = await rabbitmq_node.close_connections(amqp_url)
    assert closed == 1
    with pytest.raises(pika.exceptions.AMQPError):
        connection.channel()


async def test_a_tool_that_fails_says_what_it_said(private_node: Node) -> None:
    """`ctl` returns the output of the tools, and raises with it when they fail."""
    assert await private_node.ctl("status", tool="rabbitmq-diagnostics")
    with pytest.raises(ToolError, match="no_such_command"):
        await private_node.ctl("no_such_command")
