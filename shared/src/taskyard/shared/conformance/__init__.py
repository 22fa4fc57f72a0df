"""The conformance suite of the `Broker` port: what every adapter must pass, with its real server.

Subclass `BrokerSuite` in a test module and give it a fixture `harness` that returns a `Harness`
(and `BlockedSuite` where the broker can be made to refuse publishes). Needs pytest and
pytest-asyncio. What an adapter refuses is tested too: it must refuse in words.
"""

from __future__ import annotations

import pkgutil

import pytest

# The suite's asserts are to explain themselves in the adapter's test run as its own do.
pytest.register_assert_rewrite(
    *(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
)

from taskyard.shared.conformance.blocking import BlockedSuite  # noqa: E402
from taskyard.shared.conformance.consuming import Consuming  # noqa: E402
from taskyard.shared.conformance.control import ControlLog  # noqa: E402
from taskyard.shared.conformance.crash import Deaths  # noqa: E402
from taskyard.shared.conformance.delays import Delays  # noqa: E402
from taskyard.shared.conformance.draining import Draining  # noqa: E402
from taskyard.shared.conformance.feed import Feeding  # noqa: E402
from taskyard.shared.conformance.harness import Harness  # noqa: E402
from taskyard.shared.conformance.locks import Locks  # noqa: E402
from taskyard.shared.conformance.parking import ParkingLots  # noqa: E402
from taskyard.shared.conformance.publishing import Publishing  # noqa: E402
from taskyard.shared.conformance.replies import Replies  # noqa: E402
from taskyard.shared.conformance.settling import Settling  # noqa: E402
from taskyard.shared.conformance.setup import Setup  # noqa: E402
from taskyard.shared.conformance.stats import Numbers  # noqa: E402

__all__ = ["BlockedSuite", "BrokerSuite", "Harness"]


class BrokerSuite(
    Publishing,
    Consuming,
    Settling,
    Delays,
    ParkingLots,
    ControlLog,
    Draining,
    Feeding,
    Locks,
    Replies,
    Numbers,
    Setup,
    Deaths,
):
    """Every room of the suite; an adapter's test class derives from it."""
