"""The fixtures of every integration test. All are synchronous, so that any test may use them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from support.blocking_node import BlockingNode
from support.broker import BrokerUnderTest
from support.cluster import Cluster
from support.process import Program
from support.rabbitmq import Node, Server
from support.roots import RabbitMQRoot
from support.server import BlockingServer, given_server
from support.shared_node import SharedNodes
from support.targets import MANAGEMENT_VARIABLE, Target, refuse_absent


class StartTaskyard(Protocol):
    """Start a `taskyard` command; it is ended with the test."""

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Program: ...


def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all workers of the test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def shared_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedNodes]:
    """The nodes that all workers of the test run share."""
    nodes = SharedNodes(run_folder(tmp_path_factory))
    yield nodes
    nodes.release()


@pytest.fixture(scope="session")
def private_nodes() -> Iterator[Callable[[RabbitMQRoot], BlockingNode]]:
    """One node per root for the tests of this process that break it, one after another."""
    nodes: dict[str, BlockingNode] = {}

    def node(root: RabbitMQRoot) -> BlockingNode:
        if root.name not in nodes:
            nodes[root.name] = BlockingNode(root)
        nodes[root.name].mend()
        return nodes[root.name]

    yield node
    for each in nodes.values():
        each.close()


@pytest.fixture(scope="session")
def rabbitmq_target(request: pytest.FixtureRequest) -> Target:
    """The server that this run of the test is for."""
    target: Target = request.param
    refuse_absent(target)
    return target


@pytest.fixture(scope="session")
def private_target(request: pytest.FixtureRequest) -> Target:
    """The installation that this run of the test is for."""
    target: Target = request.param
    refuse_absent(target)
    return target


@pytest.fixture(scope="session")
def broker_target(request: pytest.FixtureRequest) -> Target:
    """The broker that this run of the test is for."""
    target: Target = request.param
    refuse_absent(target)
    return target


@pytest.fixture(scope="session")
def rabbitmq_node(rabbitmq_target: Target, shared_nodes: SharedNodes) -> Server:
    """A RabbitMQ server, once per installation; shared, so leave it as it is."""
    return Server(_server(rabbitmq_target, shared_nodes))


@pytest.fixture
def amqp_url(rabbitmq_node: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh virtual host, named after the test and deleted after it."""
    yield from _fresh_vhost(rabbitmq_node.blocking, request)


@pytest.fixture(scope="session")
def rabbitmq_root(private_target: Target) -> RabbitMQRoot:
    """An installation, for tests that start nodes of their own (`Node.of`)."""
    assert private_target.root is not None
    return private_target.root


@pytest.fixture
def private_node(
    rabbitmq_root: RabbitMQRoot, private_nodes: Callable[[RabbitMQRoot], BlockingNode]
) -> Node:
    """A running node without alarms that this test may kill, fill or freeze."""
    return Node(private_nodes(rabbitmq_root))


@pytest.fixture
def private_amqp_url(private_node: Node, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh virtual host on `private_node`."""
    yield from _fresh_vhost(private_node.blocking, request)


@pytest.fixture
def broker_url(
    broker_target: Target, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[BrokerUnderTest]:
    """A fresh broker, on SQLite and on each RabbitMQ; private in tests marked `breaks_broker`.

    In attacks in full that are marked `on_cluster` the newest RabbitMQ is three nodes.
    """
    if broker_target.kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'broker.db'}"
        yield BrokerUnderTest(url=url, kind="sqlite", version=sqlite3.sqlite_version)
        return
    if broker_target.kind == "cluster":
        yield from _on_cluster(_cluster_of(broker_target, request), request)
        return
    node: BlockingNode | None = None
    if request.node.get_closest_marker("breaks_broker") and broker_target.root is not None:
        node = request.getfixturevalue("private_nodes")(broker_target.root)
    server = node or _server(broker_target, request.getfixturevalue("shared_nodes"))
    for url in _fresh_vhost(server, request):
        yield BrokerUnderTest(
            url=url,
            kind="rabbitmq",
            version=server.version,
            management_url=server.management_url,
            node=node,
        )


@pytest.fixture(scope="session")
def cluster_target(request: pytest.FixtureRequest) -> Target:
    """The installation that this run of the test makes a cluster of."""
    target: Target = request.param
    refuse_absent(target)
    return target


@pytest.fixture(scope="module")
def clusters() -> Iterator[Callable[[RabbitMQRoot], Cluster]]:
    """One cluster per root for the tests of a module; three nodes are too many to keep for longer."""
    made: dict[str, Cluster] = {}

    def cluster(root: RabbitMQRoot) -> Cluster:
        if root.name not in made:
            made[root.name] = Cluster(root)
        made[root.name].mend()
        return made[root.name]

    yield cluster
    for each in made.values():
        each.close()


@pytest.fixture
def cluster(cluster_target: Target, clusters: Callable[[RabbitMQRoot], Cluster]) -> Cluster:
    """Three running nodes that are one broker, for this test to kill."""
    assert cluster_target.root is not None
    return clusters(cluster_target.root)


@pytest.fixture
def cluster_broker(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    """A fresh virtual host on a cluster, by a URL with all of its nodes."""
    yield from _on_cluster(cluster, request)


@pytest.fixture
def taskyard(tmp_path: Path) -> Iterator[StartTaskyard]:
    """Start `taskyard` commands; whatever still runs is ended with the test."""
    programs: list[Program] = []

    def start(
        *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Program:
        log = tmp_path / f"taskyard-{len(programs) + 1}.log"
        programs.append(Program.taskyard(*arguments, log=log, env=env, cwd=cwd))
        return programs[-1]

    yield start
    for program in programs:
        program.close()
        # Shown by pytest only when the test has failed.
        print(f"--- {' '.join(program.argv)} → {program.exit_code}", program.output, sep="\n")


def _cluster_of(target: Target, request: pytest.FixtureRequest) -> Cluster:
    assert target.root is not None
    clusters: Callable[[RabbitMQRoot], Cluster] = request.getfixturevalue("clusters")
    return clusters(target.root)


def _on_cluster(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[BrokerUnderTest]:
    url = cluster.vhost(request.node.name)
    yield BrokerUnderTest(
        url=url,
        kind="rabbitmq",
        version=cluster.version,
        management_url=cluster.members[0].management_url,
        cluster=cluster,
    )
    cluster.mend()
    cluster.delete_vhost(url)


def _server(target: Target, shared: SharedNodes) -> BlockingServer:
    if target.root is not None:
        return shared.use(target.root)
    return given_server(target.url, os.environ.get(MANAGEMENT_VARIABLE))


def _fresh_vhost(server: BlockingServer, request: pytest.FixtureRequest) -> Iterator[str]:
    if server.management_url is None:
        # A server that the user gave, without its management API: its own virtual host must do.
        yield server.url
        return
    url = server.vhost(request.node.name)
    yield url
    if isinstance(server, BlockingNode):
        server.mend()
    server.delete_vhost(url)
