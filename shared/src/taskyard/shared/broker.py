"""The `Broker` port: everything that Taskyard asks of what stores and moves its jobs.

Adapters stand beside it, named by technology. `conformance` holds the suite that each passes.
What a technology lacks its adapter supplies or refuses in words; `capabilities` says which.

Reconnecting is the adapter's affair: a `Consumer` lives as long as its user wants it, and a
delivery that died with its connection settles as `LOST`. No method waits without a limit:
those that write take a deadline, those that read wait for data and end when closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Protocol

import msgspec

from taskyard.shared.control import ControlRecord
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FeedItem, FeedRecord
from taskyard.shared.naming import full_task_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence

    from taskyard.shared.recording import Policy
    from taskyard.shared.topology import Action, Topology

#: Where a parking lot is named: the one of jobs whose own queue is gone (no queue can be called
#: so). Brokers that cannot lose a queue under its jobs have none.
ORPHANS: Final = "@orphaned"
#: What `stats` is asked for, to learn how much the feed holds: ready, and in readers' hands.
FEED: Final = "@feed"
#: What `stats` is asked for, to learn how many jobs of all queues are due later (`scheduled`), on
#: brokers that keep them together. Those that tell it of each queue have no such thing.
DELAYED: Final = "@delayed"

Support = Literal["native", "supplied", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """How an adapter provides something: by its technology, by itself, or not at all (and why)."""

    support: Support
    note: str = ""

    def __bool__(self) -> bool:
        """Tell whether it is to be had."""
        return self.support != "refused"


NATIVE: Final = Capability(support="native")
SUPPLIED: Final = Capability(support="supplied")


def refused(reason: str) -> Capability:
    """Return the capability that is not to be had, with the reason in words."""
    return Capability(support="refused", note=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a broker can do for us.

    Attributes:
        priorities: strict order by priority inside a queue.
        delay: jobs due later, of any length.
        feed: the lifecycle feed.
        control: the durable control log.
        lock: named locks that die with their holder.
        replies: addresses for outcomes, so that `result()` works.
        lease: settles are fenced: a delivery that was given to another cannot be settled.
        max_ttr_s: the longest time to run that the broker lets a delivery live; None: any.
        stats_lag_s: how old `QueueStats.unsettled` may be, in seconds.

    """

    priorities: Capability = NATIVE
    delay: Capability = NATIVE
    feed: Capability = NATIVE
    control: Capability = NATIVE
    lock: Capability = NATIVE
    replies: Capability = NATIVE
    lease: Capability = NATIVE
    max_ttr_s: float | None = None
    stats_lag_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """What an adapter is opened with besides its URL.

    Attributes:
        namespace: prefix of everything it owns.
        connection_name: shown to the broker's operators.
        heartbeat_s: how soon a dead connection is noticed.
        unconfirmed_cap_bytes: most bytes of bodies handed to the broker and not yet confirmed.
        lock_heartbeat_s: the same for locks.
        management_url: of the broker's management API, if it has one elsewhere than usual.
        consumer_timeout_s: how long the broker lets a delivery live, where a worker cannot ask for
            more.

    """

    namespace: str = "taskyard"
    connection_name: str = "taskyard"
    heartbeat_s: float = 10.0
    unconfirmed_cap_bytes: int = 16 * 1024 * 1024
    lock_heartbeat_s: float = 4.0
    management_url: str | None = None
    consumer_timeout_s: float = 1800.0


# ---------------------------------------------------------------- connection state


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker is reachable again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone; the adapter is trying to get it back."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The broker takes no publishes for now (memory or disk alarm); reading goes on."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unblocked:
    """The broker takes publishes again."""


BrokerEvent = Connected | Lost | Blocked | Unblocked


# ---------------------------------------------------------------- publishing


class PublishStatus(Enum):
    """What became of one publish. The values are those of the metric's label."""

    CONFIRMED = "confirmed"
    """Stored, and in a queue."""
    UNROUTABLE = "unroutable"
    """No queue takes it; nothing was stored."""
    REJECTED = "rejected"
    """Refused (for example a full queue); nothing was stored."""
    TIMEOUT = "timeout"
    """No answer within the deadline; it may have been stored."""
    UNAVAILABLE = "unavailable"
    """Never handed to the broker."""
    SPOOLED = "spooled"
    """Stored by the producer's own spool, until the broker takes it; no adapter says so."""
    SPOOL_FULL = "spool_full"
    """Neither the broker nor the producer's spool took it."""
    DRAINING = "draining"
    """Not sent, because operators want nothing new (`Receipt.drain`); no adapter says so."""


