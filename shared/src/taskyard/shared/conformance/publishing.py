"""The suite's room for publishing: receipts, unknown queues, and what a job carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import pytest

from taskyard.shared.broker import PublishStatus, Settlement, SettleStatus
from taskyard.shared.conformance.scene import (
    DEADLINE_S,
    Room,
    content,
    expect_nothing,
    finish,
    ids,
    job,
    jobs,
    publish,
    settle,
    take,
)
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.errors import Unavailable
from taskyard.shared.outcomes import ErrorInfo

if TYPE_CHECKING:
    from taskyard.shared.conformance.harness import Harness

_DAY_MS: Final = 86_400_000
_MIB: Final = 1024 * 1024


def full(queue: str, now_ms: int) -> Envelope:
    """Return a job with every field set, none to its default, and much of it beyond ASCII."""
    return Envelope(
        id=mint_id(),
        queue=queue,
        task=f"{queue}.verify",
        body='{"name":"Zoë ☃ 𝄞","n":7}'.encode(),
        priority=7,
        attempt=3,
        deliveries=2,
        enqueued_ms=now_ms - 5_001,
        not_before_ms=now_ms - 1_003,
        expires_ms=now_ms + 30 * _DAY_MS + 7,
        ttr_ms=90_123,
        app="Kässe-☃",
        context='{"tenant":"Ünïcode","locale":"ru_РУ"}',
        parent=mint_id(),
        name="Zoë ☃",
        submitted_from="kässe-3:4711",
        generation=4,
        base=2,
        retry='{"attempts":9,"first":0.5}',
        reply=("inbox.one", "inbox.two"),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        enc_key="k1",
        enc_nonce="AAECAwQFBgcICQoL",
        extra={"ty-future": "später", "ty-number": 12, "ty-flag": True},
    )


class Publishing(Room):
    """A confirmed job is stored and routable (promise 1); nothing else is ever pretended."""

    async def test_each_job_gets_a_receipt_with_its_own_message_id(self, harness: Harness) -> None:
        """Receipts come in the order of the jobs; a message id is per publish (ZS-02, ZS-30)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = jobs(queue, 5)
        receipts = await publish(broker, *sent, sent[0])
        message_ids = [receipt.message_id for receipt in receipts]
        assert all(message_ids)
        assert len(set(message_ids)) == 6
        consumer = await broker.consume(queue, credit=10)
        got = await take(harness, consumer, 6)
        assert [d.envelope.message_id for d in got] == message_ids
        assert ids([d.envelope for d in got]) == ids([*sent, sent[0]])

    async def test_publishing_nothing_is_fine(self, harness: Harness) -> None:
        """An empty batch has no receipts."""
        await harness.queues()
        broker = await harness.open()
        assert await broker.publish([], deadline_s=DEADLINE_S) == []

    async def test_an_unknown_queue_is_unroutable(self, harness: Harness) -> None:
        """The job is named unroutable, and its neighbours in the batch go on (ZS-15)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        unknown = harness.fresh("nobody")
        sent = [job(queue), job(unknown), job(queue)]
        receipts = await broker.publish(sent, deadline_s=DEADLINE_S)
        assert [receipt.status for receipt in receipts] == [
            PublishStatus.CONFIRMED,
            PublishStatus.UNROUTABLE,
            PublishStatus.CONFIRMED,
        ]
        consumer = await broker.consume(queue, credit=10)
        got = await take(harness, consumer, 2)
        assert ids([d.envelope for d in got]) == [sent[0].id, sent[2].id]

    async def test_every_field_survives(self, harness: Harness) -> None:
        """What is published is what is delivered, field by field (LQ-03, ZS-03, LQ-13)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = full(queue, broker.now_ms())
        await publish(broker, sent)
        consumer = await broker.consume(queue, credit=1)
        (got,) = await take(harness, consumer, 1)
        assert content(got.envelope) == content(sent)
        assert got.defect is None
        assert not got.anonymous
        assert not got.redelivered
        assert got.failures in (0, None)

    async def test_what_is_left_out_reads_as_its_default(self, harness: Harness) -> None:
        """A job with nothing but the necessary arrives with the documented defaults (LQ-04)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = job(queue)
        await publish(broker, sent)
        consumer = await broker.consume(queue, credit=1)
        (got,) = await take(harness, consumer, 1)
        assert content(got.envelope) == content(sent)

    @pytest.mark.parametrize("size", [0, 1, _MIB])
    async def test_a_body_of_any_size_and_bytes_survives(self, harness: Harness, size: int) -> None:
        """A broker never decodes a body: empty, binary and 1 MiB ones pass (ZS-18, BS-01)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        body = (bytes(range(256)) * (size // 256 + 1))[:size]
        sent = msgspec.structs.replace(
            job(queue, body=body), content_type="application/vnd.taskyard.sealed"
        )
        await publish(broker, sent)
        consumer = await broker.consume(queue, credit=1)
        (got,) = await take(harness, consumer, 1)
        assert got.envelope.body == body
        assert got.envelope.content_type == sent.content_type

    async def test_unknown_headers_survive_a_republish(self, harness: Harness) -> None:
        """Whoever re-publishes keeps the `ty-*` headers that it does not know (design §12)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = full(queue, broker.now_ms())
        await publish(broker, sent)
        consumer = await broker.consume(queue, credit=1)
        (first,) = await take(harness, consumer, 1)
        again = msgspec.structs.replace(first.envelope, attempt=first.envelope.attempt + 1)
        assert await settle(broker, Settlement(delivery=first, copies=(again,))) == [
            SettleStatus.SETTLED
        ]
        (second,) = await take(harness, consumer, 1)
        assert content(second.envelope) == content(again)
        assert dict(second.envelope.extra or {}) == {
            "ty-future": "später",
            "ty-number": 12,
            "ty-flag": True,
        }
        assert second.envelope.message_id != first.envelope.message_id

    async def test_every_field_survives_parking(self, harness: Harness) -> None:
        """A parked job carries all that it had, and why it was parked (LQ-16, GM-02)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = full(queue, broker.now_ms())
        await publish(broker, sent)
        consumer = await broker.consume(queue, credit=1)
        (got,) = await take(harness, consumer, 1)
        parking = Parking(
            reason="exhausted",
            at_ms=broker.now_ms(),
            detail="Größe ☃ passt nicht",
            error=ErrorInfo(
                type="shop.errors.CardDeclined",
                message="отказано",
                traceback="Traceback (most recent call last):\n  …\n" * 200,
                fingerprint="shop.errors.CardDeclined@shop/cards.py:41",
            ),
            worker="höst:4711",
        )
        parked = msgspec.structs.replace(got.envelope, parking=parking)
        assert await settle(broker, Settlement(delivery=got, park=parked)) == [SettleStatus.SETTLED]
        (found,) = [entry async for entry in broker.parked(queue)]
        assert content(found.envelope) == content(parked)
        assert found.envelope.parking == parking

    async def test_a_batch_keeps_its_order(self, harness: Harness) -> None:
        """Jobs of one batch, and of batches one after the other, are first in first out."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        first, second = jobs(queue, 200), jobs(queue, 100)
        await publish(broker, *first)
        await publish(broker, *second)
        consumer = await broker.consume(queue, credit=50)
        got: list[str] = []
        while len(got) < 300:
            batch = await consumer.take()
            got.extend(ids([d.envelope for d in batch]))
            await finish(broker, batch)
        assert got == ids([*first, *second])

    async def test_a_closed_handle_publishes_nothing(self, harness: Harness) -> None:
        """After `close` a publish is refused as unavailable, never lost in silence (ZS-24)."""
        (queue,) = await harness.queues()
        broker, other = await harness.open(), await harness.open()
        await broker.close()
        try:
            receipts = await broker.publish([job(queue)], deadline_s=1.0)
        except Unavailable:
            receipts = []
        assert all(receipt.status is PublishStatus.UNAVAILABLE for receipt in receipts)
        consumer = await other.consume(queue, credit=1)
        await expect_nothing(harness, consumer)
