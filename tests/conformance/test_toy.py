"""A toy of an adapter passes the suite, which demands its refusals in words (LQ-22)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from conformance.toy import ToyBroker, ToyServer
from taskyard.shared.broker import Broker
from taskyard.shared.conformance import BrokerSuite, Harness


class ToyHarness(Harness):
    """Handles on one toy server."""

    calm_s = 0.01

    def __init__(self) -> None:
        super().__init__()
        self._server = ToyServer()

    def make(self) -> Broker:
        return ToyBroker(self._server)


class TestToy(BrokerSuite):
    """The suite on the toy."""

    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        harness = ToyHarness()
        yield harness
        await harness.close()