class Receipt(msgspec.Struct, frozen=True):
    """What became of one publish, its `message_id`, and by which intent it was not sent."""

    status: PublishStatus
    message_id: str = ""
    detail: str = ""
    drain: ControlRecord | None = None


# ---------------------------------------------------------------- deliveries


class Delivery(msgspec.Struct, kw_only=True, eq=False):
    """One hand-over of a job to a consumer.

    Attributes:
        envelope: the job. Where `defect` is set, as much of it as could be read.
        redelivered: it was handed over before and not settled.
        failures: how many earlier hand-overs of this publish failed, if the broker counts them
            exactly; None if it only knows that there were some (`redelivered`).
        anonymous: it came without an id; the envelope's is new, so it is re-published before it
            runs, or a redelivery would be another job.
        defect: why its wire form cannot be run, in words; None for a sound job.
        token: what the adapter needs to settle it.

    """

    envelope: Envelope
    redelivered: bool = False
    failures: int | None = None
    anonymous: bool = False
    defect: str | None = None
    token: object = None

    @property
    def ours(self) -> bool:
        """Whether it is known that it can still be settled; tokens may say so in their own `ours`."""
        return getattr(self.token, "ours", False)


class Settlement(msgspec.Struct, kw_only=True, eq=False):
    """How one delivery ends: everything in it is durable before the delivery is given up.

    Attributes:
        delivery: what ends.
        copies: envelopes to publish first (a retry, a hand-back, a recount).
        park: the envelope (with `parking`) to put into the parking lot first.
        record: for the feed, where recording is on.
        replies: (address, body) pairs, as a best effort under the same confirm.
        after: the delivery for which this was tried before, and which was lost meanwhile: what was
            stored then is not stored again.

    """

    delivery: Delivery
    copies: tuple[Envelope, ...] = ()
    park: Envelope | None = None
    record: FeedRecord | None = None
    replies: tuple[tuple[str, bytes], ...] = ()
    after: Delivery | None = None

    @property
    def publishes(self) -> bool:
        """Whether it needs a publish, its record left aside."""
        return bool(self.copies) or self.park is not None


class SettleStatus(Enum):
    """What became of one settlement."""

    SETTLED = "settled"
    """Done, durably."""
    LOST = "lost"
    """The delivery was no longer ours; nothing was done, and it runs (or ran) elsewhere."""
    UNDONE = "undone"
    """A publish was not confirmed in time; the delivery is still ours. Settle it again."""
    STORED = "stored"
    """All that it publishes is durable, but the delivery was lost before it could be acknowledged:
    it comes again, and must neither run nor be settled in this way a second time."""
    UNRECORDED = "unrecorded"
    """Done, durably, but the feed was gone: its record is nowhere, for the caller to keep."""

    @property
    def done(self) -> bool:
        """Whether the delivery was acknowledged, with all that had to be stored before."""
        return self is SettleStatus.SETTLED or self is SettleStatus.UNRECORDED


class Consumer(Protocol):
    """A flow of deliveries from one queue, over reconnects."""

    @property
    def present(self) -> bool:
        """Whether the broker knows this consumer now."""
        ...

    @property
    def problem(self) -> str:
        """Why it is not present, in words, as far as that is known; empty while it is."""
        ...

    async def take(self) -> Sequence[Delivery]:
        """Wait for deliveries and return all that have arrived; empty once it is stopped."""
        ...

    async def set_credit(self, credit: int) -> None:
        """Change how many deliveries may be unsettled at once."""
        ...

    async def stop(self) -> Sequence[Delivery]:
        """End the flow and return what has arrived and was never taken.

        Those, and all taken before, are still to be settled.
        """
        ...


# ---------------------------------------------------------------- parking lots


#: Parked jobs taken at a time: enough to share a confirm; the most that a death leaves both
#: released and parked.
PARKED_BATCH: Final = 100


class ParkedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A parked job as found while browsing: `envelope.parking` says why."""

    envelope: Envelope
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which parked jobs are meant; all given conditions must hold.

    Attributes:
        ids: only these jobs; None means any.
        reason: only those parked for this reason; None means any.
        fingerprint: only those of this group (see `fingerprint_of`); None means any.
        task: only those of this task, by its full name; None means any.
        limit: at most so many, the longest parked first; None means all.
        batch: how many are handed out at a time, at most `PARKED_BATCH`.

    """

    ids: frozenset[str] | None = None
    reason: str | None = None
    fingerprint: str | None = None
    task: str | None = None
    limit: int | None = None
    batch: int = PARKED_BATCH

    def matches(self, envelope: Envelope) -> bool:
        """Tell whether a job is meant, the limit left aside."""
        if self.ids is not None and envelope.id not in self.ids:
            return False
        if self.task is not None and full_task_name(envelope.queue, envelope.task) != self.task:
            return False
        if self.fingerprint is not None and fingerprint_of(envelope) != self.fingerprint:
            return False
        return self.reason is None or park_reason_of(envelope) == self.reason


def park_reason_of(envelope: Envelope) -> str:
    """Return why a job is parked; one without a word was parked by the broker, at its limit."""
    return envelope.parking.reason if envelope.parking else "poison"


def fingerprint_of(envelope: Envelope) -> str:
    """Return what a parked job is grouped by: its error's fingerprint, or else its reason."""
    error = envelope.parking.error if envelope.parking else None
    return (error.fingerprint if error else "") or park_reason_of(envelope)


# ---------------------------------------------------------------- control, feed, locks, stats


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlBatch:
    """Records of the control log, in order.

    Attributes:
        records: what was written.
        position: pass it to `follow_control` to go on behind them.
        caught_up: everything that was in the log when following began has been seen.
        anew: the log is not the one that `follow_control` was to go on with; this is its start.

    """

    records: tuple[ControlRecord, ...]
    position: int
    caught_up: bool
    anew: bool = False


class FeedConsumer(Protocol):
    """A flow of feed items."""

    async def take(self) -> Sequence[FeedItem]:
        """Wait for items and return all that have arrived; empty once it is stopped."""
        ...

    async def ack(self, items: Sequence[FeedItem]) -> None:
        """Give items up for good."""
        ...

    async def stop(self) -> None:
        """End the flow; what was not acknowledged stays in the feed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A lock that somebody else holds; `owner` where that can be known."""

    owner: Owner | None = None


class Lease(Protocol):
    """A lock that is ours until it is released or lost. A lock is not a fence."""

    async def wait_lost(self) -> None:
        """Return once the lock can no longer be relied on."""
        ...

    async def confirm(self) -> bool:
        """Ask the broker, and return whether the lock is still ours.

        What `wait_lost` has yet to learn, for example by a process that was suspended, shows here.
        """
        ...

    async def release(self) -> None:
        """Give the lock up."""
        ...


class Inbox(Protocol):
    """An address for replies, kept over reconnects."""

    @property
    def address(self) -> str:
        """What goes into `Envelope.reply`."""
        ...

    @property
    def present(self) -> bool:
        """Whether a reply that is sent now would get here; False until a lost connection is back."""
        ...

    async def take(self) -> Sequence[bytes]:
        """Wait for replies and return all that have arrived; empty once it is closed."""
        ...

    async def close(self) -> None:
        """Give the address up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """A queue in numbers; None where the broker cannot tell.

    Attributes:
        exists: whether the broker has the queue.
        ready: jobs that a free slot would take now.
        unsettled: handed over and not settled.
        scheduled: due later.
        parked: in the parking lot.
        consumers: flows open on it.
        oldest_ms: instant at which the oldest ready job was due.
        type: of the broker's queue, in its own words.

    """

    exists: bool = True
    ready: int = 0
    unsettled: int | None = None
    scheduled: int | None = None
    parked: int = 0
    consumers: int | None = None
    oldest_ms: int | None = None
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue as it is to be set up.

    Attributes:
        name: of the queue.
        type: where the technology has types.
        policy: what of its jobs is recorded; None leaves it as it is.

    """

    name: str
    type: str = "auto"
    policy: Policy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupSpec:
    """What `broker apply` is asked for.

    Attributes:
        queues: to exist.
        ledger: whether the feed is asked for (once it exists it stays).
        left_out: queues whose published jobs the feed does not get, whoever sets them up.

    """

    queues: tuple[QueueSpec, ...] = field(default=())
    ledger: bool = False
    left_out: frozenset[str] = frozenset()


