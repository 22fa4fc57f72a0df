"""How envelopes are gathered into calls, and what each sender is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from support.eventually import eventually
from taskyard.producer.direct import Direct
from taskyard.producer.drain_gate import DrainGate
from taskyard.producer.publisher import BATCH, CALLS, Promise, Publisher
from taskyard.producer.tally import Tally
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.clock import SystemClock
from taskyard.shared.control import ControlRecord
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.errors import Unavailable
from taskyard.shared.metrics import Metrics

CONFIRMED = PublishStatus.CONFIRMED


class HeldBroker:
    """Notes each call, and answers it when the test says so."""

    connected, blocked = True, False

    async def draining(self, *, deadline_s: float) -> ControlRecord | None:
        return None

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], float, asyncio.Future[None]]] = []
        self.answer_at_once = False

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        gate = asyncio.get_running_loop().create_future()
        self.calls.append(([job.id for job in jobs], deadline_s, gate))
        if not self.answer_at_once:
            await gate
        return [Receipt(status=CONFIRMED, message_id=job.id) for job in jobs]

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self.calls[number][2].set_result(None)


class Rig:
    def __init__(self) -> None:
        self.broker = HeldBroker()
        self.metrics = Metrics()
        self.opened: list[float] = []
        self.closed = ""
        clock = SystemClock()
        gate = DrainGate(self.broker, clock)  # type: ignore[arg-type]
        self.publisher = Publisher(
            Direct(self.broker, self._open, clock, gate=gate).publish,  # type: ignore[arg-type]
            tally=Tally(self.metrics),
            clock=clock,
        )

    async def _open(self, deadline_s: float) -> None:
        self.opened.append(deadline_s)
        if self.closed:
            raise Unavailable(self.closed)

    def send(self, deadline_s: float = 5.0) -> asyncio.Task[Receipt]:
        return asyncio.create_task(self.publisher.publish(envelope(), deadline_s))

    def counted(self, outcome: str) -> float:
        return self.metrics.count("jobs_published", "q", "q.t", outcome).value


def envelope() -> Envelope:
    return Envelope(id=mint_id(), queue="q", task="q.t")


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_lone_sender_waits_for_nothing(rig: Rig) -> None:
    """With no call under way a job goes out at once, alone."""
    rig.broker.answer_at_once = True
    receipt = await rig.publisher.publish(envelope(), 5)
    assert receipt.status is CONFIRMED
    assert len(rig.broker.calls) == 1
    assert rig.counted("confirmed") == 1


async def test_what_is_sent_meanwhile_goes_out_together(rig: Rig) -> None:
    """While the allowed calls are under way, everything gathers for the next, in order."""
    sends = [rig.send() for _ in range(CALLS + 100)]
    await eventually(lambda: len(rig.broker.calls) == CALLS)
    assert [len(ids) for ids, _, _ in rig.broker.calls] == [1] * CALLS
    rig.broker.release(0)
    await eventually(lambda: len(rig.broker.calls) == CALLS + 1)
    assert len(rig.broker.calls[CALLS][0]) == 100
    rig.broker.release(*range(1, CALLS + 1))
    receipts = await asyncio.gather(*sends)
    published = [job_id for ids, _, _ in rig.broker.calls for job_id in ids]
    assert [receipt.message_id for receipt in receipts] == published
    assert rig.counted("confirmed") == len(sends)


async def test_a_call_is_bounded(rig: Rig) -> None:
    """However much waits, one call carries at most so much."""
    sends = [rig.send() for _ in range(CALLS + BATCH + 1)]
    await eventually(lambda: len(rig.broker.calls) == CALLS)
    rig.broker.answer_at_once = True
    rig.broker.release(*range(CALLS))
    await asyncio.gather(*sends)
    assert [len(ids) for ids, _, _ in rig.broker.calls[CALLS:]] == [BATCH, 1]


async def test_deadlines_are_not_mixed(rig: Rig) -> None:
    """Jobs of different deadlines go out in calls of their own, each with its own deadline."""
    first = [rig.send() for _ in range(CALLS)]
    await eventually(lambda: len(rig.broker.calls) == CALLS)
    others = [rig.send(1.0), rig.send(1.0), rig.send(9.0)]
    await asyncio.sleep(0)
    rig.broker.answer_at_once = True
    rig.broker.release(*range(CALLS))
    await asyncio.gather(*first, *others)
    later = rig.broker.calls[CALLS:]
    assert [len(ids) for ids, _, _ in later] == [2, 1]
    assert later[0][1] <= 1.0 < later[1][1] <= 9.0


async def test_waiting_for_a_call_counts_into_the_deadline(rig: Rig) -> None:
    """A job that no call could take within its deadline was not sent, and says so."""
    stuck = [rig.send() for _ in range(CALLS)]
    await eventually(lambda: len(rig.broker.calls) == CALLS)
    receipt = await asyncio.wait_for(rig.send(0.05), 2)
    assert receipt.status is PublishStatus.UNAVAILABLE
    rig.broker.release(*range(CALLS))
    await asyncio.gather(*stuck)
    assert len(rig.broker.calls) == CALLS, "it is not sent afterwards either"
    assert rig.counted("unavailable") == 1


async def test_a_cancelled_sender_sends_nothing_later(rig: Rig) -> None:
    """Who stopped waiting before the job was handed over does not send it."""
    stuck = [rig.send() for _ in range(CALLS)]
    await eventually(lambda: len(rig.broker.calls) == CALLS)
    gone = rig.send()
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    rig.broker.release(*range(CALLS))
    await asyncio.gather(*stuck)
    await rig.publisher.close()
    assert len(rig.broker.calls) == CALLS


async def test_no_connection_is_a_receipt(rig: Rig) -> None:
    """A broker that cannot be reached is reported per job, with its reason."""
    rig.closed = "nobody answers"
    receipt = await rig.publisher.publish(envelope(), 1)
    assert receipt.status is PublishStatus.UNAVAILABLE
    assert "nobody answers" in receipt.detail
    receipts = await rig.publisher.publish_many([envelope(), envelope()], 1)
    assert [receipt.status for receipt in receipts] == [PublishStatus.UNAVAILABLE] * 2
    assert rig.counted("unavailable") == 3


async def test_a_broken_adapter_leaves_nobody_waiting(rig: Rig) -> None:
    """Whatever an adapter raises reaches each sender, and later jobs go out again."""

    async def broken(jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        raise ZeroDivisionError

    whole, rig.broker.publish = rig.broker.publish, broken  # type: ignore[method-assign]
    promises = [Promise(envelope(), 5, SystemClock().monotonic_s()) for _ in range(3)]
    rig.publisher.submit_all(promises)
    for promise in promises:
        with pytest.raises(ZeroDivisionError):
            await promise.future
    with pytest.raises(ZeroDivisionError):
        await rig.publisher.publish(envelope(), 5)
    rig.broker.publish = whole  # type: ignore[method-assign]
    rig.broker.answer_at_once = True
    assert (await rig.publisher.publish(envelope(), 5)).status is CONFIRMED


async def test_closing_waits_for_what_is_under_way(rig: Rig) -> None:
    """What was handed over gets its receipt; what was not is told so."""
    promises = [Promise(envelope(), 5, SystemClock().monotonic_s()) for _ in range(2)]
    rig.publisher.submit_all(promises)
    await eventually(lambda: rig.broker.calls)
    closing = asyncio.create_task(rig.publisher.close())
    await asyncio.sleep(0)
    assert not closing.done()
    rig.broker.release(0)
    await closing
    assert [promise.future.result().status for promise in promises] == [CONFIRMED] * 2
