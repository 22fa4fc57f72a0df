"""On which servers a test runs: decided when tests are collected, from what the machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from support.roots import ROOTS_VARIABLE, RabbitMQRoot, installed_roots

URL_VARIABLE = "TASKYARD_TEST_AMQP_URL"
MANAGEMENT_VARIABLE = "TASKYARD_TEST_MANAGEMENT_URL"
#: Set, clusters are made of every installation, and not of the newest alone: each takes minutes.
CLUSTERS_VARIABLE = "TASKYARD_TEST_ALL_CLUSTERS"

ABSENT = "RabbitMQ is not installed here, so this was not tested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one run of a test happens."""

    kind: Literal["sqlite", "node", "cluster", "given", "absent"]
    root: RabbitMQRoot | None = None
    url: str = ""

    @property
    def id(self) -> str:
        """What stands in the test's name."""
        if self.kind == "sqlite":
            return "sqlite"
        name = f"rabbitmq-{self.root.name if self.root else self.kind}"
        return f"{name}-cluster" if self.kind == "cluster" else name

    def of_three(self) -> Target:
        """Return a cluster of this installation in place of one node."""
        return replace(self, kind="cluster") if self.kind == "node" else self


def rabbitmq_targets(*, private: bool) -> list[Target]:
    """List the RabbitMQ servers to test on.

    Args:
        private: The test breaks its server, so a server that the user gave by URL will not do.
    """
    url = os.environ.get(URL_VARIABLE)
    if url and not private:
        return [Target(kind="given", url=url)]
    roots = [Target(kind="node", root=root) for root in installed_roots()]
    return roots or [Target(kind="absent")]


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Give a test that uses our fixtures one run per server."""
    breaks = metafunc.definition.get_closest_marker("breaks_broker") is not None
    embedded = metafunc.definition.get_closest_marker("server_only") is None
    # Three nodes and minutes: what runs with every change has one.
    attacked = "chaos" in metafunc.config.getoption("markexpr")
    on_cluster = attacked and metafunc.definition.get_closest_marker("on_cluster") is not None
    for fixture, sqlite, private in (
        ("rabbitmq_target", False, False),
        ("private_target", False, True),
        ("broker_target", embedded, breaks),
        ("cluster_target", False, True),
    ):
        if fixture in metafunc.fixturenames:
            targets = rabbitmq_targets(private=private)
            if fixture == "cluster_target" and not os.environ.get(CLUSTERS_VARIABLE):
                targets = targets[-1:]
            if fixture == "broker_target" and on_cluster:
                targets = [*targets[:-1], targets[-1].of_three()]
            params = [
                pytest.param(target, id=target.id, marks=pytest.mark.rabbitmq) for target in targets
            ]
            if sqlite:
                params.insert(0, pytest.param(Target(kind="sqlite"), id="sqlite"))
            metafunc.parametrize(fixture, params, indirect=True, scope="session")


def refuse_absent(target: Target) -> None:
    """Skip a test whose server is not installed; fail it where `CI` is set."""
    if target.kind == "absent":
        words = f"{ABSENT}; install rabbitmq-server, or set {URL_VARIABLE} or {ROOTS_VARIABLE}"
        if os.environ.get("CI"):
            pytest.fail(words, pytrace=False)
        pytest.skip(words)


def describe() -> str:
    """Return a line on the servers, for the head of the report."""
    if url := os.environ.get(URL_VARIABLE):
        return f"RabbitMQ: {url.rpartition('@')[2]} (given)"
    found = [f"{root.name} ({root.folder or 'system'})" for root in installed_roots()]
    return f"RabbitMQ: {', '.join(found) or 'none'}"
