"""Outcomes on their way back to those who wait for them."""

from __future__ import annotations

import gc
import threading

import msgspec
import pytest

from taskyard.producer.handle import AsyncHandle, Handle
from taskyard.producer.replies import Replies
from taskyard.shared import ConfigurationError, Job, JobParked, ResultTimeout, Unavailable
from taskyard.shared.feed import Reply


@pytest.fixture
def replies() -> Replies:
    return Replies(None)  # type: ignore[arg-type]  # no inbox is opened here


def done(job_id: str, value: bytes = b"1", outcome: str = "succeeded") -> Reply:
    return Reply(job=job_id, attempt=1, outcome=outcome, value=msgspec.Raw(value))


def handle(replies: Replies, job: Job[object]) -> Handle[object]:
    return Handle(job, replies.expect(job.id))


def test_all_handles_of_a_job_hear_of_it(replies: Replies) -> None:
    """Two handles and many threads that wait all get the one outcome, once it is there."""
    job = Job[object](queue="a", task="b")
    handles = [handle(replies, job), handle(replies, job)]
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda h=handles[n % 2]: found.append(h.result(timeout=10)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    replies.deliver(done(job.id, b'"x"'))
    for thread in threads:
        thread.join(10)
    assert found == ["x"] * 8
    assert handles[0].result(timeout=0) == "x", "and it stays"
    assert handles[0].done


def test_a_job_that_was_not_asked_for_says_so() -> None:
    """Asking for the result of a job sent without reply=True is a mistake, in words."""
    with pytest.raises(ConfigurationError, match=r"options\(reply=True\)"):
        Handle(Job[object](queue="a", task="b"), None).result()


def test_waiting_ends_in_time_and_can_be_repeated(replies: Replies) -> None:
    """A result that does not come raises after the timeout; asked again, it may have come."""
    job = Job[object](queue="a", task="b")
    waiting = handle(replies, job)
    with pytest.raises(ResultTimeout, match=job.id) as caught:
        waiting.result(timeout="50ms")
    assert caught.value.timeout_s == 0.05
    assert isinstance(caught.value, TimeoutError)
    replies.deliver(done(job.id))
    assert waiting.result(timeout=0) == 1


def test_a_parked_job_may_still_succeed(replies: Replies) -> None:
    """A later outcome replaces `parked`; nothing replaces success, not even a duplicate's end."""
    job = Job[object](queue="a", task="b")
    waiting = handle(replies, job)
    replies.deliver(done(job.id, outcome="parked"))
    with pytest.raises(JobParked):
        waiting.result(timeout=0)
    replies.deliver(done(job.id, b"2"))
    replies.deliver(done(job.id, outcome="failed"))
    assert waiting.result(timeout=0) == 2


def test_forgotten_handles_cost_nothing(replies: Replies) -> None:
    """What nobody holds a handle for is forgotten, answered or not."""
    for _ in range(1000):
        handle(replies, Job[object](queue="a", task="b"))
    gc.collect()
    assert not replies._awaited
    replies.deliver(done("unknown"))
    assert not replies._awaited


def test_closing_ends_the_waiting(replies: Replies) -> None:
    """Who waits for a result when the producer is closed is not left waiting for ever."""
    job = Job[object](queue="a", task="b")
    waiting = handle(replies, job)
    threading.Timer(0.05, replies.abandon, ["the producer was closed"]).start()
    with pytest.raises(Unavailable, match="closed.*the job goes on"):
        waiting.result()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"job":1}', b"\xff", b'{"job": "\xff\xfe"}'])
def test_a_foreign_message_in_the_inbox_is_dropped(replies: Replies, body: bytes) -> None:
    """What is no reply is logged and does no harm."""
    replies._read_one(body)


class LostInbox:
    """An address that the broker takes away."""

    address = "a"

    async def take(self) -> list[bytes]:
        raise Unavailable("the queue is gone")

    async def close(self) -> None: ...


async def test_a_lost_address_ends_all_waiting() -> None:
    """ZS-22, B-13: nobody waits for ever for what cannot arrive, and the next job is heard of again."""

    class Broker:
        async def inbox(self) -> LostInbox:
            return LostInbox()

    replies = Replies(Broker())  # type: ignore[arg-type]  # all of a broker that is used
    job = Job[object](queue="a", task="b")
    waiting = AsyncHandle(job, replies.expect(job.id))
    await replies.open(1)
    with pytest.raises(Unavailable, match=rf"job {job.id}: .*lost \(the queue is gone\).*goes on"):
        await waiting.result(timeout=10)
    assert replies.address is None
    again = AsyncHandle(job, replies.expect(job.id))
    replies.deliver(done(job.id))
    assert await again.result(timeout=0) == 1
