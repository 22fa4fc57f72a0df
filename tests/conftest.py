"""What every test may use: the fixtures of `tests/support`, and how they choose their servers."""

from __future__ import annotations

import pytest

from support import targets
from support.fixtures import (
    amqp_url,
    broker_target,
    broker_url,
    cluster,
    cluster_broker,
    cluster_target,
    clusters,
    private_amqp_url,
    private_node,
    private_nodes,
    private_target,
    rabbitmq_node,
    rabbitmq_root,
    rabbitmq_target,
    shared_nodes,
    taskyard,
)

__all__ = [
    "amqp_url",
    "broker_target",
    "broker_url",
    "cluster",
    "cluster_broker",
    "cluster_target",
    "clusters",
    "private_amqp_url",
    "private_node",
    "private_nodes",
    "private_target",
    "rabbitmq_node",
    "rabbitmq_root",
    "rabbitmq_target",
    "shared_nodes",
    "taskyard",
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "breaks_broker: kills, restarts or fills its broker: gets a private one"
    )
    config.addinivalue_line(
        "markers", "on_cluster: in full, the newest RabbitMQ is a cluster of three nodes"
    )
    config.addinivalue_line("markers", "server_only: means nothing on an embedded broker")


def pytest_report_header() -> str:
    return targets.describe()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    targets.parametrize(metafunc)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud that a whole side of the product went untested."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if targets.ABSENT in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.section("NOT TESTED ON RABBITMQ", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests: {targets.ABSENT}.", red=True, bold=True)
