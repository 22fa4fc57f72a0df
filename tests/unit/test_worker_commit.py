"""Group commit: what one settlement does to the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from support.eventually import eventually
from taskyard.shared.broker import Broker, Delivery, Settlement, SettleStatus
from taskyard.shared.envelope import Envelope
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