class Broker(Protocol):
    """See the module's docstring. Every method may raise `Unavailable` when there is no
    connection within its deadline (or within 10 s for those without one).
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; known once it is open."""
        ...

    @property
    def recording(self) -> bool:
        """Whether the feed exists, so that outcomes are to be recorded."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the broker is reachable now."""
        ...

    @property
    def blocked(self) -> bool:
        """Whether the broker refuses publishes now."""
        ...

    def now_ms(self) -> int:
        """Return the instant that due times are compared with, in milliseconds since the epoch."""
        ...

    async def open(self, *, deadline_s: float = 10.0) -> None:
        """Connect, or raise `Unavailable` within the deadline."""
        ...

    async def close(self, *, abort: bool = False) -> None:
        """Disconnect; `abort` drops the connection without waiting for the broker's answer."""
        ...

    def events(self) -> AsyncIterator[BrokerEvent]:
        """Yield the present state, then each change of it."""
        ...

    # set-up

    def desired(self, spec: SetupSpec, observed: Topology) -> Topology:
        """Return what should exist for `spec`, given what does.

        Raises:
            ConfigurationError: the broker leaves a choice that only a human can make.

        """
        ...

    async def observe(self, spec: SetupSpec) -> Topology:
        """Return what exists of everything that `spec` could ask for."""
        ...

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out actions, in order (ConfigurationError for one that would lose jobs)."""
        ...

    # jobs

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        """Publish jobs, durably and in order, and return a receipt for each.

        Never raises for a single job's fate, and never waits beyond the deadline.
        """
        ...

    async def park(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        """Put jobs (with `parking`) straight into their queues' parking lots; see `publish`.

        The feed is not told: a parking lot holds what somebody has already said to be set aside.
        """
        ...

    async def consume(self, queue: str, *, credit: int, ttr_s: float = 0.0) -> Consumer:
        """Open a flow of at most `credit` unsettled deliveries; `ttr_s` is the longest attempt.

        Raises:
            UnknownQueue: the queue does not exist.

        """
        ...

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        """End deliveries: publish what each needs, wait for the confirms, then give them up.

        One whose publishes fail is kept and reported as `UNDONE`; the others go on.
        """
        ...

    async def record(self, records: Sequence[FeedRecord], *, deadline_s: float) -> bool:
        """Add records to the feed; returns whether they are durable there."""
        ...

    async def extend(self, delivery: Delivery, until_ms: int) -> bool:
        """Keep a delivery ours until an instant; False when the broker cannot be that patient."""
        ...

    # parking lots

    def parked(self, queue: str) -> AsyncGenerator[ParkedJob, None]:
        """Browse a parking lot, the longest parked first, leaving everything as it is."""
        ...

    def take_parked(
        self, queue: str, select: Selection
    ) -> AsyncGenerator[Sequence[Delivery], None]:
        """Take matching jobs out of a parking lot, in its order, some at a time.

        Each batch (of at most `select.batch`) is to be settled before the next is asked for.
        What is not settled when the iteration ends, or its process dies, stays parked, in order.
        Meanwhile others may see less of the lot, so whoever takes slowly takes in turns.
        """
        ...

    # control log, feed, locks, replies

    async def append_control(
        self, records: Sequence[ControlRecord], *, deadline_s: float = 10.0
    ) -> None:
        """Write intents durably, in order (ControlUnavailable otherwise)."""
        ...

    async def draining(self, *, deadline_s: float = 5.0) -> ControlRecord | None:
        """Return the intent by which producers send nothing new, if one is in force.

        Every producer asks every few seconds, so while there is none it costs one small request,
        and no more with a long log. None where there is no control log.
        """
        ...

    def follow_control(self, after: int | None = None) -> AsyncIterator[ControlBatch]:
        """Yield the control log behind position `after` (None: from its start), then as it grows.

        Raises:
            ControlUnavailable: it cannot be read now; follow again behind the last position.

        """
        ...

    async def feed(self, *, credit: int) -> FeedConsumer:
        """Open a flow of the feed (ConfigurationError when there is none)."""
        ...

    async def lock(self, name: str, owner: Owner) -> Lease | Held:
        """Take a lock, or say who holds it."""
        ...

    async def locks(self) -> Mapping[str, Held]:
        """Return the locks that are held now, by name.

        Raises:
            ConfigurationError: there are none, or the broker cannot be asked (no management API).

        """
        ...

    async def inbox(self) -> Inbox:
        """Open an address for replies (ConfigurationError where there are none)."""
        ...

    async def queues(self) -> Sequence[str]:
        """Return the names of the work queues that exist, sorted.

        Raises:
            ConfigurationError: the broker cannot be asked (no management API); name them instead.

        """
        ...

    async def stats(self, queues: Collection[str]) -> Mapping[str, QueueStats]:
        """Return numbers per queue; also of `ORPHANS`, `FEED` and `DELAYED`, where there are such."""
        ...
