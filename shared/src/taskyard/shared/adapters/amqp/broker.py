"""The broker port on RabbitMQ. What it is made of stands in the modules beside it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.consumer import (
    EXACT_COUNTS,
    AmqpConsumer,
    longest_ttr_s,
)
from taskyard.shared.adapters.amqp.core import Core
from taskyard.shared.adapters.amqp.intake import Token
from taskyard.shared.adapters.amqp.management import LAG_S
from taskyard.shared.adapters.amqp.settler import Settler
from taskyard.shared.broker import (
    NATIVE,
    SUPPLIED,
    Blocked,
    BrokerEvent,
    BrokerOptions,
    Capabilities,
    Capability,
    Connected,
    Lost,
    Unblocked,
)
from taskyard.shared.control import DRAIN_KEY

if TYPE_CHECKING:
    import random
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )

    from taskyard.shared.adapters.amqp.draining import DrainMark
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.broker import (
        Consumer,
        ControlBatch,
        Delivery,
        FeedConsumer,
        Held,
        Inbox,
        Lease,
        Owner,
        ParkedJob,
        QueueStats,
        Receipt,
        Selection,
        Settlement,
        SettleStatus,
        SetupSpec,
    )
    from taskyard.shared.clock import Clock
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.topology import Action, Topology

_EVERY_EVENT: Final = 1000
_CLASSIC_PRIORITIES: Final = Capability(
    support="native", note="on classic queues; quorum queues of this version are first in first out"
)


class AmqpBroker:
    """RabbitMQ, from 3.10 on: see the port for what each method promises."""

    def __init__(
        self,
        url: str,
        options: BrokerOptions | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare a broker; nothing is connected before `open`.

        Raises:
            ConfigurationError: the URL or the namespace is not valid.

        """
        self.core = Core(url, options or BrokerOptions(), clock=clock, rng=rng)
        self._settler = Settler(
            self.core.publisher, self.core.names, recording=lambda: self.core.recording
        )
        self.now_ms: Callable[[], int] = self.core.clock.now_ms  # asked for each job
        self._consumers: list[AmqpConsumer] = []
        self._drain_mark: DrainMark | None = None
        self._listeners: list[asyncio.Queue[BrokerEvent | None]] = []
        self._was_connected = False
        self._was_blocked = False
        self._version: tuple[int, ...] = ()
        self.core.subscribe(self._on_event)

    # ------------------------------------------------------------ state

    @property
    def capabilities(self) -> Capabilities:
        patient = self._version >= EXACT_COUNTS
        return Capabilities(
            priorities=NATIVE if patient else _CLASSIC_PRIORITIES,
            delay=SUPPLIED,
            feed=SUPPLIED,
            control=NATIVE,
            lock=SUPPLIED,
            lease=NATIVE,
            max_ttr_s=None if patient else longest_ttr_s(self.core.options.consumer_timeout_s),
            stats_lag_s=LAG_S,
        )

    @property
    def recording(self) -> bool:
        return self.core.recording

    @property
    def connected(self) -> bool:
        return all(link.connected for link in self._links())

    @property
    def blocked(self) -> bool:
        return any(link.blocked for link in self._links())

    def _links(self) -> list[Link]:
        reader = self.core.reader_link
        return [self.core.publish_link, reader] if reader else [self.core.publish_link]

    # ------------------------------------------------------------ life

    async def open(self, *, deadline_s: float = 10.0) -> None:
        await self.core.open(deadline_s=deadline_s)
        self._version = self.core.publish_link.server_version
        self._was_connected = True

    async def close(self, *, abort: bool = False) -> None:
        for consumer in self._consumers:
            await consumer.abandon()
        self._consumers.clear()
        await self.core.close(abort=abort)
        for listener in self._listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(None)

    async def crash(self) -> None:
        """Drop all connections as a dying process would. For tests."""
        await self.close(abort=True)

    async def events(self) -> AsyncIterator[BrokerEvent]:
        listener: asyncio.Queue[BrokerEvent | None] = asyncio.Queue(_EVERY_EVENT)
        listener.put_nowait(Connected() if self.connected else Lost(self._reason()))
        if self.blocked:
            listener.put_nowait(Blocked())
        self._listeners.append(listener)
        try:
            while (event := await listener.get()) is not None:
                yield event
        finally:
            self._listeners.remove(listener)

    def _reason(self) -> str:
        return "; ".join(link.reason for link in self._links() if not link.connected)

    def _on_event(self, event: BrokerEvent) -> None:
        """Tell listeners of a change of the whole, made of its links."""
        connected, blocked = self.connected, self.blocked
        if connected and not self._was_connected:
            self._version = self.core.publish_link.server_version
            self._tell(Connected())
        elif not connected and self._was_connected:
            self._tell(Lost(event.reason if isinstance(event, Lost) else self._reason()))
        if blocked and not self._was_blocked:
            self._tell(Blocked(event.reason if isinstance(event, Blocked) else ""))
        elif self._was_blocked and not blocked:
            self._tell(Unblocked())
        self._was_connected, self._was_blocked = connected, blocked

    def _tell(self, event: BrokerEvent) -> None:
        for listener in self._listeners:
            if not listener.full():
                listener.put_nowait(event)

    # ------------------------------------------------------------ jobs

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        return await self.core.publisher.publish(jobs, deadline_s=deadline_s)

    async def park(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        publisher = self.core.publisher
        parked = [publisher.make.parked(job) for job in jobs]
        return await publisher.send(parked, deadline_s=deadline_s)

    async def consume(self, queue: str, *, credit: int, ttr_s: float = 0.0) -> Consumer:
        link = await self.core.reader()
        consumer = AmqpConsumer(
            link,
            self.core.names,
            queue,
            credit=credit,
            ttr_s=ttr_s,
            timeout_s=self.core.options.consumer_timeout_s,
            clock=self.core.clock,
        )
        await consumer.start()
        self._consumers.append(consumer)
        return consumer

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        return await self._settler.settle(batch, deadline_s=deadline_s)

    async def record(self, records: Sequence[FeedRecord], *, deadline_s: float) -> bool:
        return await self._settler.record(records, deadline_s=deadline_s)

    async def extend(self, delivery: Delivery, until_ms: int) -> bool:
        token = delivery.token
        if not isinstance(token, Token) or not token.ours:
            return False
        patience_ms = token.intake.patience_ms
        if patience_ms is None:
            return True
        return until_ms <= token.at_ms + round(longest_ttr_s(patience_ms / 1000) * 1000)

    # ------------------------------------------------------------ the management side

    def desired(self, spec: SetupSpec, observed: Topology) -> Topology:
        from taskyard.shared.adapters.amqp import setup

        return setup.desired(self.core, spec, observed)

    async def observe(self, spec: SetupSpec) -> Topology:
        from taskyard.shared.adapters.amqp import setup

        return await setup.observe(self.core, spec)

    async def apply(self, actions: Sequence[Action]) -> None:
        from taskyard.shared.adapters.amqp import setup

        await setup.apply(self.core, actions)
        self.core.recording = await self.core.find_feed()

    def parked(self, queue: str) -> AsyncGenerator[ParkedJob, None]:
        from taskyard.shared.adapters.amqp import parking

        return parking.parked(self.core, queue)

    def take_parked(
        self, queue: str, select: Selection
    ) -> AsyncGenerator[Sequence[Delivery], None]:
        from taskyard.shared.adapters.amqp import parking

        return parking.take_parked(self.core, queue, select)

    async def append_control(
        self, records: Sequence[ControlRecord], *, deadline_s: float = 10.0
    ) -> None:
        from taskyard.shared.adapters.amqp import control

        await control.append_control(self.core, records, deadline_s=deadline_s)
        if any(record.key == DRAIN_KEY for record in records):
            await self._mark().keep(records)

    async def draining(self, *, deadline_s: float = 5.0) -> ControlRecord | None:
        return await self._mark().ask(deadline_s)

    def _mark(self) -> DrainMark:
        from taskyard.shared.adapters.amqp.draining import DrainMark

        if self._drain_mark is None:
            self._drain_mark = DrainMark(self.core)
        return self._drain_mark

    def follow_control(self, after: int | None = None) -> AsyncIterator[ControlBatch]:
        from taskyard.shared.adapters.amqp import control

        return control.follow_control(self.core, after)

    async def feed(self, *, credit: int) -> FeedConsumer:
        from taskyard.shared.adapters.amqp import feed

        return await feed.open_feed(self.core, credit=credit)

    async def lock(self, name: str, owner: Owner) -> Lease | Held:
        from taskyard.shared.adapters.amqp import lock

        return await lock.take_lock(self.core, name, owner)

    async def locks(self) -> Mapping[str, Held]:
        from taskyard.shared.adapters.amqp import lock

        return await lock.read_locks(self.core)

    async def inbox(self) -> Inbox:
        from taskyard.shared.adapters.amqp import inbox

        return await inbox.open_inbox(self.core)

    async def queues(self) -> Sequence[str]:
        from taskyard.shared.adapters.amqp import stats

        return await stats.read_queues(self.core)

    async def stats(self, queues: Collection[str]) -> Mapping[str, QueueStats]:
        from taskyard.shared.adapters.amqp import stats

        return await stats.read_stats(self.core, queues)
