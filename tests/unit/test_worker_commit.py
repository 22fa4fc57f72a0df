"""Group commit: what one settlement does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest

from support.eventually import eventually
from taskyard.shared.broker import Broker, Delivery, Settlement, SettleStatus
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FINISHED, FeedRecord
from taskyard.shared.metrics import Count
from taskyard.workers.backlog import Backlog
from taskyard.workers.commit import Committer


class Choosy:
    """A broker that raises for any batch with a job named `bad` in it."""

    blocked = False

    def __init__(self) -> None:
        self.settled: list[str] = []

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        ids = [settlement.delivery.envelope.id for settlement in batch]
        if "bad" in ids:
            raise OverflowError("it cannot be encoded")
        self.settled += ids
        return [SettleStatus.SETTLED] * len(batch)


async def test_a_settlement_that_cannot_be_encoded_does_not_keep_the_others(tmp_path: Path) -> None:
    """Whatever ends with it or after it is settled; it alone is tried again."""
    broker = Choosy()
    committer = Committer(
        cast("Broker", broker),
        Backlog(tmp_path, namespace="n", unrecorded=Count()),
        deadline_s=1,
        on_settled=lambda _: None,
        on_lost=lambda _: None,
        on_held=lambda _: None,
    )
    for job_id in ("a", "bad", "b", "c"):
        committer.add(
            Settlement(delivery=Delivery(envelope=Envelope(id=job_id, queue="q", task="t")))
        )
    await eventually(lambda: broker.settled == ["a", "b", "c"])
    committer.add(Settlement(delivery=Delivery(envelope=Envelope(id="d", queue="q", task="t"))))
    await eventually(lambda: "d" in broker.settled)
    assert committer.unsettled == 1
    committer.close()


class Blocked(Choosy):
    """A broker under an alarm: it takes no publishes."""

    blocked = True


@pytest.mark.parametrize(
    "large", [{"output": "x" * 1024}, {"value": msgspec.Raw(b'"' + b"x" * 1022 + b'"')}]
)
async def test_what_waits_for_the_end_of_an_alarm_is_bounded_with_its_records(
    tmp_path: Path, large: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and values are memory as bodies are: beyond the bound no more deliveries are asked for."""
    monkeypatch.setattr("taskyard.workers.commit.HELD_BYTES", 10 * 1024)
    waiting: list[int] = []
    committer = Committer(
        cast("Broker", Blocked()),
        Backlog(tmp_path, namespace="n", unrecorded=Count()),
        deadline_s=1,
        on_settled=lambda _: None,
        on_lost=lambda _: None,
        on_held=lambda held: waiting.append(held["q"]),
    )
    for number in range(20):
        envelope = Envelope(id=str(number), queue="q", task="t", body=b"")
        record = FeedRecord.of(envelope, FINISHED, at_ms=1, worker="w")
        committer.add(
            Settlement(
                delivery=Delivery(envelope=envelope),
                copies=(envelope,),
                record=msgspec.structs.replace(record, **large),
            )
        )
        await asyncio.sleep(0)  # its turn
    assert waiting
    assert max(waiting) == 10
    committer.close()
