"""Ends deliveries: publishes what each needs, waits for the confirms, then acknowledges."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.fields import properties
from taskyard.shared.adapters.amqp.intake import Token
from taskyard.shared.adapters.amqp.outgoing import Raw
from taskyard.shared.adapters.amqp.publisher import CONFIRMED
from taskyard.shared.broker import PublishStatus, SettleStatus
from taskyard.shared.envelope import JSON
from taskyard.shared.feed import encode_feed
from taskyard.shared.priority import NORMAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from taskyard.shared.adapters.amqp.intake import Intake
    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.adapters.amqp.outgoing import Outgoing
    from taskyard.shared.adapters.amqp.publisher import Publisher
    from taskyard.shared.broker import Receipt, Settlement
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.feed import FeedRecord

#: Beyond this a message of many records is divided: RabbitMQ refuses one of more than 16 MiB, and
#: closes the channel. One record holds a value of 1 MiB, an error and an output at most.
RECORDS_BYTES: Final = 1024 * 1024


class _Plan:
    """What one flight carries, and which settlements wait for which of it."""

    def __init__(self) -> None:
        self.items: list[Outgoing] = []
        self.envelopes: list[tuple[int, int, Envelope]] = []
        self.records: defaultdict[str, list[FeedRecord]] = defaultdict(list)
        self.record_items: dict[str, range] = {}


class Settler:
    """Settles batches through a publisher."""

    def __init__(
        self, publisher: Publisher, names: Names, *, recording: Callable[[], bool]
    ) -> None:
        """Prepare a settler.

        Args:
            publisher: for what settlements publish.
            names: of the namespace.
            recording: whether the feed exists now.

        """
        self._publisher = publisher
        self._names = names
        self._recording = recording

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        """See the port. What needs no publish is acknowledged at once."""
        recording = self._recording()
        statuses = [SettleStatus.LOST] * len(batch)
        tokens = _ours(batch)
        plain: list[int] = []
        publishing: list[int] = []
        for index in tokens:
            settlement = batch[index]
            if (
                settlement.copies
                or settlement.park is not None
                or settlement.replies
                or (recording and settlement.record is not None)
            ):
                publishing.append(index)
            else:
                plain.append(index)
        self._ack(tokens, plain, statuses)
        if publishing:
            plan = self._plan(batch, publishing, recording=recording)
            receipts = await self._publisher.send(plan.items, deadline_s=deadline_s, patient=True)
            failed = _failed(batch, plan, receipts)
            for index in publishing:
                statuses[index] = SettleStatus.UNDONE
            stored = [index for index in publishing if index not in failed]
            self._ack(tokens, stored, statuses)
            homeless = _homeless(plan, receipts)
            for index in stored:
                if statuses[index] is SettleStatus.LOST:
                    statuses[index] = SettleStatus.STORED
                elif homeless and _queue_of_record(batch[index]) in homeless:
                    statuses[index] = SettleStatus.UNRECORDED
        return statuses

    async def record(self, records: Iterable[FeedRecord], *, deadline_s: float) -> bool:
        """Publish records to the feed; tells whether all are durable there."""
        if not self._recording():
            return False
        by_queue: dict[str, list[FeedRecord]] = {}
        for record in records:
            by_queue.setdefault(record.queue, []).append(record)
        items: list[Outgoing] = []
        for queue, some in by_queue.items():
            self._put_records(items, queue, some)
        receipts = await self._publisher.send(items, deadline_s=deadline_s)
        return all(receipt.status is CONFIRMED for receipt in receipts)

    def _plan(
        self, batch: Sequence[Settlement], indexes: Iterable[int], *, recording: bool
    ) -> _Plan:
        plan = _Plan()
        for index in indexes:
            settlement = batch[index]
            # Most have a record and nothing else: what is done for it here is done for each job.
            if settlement.copies or settlement.park is not None or settlement.replies:
                self._put_own(plan, index, settlement)
            if recording and settlement.record is not None:
                plan.records[settlement.record.queue].append(settlement.record)
        for queue, records in plan.records.items():
            before = len(plan.items)
            self._put_records(plan.items, queue, records)
            plan.record_items[queue] = range(before, len(plan.items))
        return plan

    def _put_own(self, plan: _Plan, index: int, settlement: Settlement) -> None:
        """Add what a settlement publishes for itself alone."""
        make = self._publisher.make
        done = _published(settlement)
        for copy in settlement.copies:
            if not any(copy is other for other in done):
                plan.envelopes.append((len(plan.items), index, copy))
                plan.items.append(make.job(copy))
        park = settlement.park
        if park is not None and not any(park is other for other in done):
            plan.envelopes.append((len(plan.items), index, park))
            plan.items.append(make.parked(park))
        for address, body in settlement.replies:
            own = properties(content_type=JSON, delivery_mode=1)
            plan.items.append(make.raw(Raw(self._names.replies, address, own, body)))

    def _put_records(
        self, items: list[Outgoing], queue: str, records: Sequence[FeedRecord]
    ) -> None:
        """Add records as one message, or as several where their values and outputs are large."""
        body = encode_feed(records)
        if len(body) > RECORDS_BYTES and len(records) > 1:
            # Half full, because records are not alike, and one too large is encoded once more.
            parts = min(2 * len(body) // RECORDS_BYTES, len(records))
            del body  # a batch of large values is a quarter of a gibibyte
            each = -(-len(records) // parts)
            for start in range(0, len(records), each):
                self._put_records(items, queue, records[start : start + each])
            return
        own = properties(content_type=JSON, priority=NORMAL)
        items.append(self._publisher.make.raw(Raw(self._names.lifecycle, queue, own, body)))

    @staticmethod
    def _ack(
        tokens: Mapping[int, Token], indexes: Sequence[int], statuses: list[SettleStatus]
    ) -> None:
        """Acknowledge, each channel's deliveries in one write."""
        by_intake: dict[Intake, list[int]] = {}
        for index in indexes:
            intake = tokens[index].intake
            its = by_intake.get(intake)
            if its is None:
                its = by_intake[intake] = []
            its.append(index)
        for intake, its in by_intake.items():
            ours = [index for index in its if tokens[index].tag] if intake.alive else []
            for index in its:
                statuses[index] = SettleStatus.LOST
            for index in ours:
                statuses[index] = SettleStatus.SETTLED
            if ours:
                intake.ack([tokens[index] for index in ours])


