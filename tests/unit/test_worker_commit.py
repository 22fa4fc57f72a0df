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
from taskyard.workers.commit import BATCH, Committer


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


class Slow(Choosy):
    """A broker that confirms what needs a publish only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = False
        self.flying: list[int] = []
        self.confirms: list[asyncio.Future[None]] = []

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        if any(settlement.record is not None for settlement in batch):
            self.flying.append(len(batch))
            self.confirms.append(asyncio.get_running_loop().create_future())
            await self.confirms[-1]
        return await super().settle(batch, deadline_s=deadline_s)


def recorded(number: int) -> Settlement:
    envelope = Envelope(id=str(number), queue="q", task="t", body=b"")
    record = FeedRecord.of(envelope, FINISHED, at_ms=1, worker="w")
    return Settlement(delivery=Delivery(envelope=envelope), record=record)


async def test_a_second_commit_goes_beside_the_first_when_it_is_full_and_a_third_never(
    tmp_path: Path,
) -> None:
    """A worker that is busy does not stand still for confirms, and few records make few messages."""
    broker = Slow()
    backlog = Backlog(tmp_path, namespace="n", unrecorded=Count())
    committer = committer_of(broker, backlog)
    committer.add(recorded(0))
    await eventually(lambda: broker.flying == [1])
    for number in range(BATCH - 1):
        committer.add(recorded(number))
    await settled_down()
    assert broker.flying == [1]
    committer.add(recorded(BATCH))
    await eventually(lambda: broker.flying == [1, BATCH])
    for number in range(BATCH + 1):
        committer.add(recorded(number))
    await settled_down()
    assert broker.flying == [1, BATCH]
    broker.confirms[0].set_result(None)
    await eventually(lambda: broker.flying == [1, BATCH, BATCH])
    broker.confirms[1].set_result(None)
    broker.confirms[2].set_result(None)
    await eventually(lambda: broker.flying == [1, BATCH, BATCH, 1])
    broker.confirms[3].set_result(None)
    await committer.wait_idle()
    assert len(broker.settled) == 2 * BATCH + 2


async def test_what_needs_no_publish_passes_two_commits_that_an_alarm_holds_up(
    tmp_path: Path,
) -> None:
    """Both of the commits under way wait for confirms, and acknowledgements go on all the same."""
    broker = Slow()
    backlog = Backlog(tmp_path, namespace="n", unrecorded=Count())
    committer = committer_of(broker, backlog)
    for number in range(2 * BATCH):
        committer.add(recorded(number))
    await eventually(lambda: broker.flying == [BATCH, BATCH])
    broker.blocked = True
    committer.add(recorded(-1))
    await eventually(lambda: broker.settled == ["-1"])
    for confirm in broker.confirms:
        confirm.set_result(None)
    await committer.wait_idle()
    backlog.close()


def committer_of(broker: Choosy, backlog: Backlog) -> Committer:
    return Committer(
        cast("Broker", broker),
        backlog,
        deadline_s=1,
        on_settled=lambda _: None,
        on_lost=lambda _: None,
        on_held=lambda _: None,
    )


async def settled_down() -> None:
    """Let everything have its turn that can go on by itself."""
    for _ in range(10):
        await asyncio.sleep(0)
