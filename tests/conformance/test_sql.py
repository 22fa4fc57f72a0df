"""The `sql` adapter passes the conformance suite, each test on a database file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from taskyard.shared.broker import Broker
from taskyard.shared.brokers import connect
from taskyard.shared.conformance import BrokerSuite, Harness


class SqlHarness(Harness):
    """Handles on one SQLite file; a killed one leaves its leases behind, and its lock falls."""

    lateness_s = 1.5  # beside other tests; the figures of an idle broker are measured elsewhere

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._url = f"sqlite:///{path}"

    def make(self) -> Broker:
        return connect(self._url)


class TestSql(BrokerSuite):
    """The suite on SQLite (LQ-22, LQ-23)."""

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[Harness]:
        harness = SqlHarness(tmp_path / "broker.db")
        yield harness
        await harness.close()