def _ours(batch: Sequence[Settlement]) -> dict[int, Token]:
    """Return the tokens of those that can still be settled, by their place in the batch."""
    tokens: dict[int, Token] = {}
    intake, alive = None, False
    for index, settlement in enumerate(batch):
        token = settlement.delivery.token
        if not isinstance(token, Token) or not token.tag:
            continue
        if token.intake is not intake:  # mostly they are of one channel
            intake, alive = token.intake, token.intake.alive
        if alive:
            tokens[index] = token
    return tokens


def _failed(batch: Sequence[Settlement], plan: _Plan, receipts: Sequence[Receipt]) -> set[int]:
    """Return the settlements of which something needed was not confirmed.

    Replies are a best effort. A record that finds no feed any more keeps no job from its end.
    """
    failed: set[int] = set()
    gone = {
        queue
        for queue, items in plan.record_items.items()
        for item in items
        if receipts[item].status not in {CONFIRMED, PublishStatus.UNROUTABLE}
    }
    if gone:
        failed |= {
            index for index, settlement in enumerate(batch) if _queue_of_record(settlement) in gone
        }
    for item, index, _ in plan.envelopes:
        if receipts[item].status is not CONFIRMED:
            failed.add(index)
    if failed:
        for item, index, envelope in plan.envelopes:
            if index in failed and receipts[item].status is CONFIRMED:
                _token(batch[index]).published += (envelope,)
    return failed


def _homeless(plan: _Plan, receipts: Sequence[Receipt]) -> set[str]:
    """Return the queues whose records found no feed: it was taken away a moment ago."""
    return {
        queue
        for queue, items in plan.record_items.items()
        for item in items
        if receipts[item].status is PublishStatus.UNROUTABLE
    }


def _queue_of_record(settlement: Settlement) -> str | None:
    return None if settlement.record is None else settlement.record.queue


def _published(settlement: Settlement) -> tuple[Envelope, ...]:
    """Return what was confirmed when this was tried before, for this delivery or a lost one."""
    token = _token(settlement)
    if not token.published and settlement.after is not None:
        before = settlement.after.token
        token.published = before.published if isinstance(before, Token) else ()
    return token.published


def _token(settlement: Settlement) -> Token:
    token = settlement.delivery.token
    if not isinstance(token, Token):
        raise TypeError("a delivery of another broker")
    return token
