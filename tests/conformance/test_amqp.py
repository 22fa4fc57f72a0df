"""The `amqp` adapter passes the conformance suite on each RabbitMQ that is installed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from support.ports import free_port
from support.rabbitmq import Node, Server
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.broker import Broker, BrokerOptions
from taskyard.shared.brokers import connect
from taskyard.shared.conformance import BlockedSuite, BrokerSuite, Harness
from taskyard.shared.conformance.setup import Setup
from taskyard.shared.conformance.stats import Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where tests work: setting a whole topology up takes a second, so they share two."""

    plain: str
    with_ledger: str
    management: str | None


class AmqpHarness(Harness):
    """Handles on one virtual host, or on its twin where a ledger's feed exists."""

    lateness_s = 1.5  # beside other tests; the figures of an idle broker are measured elsewhere
    patience_s = 20.0

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places
        self._url = places.plain

    def make(self) -> Broker:
        return connect(self._url, BrokerOptions(management_url=self._places.management))

    async def kill(self, handle: Broker) -> None:
        # What was acknowledged is on its way, and lost if the connection is reset at once: wait
        # until the broker has read it.
        assert isinstance(handle, AmqpBroker)
        link = handle.core.reader_link
        if link is not None and link.connected:
            await (await link.channel()).close()
        await super().kill(handle)

    async def setup(self, queues: Sequence[str], *, ledger: bool = False) -> None:
        if ledger:
            self._url = self._places.with_ledger
        await super().setup(queues, ledger=ledger)


class AlarmHarness(AmqpHarness):
    """A node of one's own, that is made to believe that its memory is full."""

    def __init__(self, node: Node, places: Places) -> None:
        super().__init__(places)
        self._node = node

    async def block(self) -> None:
        await self._node.set_memory_alarm(on=True)

    async def unblock(self) -> None:
        await self._node.set_memory_alarm(on=False)


@pytest.fixture(scope="module")
def places(rabbitmq_node: Server) -> Iterator[Places]:
    """Two virtual hosts for all tests of this module on one server."""
    server = rabbitmq_node.blocking
    both = Places(
        plain=server.vhost("suite"),
        with_ledger=server.vhost("suite-ledger"),
        management=server.management_url,
    )
    yield both
    server.delete_vhost(both.plain)
    server.delete_vhost(both.with_ledger)


class TestAmqp(BrokerSuite):
    """The suite on RabbitMQ (LQ-22, LQ-23)."""

    @pytest.fixture
    async def harness(self, places: Places) -> AsyncIterator[Harness]:
        harness = AmqpHarness(places)
        yield harness
        await harness.close()


class TestAmqpWithoutManagement(Setup, Numbers):
    """Set-up and numbers where nobody answers for the management API (LQ-22, BS-13)."""

    @pytest.fixture
    async def harness(self, places: Places) -> AsyncIterator[Harness]:
        nowhere = f"http://127.0.0.1:{free_port()}"
        harness = AmqpHarness(replace(places, management=nowhere))
        yield harness
        await harness.close()


class TestAmqpUnderAlarm(BlockedSuite):
    """RabbitMQ with a memory alarm (LQ-22, LQ-23)."""

    @pytest.fixture
    async def harness(self, private_node: Node, private_amqp_url: str) -> AsyncIterator[Harness]:
        url = private_amqp_url
        places = Places(plain=url, with_ledger=url, management=private_node.management_url)
        harness = AlarmHarness(private_node, places)
        yield harness
        await harness.unblock()
        await harness.close()
