"""Settles what has ended, many at a time, without a timer.

When no commit is under way the next one starts at once; what ends meanwhile gathers behind it, and
does not wait for it once there is a whole batch.
While the broker takes no publishes (an alarm), what needs one waits, keeping its delivery, and the
rest is acknowledged plainly, its record kept on disk: only so can the queues drain and the alarm
end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import Settlement, SettleStatus
from taskyard.shared.errors import TaskyardError
from taskyard.shared.logs import get_logger
from taskyard.workers.report import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.feed import FeedRecord
    from taskyard.workers.backlog import Backlog

_log = get_logger(__name__)

#: Most settlements of one commit: enough to share a confirm, few enough to end within its deadline.
BATCH: Final = 256
#: Most commits at once. With one, whatever else has ended waits for its confirms, its credit with
#: it, and a busy worker stands still (docs/performance.md).
COMMITS: Final = 2
#: Most deliveries that wait for the end of an alarm without taking credit from those that need not
#: (docs/decisions/0005-credit-under-an-alarm.md).
EXTRA_CREDIT: Final = 2000
#: Most bytes of bodies, values and outputs among them, so that memory stays flat also where they
#: are large.
HELD_BYTES: Final = 16 * 1024 * 1024
#: Seconds before what could not be settled is tried again; doubled up to the longest.
_RETRY_FIRST_S: Final = 0.1
_RETRY_LONGEST_S: Final = 5.0

_SETTLED: Final = SettleStatus.SETTLED


class Committer:
    """Settles on one event loop: `add` what ended, and it is settled as soon as possible."""

    def __init__(
        self,
        broker: Broker,
        backlog: Backlog,
        *,
        deadline_s: float,
        on_settled: Callable[[Sequence[Settlement]], None],
        on_lost: Callable[[Settlement], None],
        on_held: Callable[[Mapping[str, int]], None],
    ) -> None:
        """Settle through `broker`.

        Args:
            broker: takes the settlements.
            backlog: keeps the records that it does not take.
            deadline_s: how long one commit may take, in seconds.
            on_settled: told of each batch whose outcomes stand.
            on_lost: told of each settlement that came too late.
            on_held: told, whenever it changes, how many deliveries per queue wait for the broker
                to take publishes again.

        """
        self._broker = broker
        self._backlog = backlog
        self._deadline_s = deadline_s
        self._on_settled = on_settled
        self._on_lost = on_lost
        self._on_held = on_held
        self._pending: list[Settlement] = []
        self._held: list[Settlement] = []
        self._undone: list[Settlement] = []
        # Kept with what it is for, so that no other settlement can have the same id meanwhile.
        self._awaited: dict[int, tuple[Settlement, Callable[[], None]]] = {}
        self._flights: dict[asyncio.Task[None], Sequence[Settlement]] = {}
        self._turning = False
        self._idle = asyncio.Event()
        self._held_of: Counter[str] = Counter()
        self._held_bytes = 0
        self._told: Counter[str] = Counter()
        self._retry_s = _RETRY_FIRST_S
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def idle(self) -> bool:
        """Whether everything handed over is settled."""
        return not (self._pending or self._held or self._undone or self._flights)

    @property
    def unsettled(self) -> int:
        """How many settlements are not done."""
        flying = sum(map(len, self._flights.values()))
        return len(self._pending) + len(self._held) + len(self._undone) + flying

    def owes(self, queue: str) -> bool:
        """Return whether a delivery of `queue` has ended and still counts as unsettled."""
        groups = (self._pending, self._held, self._undone, *self._flights.values())
        return any(each.delivery.envelope.queue == queue for group in groups for each in group)

    def add(self, settlement: Settlement, then: Callable[[], None] | None = None) -> None:
        """Settle this as soon as possible, and call `then` when it is settled or lost."""
        if then is not None:
            self._awaited[id(settlement)] = (settlement, then)
        self._pending.append(settlement)
        if not self._turning:
            self.look_again()

    def look_again(self) -> None:
        """Go on with what can go on now; also when the broker was blocked, unblocked or lost."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    async def wait_idle(self) -> None:
        """Wait until everything handed over is settled."""
        while not self.idle:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        """Settle nothing more; what is left comes back to other workers."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._pending.clear()
        for flight in self._flights:
            flight.cancel()

    def _turn(self) -> None:
        """What ended in one turn of the loop goes out together."""
        self._turning = False
        self._release()
        while self._pending and not self._must_wait():
            self._fly(self._next_batch())
        self._tell()
        if self.idle:
            self._idle.set()

    # what may go now

    def _release(self) -> None:
        if self._held and not self._broker.blocked:
            self._pending[:0] = self._held
            self._held.clear()
            self._held_of.clear()
            self._held_bytes = 0

    def _must_wait(self) -> bool:
        """One commit at a time, or two when the second is full: fewer, larger messages cost less.

        Under an alarm those that wait for a confirm are left behind.
        """
        commits = len(self._flights)
        if self._broker.blocked:
            return commits > COMMITS
        return commits >= (COMMITS if len(self._pending) >= BATCH else 1)

    def _next_batch(self) -> list[Settlement]:
        batch = self._pending[:BATCH]
        del self._pending[:BATCH]
        return self._plain_ones(batch) if self._broker.blocked else batch

    def _plain_ones(self, batch: list[Settlement]) -> list[Settlement]:
        """Keep back what needs a publish, and strip the rest of its records."""
        plain: list[Settlement] = []
        records: list[FeedRecord] = []
        for settlement in batch:
            if settlement.publishes or (settlement.replies and len(self._held) < EXTRA_CREDIT):
                self._hold(settlement)
                continue
            if settlement.record is not None:
                records.append(settlement.record)
            plain.append(Settlement(delivery=settlement.delivery))
        if records:
            # Before the acknowledgement: a record too many is a fact, one too few a gap.
            self._backlog.add(records)
        return plain

    def _hold(self, settlement: Settlement) -> None:
        envelope, record = settlement.delivery.envelope, settlement.record
        self._held.append(settlement)
        self._held_of[envelope.queue] += 1
        self._held_bytes += len(envelope.body)
        if record is not None:
            self._held_bytes += record.bulk

    # one commit

    def _fly(self, batch: list[Settlement]) -> None:
        if not batch:
            return
        flight = self._loop.create_task(self._commit(batch), name="commit")
        self._flights[flight] = batch
        flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        del self._flights[flight]
        self.look_again()

    async def _commit(self, batch: Sequence[Settlement]) -> None:
        try:
            statuses = await self._broker.settle(batch, deadline_s=self._deadline_s)
        except TaskyardError as error:
            self._undone_again(batch, str(error))
            return
        except Exception:  # noqa: BLE001  # a fault of the adapter: its deliveries are kept and tried again
            await self._failed(batch)
            return
        if self._awaited:
            self._tell_awaiting(batch, statuses)
        if statuses.count(_SETTLED) == len(batch):
            self._retry_s = _RETRY_FIRST_S
            self._on_settled(batch)
            return
        self._sort(batch, statuses)

    def _sort(self, batch: Sequence[Settlement], statuses: Sequence[SettleStatus]) -> None:
        """Pass on what became of each, where not all is as it should be."""
        done: list[Settlement] = []
        undone: list[Settlement] = []
        unrecorded: list[FeedRecord] = []
        for settlement, status in zip(batch, statuses, strict=True):
            if status is SettleStatus.LOST:
                self._on_lost(settlement)
            elif status is SettleStatus.UNDONE:
                undone.append(settlement)
            else:
                done.append(settlement)
                if status is SettleStatus.UNRECORDED and settlement.record is not None:
                    unrecorded.append(settlement.record)
        if unrecorded:
            self._backlog.add(unrecorded)
        if done:
            self._on_settled(done)
        if undone:
            self._undone_again(undone, "not confirmed in time")

    async def _failed(self, batch: Sequence[Settlement]) -> None:
        if len(batch) > 1:
            for settlement in batch:  # one that it cannot take must not keep the others
                await self._commit([settlement])
            return
        _log.exception(
            "settling failed; it is tried again", **fields_of(batch[0].delivery.envelope)
        )
        self._undone_again(batch, "the adapter failed")

    def _tell_awaiting(self, batch: Sequence[Settlement], statuses: Sequence[SettleStatus]) -> None:
        for settlement, status in zip(batch, statuses, strict=True):
            if status is not SettleStatus.UNDONE:
                _, then = self._awaited.pop(id(settlement), (None, None))
                if then is not None:
                    then()

    def _undone_again(self, batch: Sequence[Settlement], problem: str) -> None:
        self._undone.extend(batch)
        if self._broker.blocked:
            self._try_again()  # sorts it into what waits for the end of the alarm and what need not
            return
        _log.warning(
            "settlements are tried again",
            settlements=len(batch),
            problem=problem,
            in_s=self._retry_s,
        )
        if self._retry is None:
            self._retry = self._loop.call_later(self._retry_s, self._try_again)
            self._retry_s = min(self._retry_s * 2, _RETRY_LONGEST_S)

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._pending[:0] = self._undone
        self._undone.clear()
        self.look_again()

    # what waits, per queue

    def _tell(self) -> None:
        if not (self._held or self._told or self._flights):
            return
        if self._held_bytes > HELD_BYTES:
            return  # what was given before stays given; more would cost memory
        waiting = self._held_of.copy()
        if self._broker.blocked:
            for batch in self._flights.values():
                waiting.update(s.delivery.envelope.queue for s in batch)
        if waiting != self._told:
            self._told = waiting
            self._on_held(waiting)
