"""What the settler makes of confirms that come in part, and of deliveries lost in between."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from taskyard.shared.adapters.amqp.intake import Token
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.adapters.amqp.outgoing import Raw
from taskyard.shared.adapters.amqp.settler import Settler
from taskyard.shared.broker import Delivery, PublishStatus, Receipt, Settlement, SettleStatus
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.feed import FeedRecord, encode_feed
from taskyard.workers.recall import Recall


class Wire:
    """A publisher whose next flights end as told, copies and records apart."""

    def __init__(self, *flights: tuple[PublishStatus, PublishStatus]) -> None:
        self._flights = list(flights)
        self.copies: list[Envelope] = []
        self.records = 0
        self.make = SimpleNamespace(job=lambda e: e, parked=lambda e: e, raw=lambda raw: raw)

    async def send(self, items: Sequence[Any], **_: object) -> list[Receipt]:
        of_copies, of_records = self._flights.pop(0)
        self.copies += [item for item in items if isinstance(item, Envelope)]
        self.records += sum(isinstance(item, Raw) for item in items)
        return [Receipt(of_records if isinstance(item, Raw) else of_copies) for item in items]


class Channel:
    """Where deliveries arrived; it takes acknowledgements while it lives."""

    alive = True

    def __init__(self) -> None:
        self.acked: list[int] = []

    def ack(self, tokens: Sequence[Token]) -> None:
        self.acked += [token.tag for token in tokens]
        for token in tokens:
            token.tag = 0


def arrived(channel: Channel, envelope: Envelope) -> Delivery:
    token = Token(channel, 7, None, 0)  # type: ignore[arg-type]
    return Delivery(envelope=envelope, token=token)


def settlement(channel: Channel) -> Settlement:
    envelope = Envelope(id=mint_id(), queue="q", task="q.t", body=b"{}", message_id="m")
    retry = Envelope(id=envelope.id, queue="q", task="q.t", body=b"{}", attempt=2)
    record = FeedRecord(
        event="finished",
        job=envelope.id,
        queue="q",
        task="q.t",
        attempt=1,
        message="m",
        deliveries=1,
        at=1,
        outcome="retried",
    )
    return Settlement(delivery=arrived(channel, envelope), copies=(retry,), record=record)


async def test_large_records_are_not_encoded_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """256 outputs end together: the event loop stands still while they are encoded, twice at most."""
    encoded: list[int] = []

    def encode(records: Sequence[FeedRecord]) -> bytes:
        body = encode_feed(records)
        encoded.append(len(body))
        return body

    monkeypatch.setattr("taskyard.shared.adapters.amqp.settler.encode_feed", encode)
    wire, channel = Wire((DONE, DONE)), Channel()
    settler = Settler(wire, Names("taskyard"), recording=lambda: True)  # type: ignore[arg-type]
    record = settlement(channel).record
    assert record is not None
    large = msgspec.structs.replace(record, output="x" * 64 * 1024)
    assert await settler.record([large] * 256, deadline_s=1)
    assert wire.records >= 16
    assert sum(encoded) < 2.1 * 256 * 64 * 1024


DONE, LATE, NOWHERE = PublishStatus.CONFIRMED, PublishStatus.TIMEOUT, PublishStatus.UNROUTABLE


@pytest.mark.parametrize("times_lost", [0, 1, 2])
async def test_a_copy_that_is_confirmed_is_not_published_twice(times_lost: int) -> None:
    """Pain 10: the record's confirm is late, and meanwhile the delivery may be lost, even again: what
    is stored stands, and only the record is published for the one that comes back.
    """
    late = [(DONE, LATE)] * (1 + times_lost)
    wire, channel = Wire(*late, (DONE, DONE)), Channel()
    settler = Settler(wire, Names("taskyard"), recording=lambda: True)  # type: ignore[arg-type]
    one = settlement(channel)
    recall = Recall()
    assert await settler.settle([one], deadline_s=1) == [SettleStatus.UNDONE]
    for _ in range(times_lost):
        channel.alive = False
        assert await settler.settle([one], deadline_s=1) == [SettleStatus.LOST]
        recall.lost(one)
        channel = Channel()
        again = recall.settle_again(arrived(channel, one.delivery.envelope))
        assert again is not None
        one = again
        assert await settler.settle([one], deadline_s=1) == [SettleStatus.UNDONE]
    assert await settler.settle([one], deadline_s=1) == [SettleStatus.SETTLED]
    assert (len(wire.copies), wire.records) == (1, 2 + times_lost)
    assert channel.acked == [7]


async def test_a_delivery_that_is_lost_before_anything_is_stored_is_left_alone() -> None:
    """Nothing was confirmed: settled with the delivery that comes back, it is published then."""
    wire, channel = Wire((LATE, LATE), (DONE, DONE)), Channel()
    settler = Settler(wire, Names("taskyard"), recording=lambda: True)  # type: ignore[arg-type]
    one, recall = settlement(channel), Recall()
    assert await settler.settle([one], deadline_s=1) == [SettleStatus.UNDONE]
    channel.alive = False
    assert await settler.settle([one], deadline_s=1) == [SettleStatus.LOST]
    recall.lost(one)
    again = recall.settle_again(arrived(Channel(), one.delivery.envelope))
    assert again is not None
    assert await settler.settle([again], deadline_s=1) == [SettleStatus.SETTLED]
    assert len(wire.copies) == 2


async def test_a_record_without_a_feed_is_given_back() -> None:
    """Promise 4: the feed was taken away. The job's end stands, and its record is the caller's to keep."""
    wire, channel = Wire((DONE, NOWHERE)), Channel()
    settler = Settler(wire, Names("taskyard"), recording=lambda: True)  # type: ignore[arg-type]
    assert await settler.settle([settlement(channel)], deadline_s=1) == [SettleStatus.UNRECORDED]
    assert channel.acked == [7]
