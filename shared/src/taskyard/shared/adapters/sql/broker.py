"""The `Broker` port over one SQLite file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from taskyard.shared.adapters.sql import layout, queries
from taskyard.shared.adapters.sql.announcer import Announcer
from taskyard.shared.adapters.sql.consumer import SqlConsumer
from taskyard.shared.adapters.sql.control_log import last_drain
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.feed_consumer import SqlFeedConsumer
from taskyard.shared.adapters.sql.feeding import write_records
from taskyard.shared.adapters.sql.handle import Handle
from taskyard.shared.adapters.sql.inbox import SqlInbox
from taskyard.shared.adapters.sql.lease import Grab, SqlLease, held_locks
from taskyard.shared.adapters.sql.location import Location, parse
from taskyard.shared.adapters.sql.parking_lot import browse, take
from taskyard.shared.adapters.sql.rows import known
from taskyard.shared.adapters.sql.settling import SettleBatch, token_of
from taskyard.shared.adapters.sql.stats import stats_of
from taskyard.shared.adapters.sql.timing import Timing
from taskyard.shared.broker import (
    SUPPLIED,
    BrokerOptions,
    Capabilities,
    Connected,
    Held,
    Lost,
    PublishStatus,
    Receipt,
    SettleStatus,
)
from taskyard.shared.clock import Clock, SystemClock
from taskyard.shared.control import ControlUnavailable
from taskyard.shared.envelope import mint_id
from taskyard.shared.errors import ConfigurationError, Unavailable, UnknownQueue
from taskyard.shared.intents import in_force
from taskyard.shared.naming import check_namespace

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )

    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.broker import (
        BrokerEvent,
        ControlBatch,
        Delivery,
        Owner,
        ParkedJob,
        QueueStats,
        Selection,
        Settlement,
        SetupSpec,
    )
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.topology import Action, Topology

_T = TypeVar("_T")

_CAPABILITIES: Final = Capabilities(
    priorities=SUPPLIED,
    delay=SUPPLIED,
    feed=SUPPLIED,
    control=SUPPLIED,
    lock=SUPPLIED,
    lease=SUPPLIED,
)

_CLOSED: Final = "this broker handle is closed"


def connect(url: str, options: BrokerOptions) -> SqlBroker:
    """Return a handle on the database that the URL names, not yet open.

    Args:
        url: `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`; `?synchronous=full`.
        options: the namespace prefixes every table.

    Raises:
        ConfigurationError: the URL or the namespace is not valid.

    """
    return SqlBroker(parse(url), options)


class SqlBroker:
    """See `Broker`; the handle belongs to the loop that opens it."""

    def __init__(
        self,
        location: Location,
        options: BrokerOptions | None = None,
        *,
        clock: Clock | None = None,
        timing: Timing | None = None,
    ) -> None:
        """Belong to a database, not yet open.

        Args:
            location: of the file.
            options: namespace and limits.
            clock: what due times and leases are compared with.
            timing: leases and how often to look.

        """
        self._location = location
        self._options = options or BrokerOptions()
        self._clock = clock or SystemClock()
        self._timing = timing or Timing()
        self._handle: Handle | None = None
        self._announcer = Announcer()
        check_namespace(self._options.namespace)

    # ------------------------------------------------------------ connection

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    @property
    def recording(self) -> bool:
        return self._handle is not None and self._handle.recording

    @property
    def connected(self) -> bool:
        return self._handle is not None and self._handle.engine.is_open

    @property
    def blocked(self) -> bool:
        return False

    def now_ms(self) -> int:
        return self._clock.now_ms()

    async def open(self, *, deadline_s: float = 10.0) -> None:
        if self._handle is not None:
            return
        handle = Handle(
            self._location, self._options, self._timing, self._clock, tell=self._announcer.tell
        )
        await handle.open(deadline_s)
        self._handle = handle
        self._announcer.tell(Connected())

    async def close(self, *, abort: bool = False) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            await (handle.crash() if abort else handle.close())
            self._announcer.end()

    async def crash(self) -> None:
        """Die as a killed process: nothing is given back, and nothing is said."""
        await self.close(abort=True)

    def events(self) -> AsyncIterator[BrokerEvent]:
        return self._announcer.listen(lambda: Connected() if self.connected else Lost("not open"))

    # ------------------------------------------------------------ set-up

    def desired(self, spec: SetupSpec, observed: Topology) -> Topology:
        return layout.desired(spec, observed)

    async def observe(self, spec: SetupSpec) -> Topology:
        return await self._read(layout.observe)

    async def queues(self) -> Sequence[str]:
        return await self._read(lambda s: sorted(s.catalogue().queues))

    async def apply(self, actions: Sequence[Action]) -> None:
        handle = self._open_handle()
        await self._write(lambda s: layout.apply(s, actions))
        handle.recording = await self._read(lambda s: s.catalogue().feed_limit is not None)

    # ------------------------------------------------------------ jobs

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        if self._handle is None:
            return [Receipt(PublishStatus.UNAVAILABLE, detail=_CLOSED)] * len(jobs)
        return await self._handle.publisher.publish(jobs, deadline_s)

    async def park(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        if self._handle is None:
            return [Receipt(PublishStatus.UNAVAILABLE, detail=_CLOSED)] * len(jobs)
        return await self._handle.publisher.park(jobs, deadline_s)

    async def consume(self, queue: str, *, credit: int, ttr_s: float = 0.0) -> SqlConsumer:
        handle = await self._owning_handle()
        flow = SqlConsumer(handle.engine, handle.presence, queue, credit, gone=handle.flows.discard)

        def register(session: Session) -> None:
            queues = session.catalogue().queues
            if queue not in queues:
                msg = (
                    f"queue {queue!r} does not exist in {self._location} (it has: {known(queues)})"
                )
                raise UnknownQueue(msg, queue=queue)
            flow.register(session)

        await self._write(register)
        handle.flows.add(flow)
        flow.start()
        return flow

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        if not batch:
            return []
        if self._handle is None:
            return [SettleStatus.LOST] * len(batch)  # whatever was ours went back at the close
        handle = self._handle
        work = SettleBatch(batch, handle.presence.id, recording=handle.recording)
        try:
            settled = await handle.engine.write(
                work.run, deadline_s=deadline_s, weight=work.weight, done=work.finished
            )
        except (StoreError, Unavailable):
            return [SettleStatus.UNDONE] * len(batch)
        return settled.statuses

    async def record(self, records: Sequence[FeedRecord], *, deadline_s: float) -> bool:
        if self._handle is None or not records:
            return False
        try:
            return await self._handle.engine.write(
                lambda s: write_records(s, records), deadline_s=deadline_s
            )
        except (StoreError, Unavailable):
            return False

    async def extend(self, delivery: Delivery, until_ms: int) -> bool:
        token = token_of(delivery)
        left_s = (until_ms - self._clock.now_ms()) / 1000

        def extend(session: Session) -> bool:
            hold = {
                "hold": session.lease_ms(left_s),
                "seq": token.seq,
                "owner": token.owner,
                "fence": token.fence,
            }
            return session.run(queries.EXTEND, hold) == 1

        # A parked job that is taken stays ours until the iteration ends.
        return token.flow is None or await self._write(extend)

    # ------------------------------------------------------------ parking lots

    def parked(self, queue: str) -> AsyncGenerator[ParkedJob, None]:
        return browse(self._open_handle().engine, queue)

    async def take_parked(
        self, queue: str, select: Selection
    ) -> AsyncGenerator[Sequence[Delivery], None]:
        handle = await self._owning_handle()
        await self._read(handle.reaper)  # what a killed release has left taken is to be had again
        async for batch in take(handle.engine, handle.presence, queue, select):
            yield batch

    # ------------------------------------------------------------ control, feed, locks, replies

    async def append_control(
        self, records: Sequence[ControlRecord], *, deadline_s: float = 10.0
    ) -> None:
        if self._handle is None:
            raise ControlUnavailable(_CLOSED)
        await self._handle.log.append(records, deadline_s)

    async def draining(self, *, deadline_s: float = 5.0) -> ControlRecord | None:
        return in_force(await self._read(last_drain), self.now_ms())

    async def follow_control(self, after: int | None = None) -> AsyncIterator[ControlBatch]:
        if self._handle is None:
            raise ControlUnavailable(_CLOSED)
        async for batch in self._handle.log.follow(after):
            yield batch

    async def feed(self, *, credit: int) -> SqlFeedConsumer:
        handle = await self._owning_handle()
        if not await self._read(lambda s: s.catalogue().feed_limit is not None):
            msg = f"{self._location} has no feed: run `taskyard broker apply --ledger`"
            raise ConfigurationError(msg)
        flow = SqlFeedConsumer(handle.engine, handle.presence.id, credit, gone=handle.feeds.discard)
        handle.feeds.add(flow)
        return flow

    async def feed_dropped(self) -> int:
        """Return how many items the feed has dropped, because nobody fetched them in time."""
        _, dropped = await self._read(lambda s: s.one(queries.FEED_STATS))
        return dropped if isinstance(dropped, int) else 0

    async def lock(self, name: str, owner: Owner) -> SqlLease | Held:
        handle = await self._owning_handle()
        grab = Grab(
            name=name,
            id=handle.presence.id,
            fence=handle.presence.next_fence(),
            owner=owner,
            lease_s=self._timing.lock_lease_s,
            folder=self._location.owners,
        )
        lease = SqlLease(handle.engine, grab, gone=handle.keeper.discard)
        try:
            holder = await self._write(grab)
        except BaseException:
            lease.abandon()  # it may have been taken in the very moment of giving up
            raise
        if holder is not None:
            return Held(owner=holder)
        handle.keeper.add(lease)
        return lease

    async def locks(self) -> Mapping[str, Held]:
        owners = await self._read(partial(held_locks, folder=self._location.owners))
        return {name: Held(owner=owner) for name, owner in owners.items()}

    async def inbox(self) -> SqlInbox:
        handle = await self._owning_handle()
        inbox = SqlInbox(
            handle.engine, f"sql-{mint_id()}", handle.presence.id, gone=handle.inboxes.discard
        )
        await self._write(inbox.register)
        handle.inboxes.add(inbox)
        return inbox

    async def stats(self, queues: Collection[str]) -> Mapping[str, QueueStats]:
        try:
            return await self._open_handle().read_aside(lambda s: stats_of(s, queues))
        except StoreError as error:
            raise Unavailable(str(error)) from error

    # ------------------------------------------------------------ common to all

    def _open_handle(self) -> Handle:
        if self._handle is None:
            raise Unavailable(_CLOSED)
        return self._handle

    async def _owning_handle(self) -> Handle:
        handle = self._open_handle()
        try:
            await handle.become_owner()
        except StoreError as error:
            raise Unavailable(str(error)) from error
        return handle

    async def _read(self, run: Callable[[Session], _T]) -> _T:
        try:
            return await self._open_handle().engine.read(run)
        except StoreError as error:
            raise Unavailable(str(error)) from error

    async def _write(self, run: Callable[[Session], _T]) -> _T:
        try:
            return await self._open_handle().engine.write(run)
        except StoreError as error:
            raise Unavailable(str(error)) from error
