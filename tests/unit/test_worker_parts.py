"""The smaller parts of a worker: deadlines, threads, backlog, recall, budget."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import msgspec

from support.eventually import eventually
from taskyard.shared.broker import Delivery, Settlement
from taskyard.shared.clock import SystemClock
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FeedRecord
from taskyard.shared.metrics import Count
from taskyard.workers.backlog import Backlog
from taskyard.workers.deadlines import Deadlines
from taskyard.workers.machinery import Budget
from taskyard.workers.recall import Recall
from taskyard.workers.threads import Threads


class Sleeper:
    """Wants to be woken once."""

    def __init__(self, deadlines: Deadlines, wake_s: float) -> None:
        self.deadlines = deadlines
        self.wake_s = wake_s
        self.woken = asyncio.Event()

    def wake(self, now_s: float) -> None:
        assert now_s >= self.wake_s
        self.deadlines.forget(self)
        self.woken.set()


async def test_deadlines_wake_in_time_and_in_any_order():
    """One timer serves all; the nearest decides when it rings."""
    clock = SystemClock()
    deadlines = Deadlines(asyncio.get_running_loop(), clock)
    now_s = clock.monotonic_s()
    late, soon = Sleeper(deadlines, now_s + 30), Sleeper(deadlines, now_s + 0.05)
    deadlines.watch(late)
    deadlines.watch(soon)
    await asyncio.wait_for(soon.woken.wait(), 2)
    assert not late.woken.is_set()
    assert len(deadlines) == 1
    late.wake_s = clock.monotonic_s() + 0.05
    deadlines.watch(late)
    await asyncio.wait_for(late.woken.wait(), 2)
    assert len(deadlines) == 0
    deadlines.close()


async def test_a_deadline_that_moves_away_is_not_rung():
    """A touch costs no timer: the sweep finds that it is not yet time."""
    clock = SystemClock()
    deadlines = Deadlines(asyncio.get_running_loop(), clock)
    item = Sleeper(deadlines, clock.monotonic_s() + 0.03)
    deadlines.watch(item)
    item.wake_s += 0.1
    await asyncio.wait_for(item.woken.wait(), 2)
    deadlines.close()


async def test_threads_grow_with_what_runs_and_are_used_again():
    """A stuck call costs its thread, not a slot; a free thread takes the next call."""
    threads = Threads(asyncio.get_running_loop(), "t")
    release = threading.Event()
    results: list[object] = []
    threads.submit(release.wait, results.append)
    for number in range(20):
        threads.submit(partial(int, number), results.append)
        await eventually(partial(results.__contains__, number))
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("t-")}
    assert names == {"t-1", "t-2"}
    assert threads.busy == 1
    release.set()
    await eventually(lambda: True in results)
    threads.close()


def test_a_budget_says_when_it_is_spent():
    """`--max-jobs`: the last attempt is started, and then the worker is told to stop."""
    spent = []
    budget = Budget(2, lambda: spent.append(True))
    assert [budget.take(), budget.take(), budget.take()] == [True, True, False]
    assert spent == [True]
    assert Budget(None, lambda: None).take()


def record(number: int) -> FeedRecord:
    return FeedRecord(
        event="finished",
        job=str(number),
        queue="q",
        task="t",
        attempt=1,
        deliveries=1,
        message="m",
        at=1,
    )


async def test_the_backlog_keeps_records_in_order_until_they_are_taken(tmp_path):
    """Under an alarm records go to disk, and to the feed afterwards."""
    backlog = Backlog(tmp_path, namespace="n", unrecorded=Count())
    backlog.add([record(n) for n in range(300)])
    backlog.add([record(n) for n in range(300, 600)])
    taken: list[str] = []
    refuse = [False, False, True]

    async def take(records):
        if refuse and refuse.pop(0):
            return False
        taken.extend(r.job for r in records)
        return True

    assert not await backlog.flush(take)
    assert not backlog.empty
    taken.clear()
    assert await backlog.flush(take)
    assert taken == [str(n) for n in range(600)]
    assert backlog.empty
    backlog.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_dead_process_leaves_its_backlog_to_the_next(tmp_path):
    """What was not handed over is found at the next start, half a line excepted."""
    first = Backlog(tmp_path, namespace="n", unrecorded=Count())
    first.add([record(1), record(2)])
    other = Backlog(tmp_path, namespace="n", unrecorded=Count())
    other.claim()
    assert other.empty, "a file whose process lives is left alone"
    first.close()
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b'{"event":"fin')
    other.claim()
    taken: list[str] = []

    async def take(records):
        taken.extend(r.job for r in records)
        return True

    assert await other.flush(take)
    assert taken == ["1", "2"]
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_backlog_drops_and_counts(tmp_path):
    """Nothing grows without bound; what is dropped is counted."""
    unrecorded = Count()
    backlog = Backlog(tmp_path, namespace="n", unrecorded=unrecorded, limit_bytes=1_000)
    for number in range(100):
        backlog.add([record(number)])
    assert 80 < unrecorded.value < 100
    backlog.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000


async def test_outputs_do_not_crowd_outcomes_out_of_the_backlog(tmp_path):
    """Half of it is for outputs; from then on outcomes are kept without."""
    unrecorded = Count()
    backlog = Backlog(tmp_path, namespace="n", unrecorded=unrecorded, limit_bytes=40_000)
    for number in range(100):
        backlog.add([msgspec.structs.replace(record(number), output="x" * 1000)])
    kept: list[str] = []

    async def take(records):
        kept.extend(each.output for each in records)
        return True

    assert await backlog.flush(take)
    backlog.close()
    assert not unrecorded.value
    assert kept[0] == "x" * 1000
    assert kept[-1].startswith("[left out")
    assert len(kept) == 100


def envelope(**changes: object) -> Envelope:
    return msgspec.structs.replace(Envelope(id="j", queue="q", task="t", message_id="m"), **changes)


def test_a_lost_run_is_settled_and_not_repeated():
    """A connection that we lost ourselves charges nobody, and repeats nothing that has ended."""
    recall = Recall()
    ended = Settlement(delivery=Delivery(envelope=envelope()))
    recall.lost(ended)
    again = Delivery(envelope=envelope(), redelivered=True)
    settlement = recall.settle_again(again)
    assert settlement is not None
    assert settlement.delivery is again
    assert recall.settle_again(again) is None


def test_a_lost_hand_back_runs_again_uncharged():
    """It had not ended, so it runs; but nobody died."""
    recall = Recall()
    recall.lost(Settlement(delivery=Delivery(envelope=envelope()), copies=(envelope(),)))
    again = Delivery(envelope=envelope(), redelivered=True)
    assert recall.settle_again(again) is None
    assert recall.losses(again) == 1
    assert recall.losses(Delivery(envelope=envelope(message_id="other"))) == 0


def test_recall_is_bounded():
    """The oldest lost runs are forgotten first."""
    recall = Recall(limit=3)
    for number in range(10):
        recall.lost(Settlement(delivery=Delivery(envelope=envelope(id=str(number)))))
    assert len(recall) == 3
    assert recall.losses(Delivery(envelope=envelope(id="9"))) == 1


def test_recall_keeps_no_more_than_it_must():
    """Promise 7: the bodies of lost deliveries are not kept; what is to be published has a bound."""
    recall = Recall(limit_bytes=3 * 1000)
    body = b"x" * 1000
    for number in range(10):
        lost = envelope(id=str(number), body=body)
        retry = envelope(id=str(number), body=body, attempt=2)
        recall.lost(Settlement(delivery=Delivery(envelope=lost), copies=(retry,)))
    assert len(recall) == 3
    again = Delivery(envelope=envelope(id="9", body=body))
    settlement = recall.settle_again(again)
    assert settlement is not None
    assert settlement.delivery is again
    assert settlement.copies[0].body == body
    for number in range(10):
        done = Delivery(envelope=envelope(id=f"done {number}", body=body))
        recall.lost(Settlement(delivery=done))
    assert len(recall) == 2 + 10
    assert body not in [kept.delivery.envelope.body for kept, _ in recall._lost.values()]


def test_recall_counts_what_is_recorded():
    """Promise 7: outputs and values are held as bodies are, within the same bound."""
    recall = Recall(limit_bytes=3 * 1000)
    for number in range(10):
        ended = msgspec.structs.replace(
            record(number), output="x" * 600, value=msgspec.Raw(b"1" * 400)
        )
        delivery = Delivery(envelope=envelope(id=str(number)))
        recall.lost(Settlement(delivery=delivery, record=ended))
    assert len(recall) == 3


def test_a_settled_run_that_comes_again_is_only_acknowledged():
    """Its copies and its record are durable: nothing of it is published a second time."""
    recall = Recall()
    copy = envelope(attempt=2, message_id="")
    recall.settled([Settlement(delivery=Delivery(envelope=envelope()), copies=(copy,))])
    again = Delivery(envelope=envelope(), redelivered=True)
    for _ in range(2):  # the second acknowledgement may be lost as well
        settlement = recall.settle_again(again)
        assert settlement is not None
        assert settlement.delivery is again
        assert not settlement.publishes
    other = Delivery(envelope=envelope(message_id="other"), redelivered=True)
    assert recall.settle_again(other) is None


def test_settled_runs_without_a_message_id_are_not_recognised():
    """A foreign client's second publish of a job is another run."""
    recall = Recall()
    recall.settled([Settlement(delivery=Delivery(envelope=envelope(message_id="")))])
    again = Delivery(envelope=envelope(message_id=""), redelivered=True)
    assert recall.settle_again(again) is None


def test_recall_of_settled_runs_is_bounded():
    """The last ones are known, in whole batches; older ones are forgotten."""
    recall = Recall(settled_limit=5)
    for number in range(0, 20, 2):
        recall.settled(
            [
                Settlement(delivery=Delivery(envelope=envelope(id=str(each))))
                for each in (number, number + 1)
            ]
        )
    known = [
        number
        for number in range(20)
        if recall.settle_again(Delivery(envelope=envelope(id=str(number)), redelivered=True))
    ]
    assert known == [14, 15, 16, 17, 18, 19]
