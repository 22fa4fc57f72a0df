"""What every test may use: the fixtures of `tests/support`, and how they choose their servers."""

from __future__ import annotations

import pytest

from support import pairs, postgres_fixtures, targets
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
from support.postgres_fixtures import (
    postgres_installation,
    postgres_url,
    private_postgres,
    private_postgres_server,
    shared_postgres,
)

__all__ = [
    "amqp_url",
    "broker_target",
    "broker_url",
    "cluster",
    "cluster_broker",
    "cluster_target",
    "clusters",
    "postgres_installation",
    "postgres_url",
    "private_amqp_url",
    "private_node",
    "private_nodes",
    "private_postgres",
    "private_postgres_server",
    "private_target",
    "rabbitmq_node",
    "rabbitmq_root",
    "rabbitmq_target",
    "shared_nodes",
    "shared_postgres",
    "taskyard",
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "breaks_broker: kills, restarts or fills its broker: gets a private one"
    )
    config.addinivalue_line(
        "markers", "on_cluster: in full, the newest RabbitMQ is a cluster of three nodes"
    )
    config.addinivalue_line(
        "markers", "pairs: runs on pairs of broker and database, not on each with each"
    )
    config.addinivalue_line("markers", "server_only: means nothing on an embedded broker")


def pytest_report_header() -> list[str]:
    return [targets.describe(), postgres_fixtures.describe()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    targets.parametrize(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    pairs.thin(config, items)


def pytest_itemcollected(item: pytest.Item) -> None:
    postgres_fixtures.mark(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud that a whole side of the product went untested."""
    for server, absent in (("RABBITMQ", targets.ABSENT), ("POSTGRESQL", postgres_fixtures.ABSENT)):
        skipped = [
            report
            for report in terminalreporter.stats.get("skipped", [])
            if absent in str(report.longrepr)
        ]
        if skipped:
            terminalreporter.section(f"NOT TESTED ON {server}", sep="!", red=True, bold=True)
            terminalreporter.line(f"{len(skipped)} tests: {absent}.", red=True, bold=True)
