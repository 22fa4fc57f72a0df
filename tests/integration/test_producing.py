"""Publishing on every broker: what is confirmed, what is refused, and how fast it must be."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.broker import BrokerUnderTest
from support.process import Program
from support.responder import answering, create_queues, opened, succeed, take
from taskyard.producer import AsyncProducer, Producer
from taskyard.shared import (
    Context,
    InvalidArguments,
    Job,
    JobFailed,
    PartialSendError,
    PayloadTooLarge,
    Queue,
    ResultTimeout,
    UnknownQueue,
    bind_values,
)
from taskyard.shared.broker import PublishStatus
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.feed import Reply
from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.settings import Settings

mail = Queue("producing")


@mail.task
async def write(ctx: Context, to: str, copies: int = 1) -> list[str]: ...  # type: ignore[empty-body]


@pytest.fixture
async def url(broker_url: BrokerUnderTest) -> str:
    await create_queues(broker_url.url, mail.name)
    return broker_url.url


async def test_a_job_is_stored_as_it_was_sent(url: str) -> None:
    """Its id, arguments, application, parent's absence and values are what the worker sees (ZS-02)."""
    async with AsyncProducer(url, app="shop") as producer:
        with bind_values(tenant="acme"):
            handle = await producer.send(write, to="a@example.org")
    (sent,) = await take(url, mail.name, 1)
    assert sent.id == handle.id
    assert (sent.task, sent.body) == ("producing.write", b'{"to":"a@example.org"}')
    assert (sent.app, sent.context, sent.parent) == ("shop", '{"tenant":"acme"}', None)
    assert (sent.attempt, sent.deliveries, sent.priority) == (1, 1, 4)
    assert sent.message_id


async def test_what_changes_after_sending_is_not_seen(url: str) -> None:
    """The arguments are those of the moment of sending (ZS-03)."""
    order = {"x": 1}
    async with AsyncProducer(url) as producer:
        await producer.send(Job(queue=mail.name, task="write", args=order))
        order["x"] = 2
    (sent,) = await take(url, mail.name, 1)
    assert sent.body == b'{"x":1}'


async def test_no_worker_code_is_needed(url: str) -> None:
    """A task known by name only is sent as well (ZP-01)."""
    async with AsyncProducer(url) as producer:
        await producer.send(Job(queue=mail.name, task="known.elsewhere", args={"n": 7}))
    (sent,) = await take(url, mail.name, 1)
    assert sent.task == "producing.known.elsewhere"


@pytest.mark.parametrize("delay", [None, 60])
async def test_an_unknown_queue_is_refused(url: str, delay: float | None) -> None:
    """Pains 7 and 8: Delayed or not, the error names the queue, the namespace, and what is declared (ZS-15)."""
    job = Job[object](queue="produzing", task="write", delay=delay)
    async with AsyncProducer(url) as producer:
        with pytest.raises(
            UnknownQueue, match="'produzing' does not exist in namespace 'taskyard'"
        ) as caught:
            await producer.send(job)
        assert "Did you mean 'producing'?" in str(caught.value)
        assert caught.value.job_id == job.id
        with pytest.raises(PartialSendError) as partly:
            await producer.send_many([write.job(to="a"), job, write.job(to="b")])
    assert len(partly.value.sent) == 2
    assert list(partly.value.failed) == [job.id]
    assert isinstance(partly.value.failed[job.id], UnknownQueue)
    assert len(await take(url, mail.name, 2)) == 2


async def test_too_much_is_refused_before_it_is_sent(url: str) -> None:
    """Arguments over the limit, or of the wrong type, never reach the broker (ZS-18, B-28)."""
    async with AsyncProducer(settings=Settings(broker_url=url, payload_limit=10_000)) as producer:
        with pytest.raises(PayloadTooLarge, match=r"10\d\d\d bytes.*10000"):
            await producer.send(write, to="x" * 10_000)
        with pytest.raises(PayloadTooLarge):
            await producer.send_many([write.job(to="x" * 10_000)])
        with pytest.raises(InvalidArguments, match="copies"):
            await producer.send(write, to="x", copies="two")  # type: ignore[call-overload]
        await producer.send(write, to="fits")
    assert len(await take(url, mail.name, 1)) == 1


async def test_sending_again_keeps_the_id(url: str) -> None:
    """The same job value is the same job, however often it is sent."""
    job = write.job(to="a")
    async with AsyncProducer(url) as producer:
        handles = [await producer.send(job), await producer.send(job)]
    sent = await take(url, mail.name, 2)
    assert {handle.id for handle in handles} == {one.id for one in sent} == {job.id}
    assert len({one.message_id for one in sent}) == 2, "each publish has a message id of its own"


async def test_priorities_and_order(url: str) -> None:
    """Equal priorities keep the order of sending, in one call and over many (ZS-08)."""
    jobs = [write.job(to=str(n)).options(priority=("low", "high")[n % 2]) for n in range(40)]
    async with AsyncProducer(url) as producer:
        await producer.send_many(jobs[:20])
        for job in jobs[20:]:
            await producer.send(job)
    sent = await take(url, mail.name, 40)
    for priority in (1, 7):
        found = [one.id for one in sent if one.priority == priority]
        assert found == [job.id for job in jobs if job.resolved.priority == priority]


async def test_ten_thousand_jobs(url: str) -> None:
    """A generator of ten thousand jobs is confirmed within five seconds, ids in order (B-30)."""
    jobs = [write.job(to=str(n)) for n in range(10_000)]
    best = float("inf")
    async with AsyncProducer(url) as producer:
        await producer.open()
        for _ in range(3):  # the best of three: other programs may be busy at the moment
            begun = time.monotonic()
            ids = await producer.send_many(job for job in jobs)
            best = min(best, time.monotonic() - begun)
            assert ids == [job.id for job in jobs]
            if best < 5:
                break
    assert best < 5


async def test_a_generator_that_fails_says_what_was_sent(url: str) -> None:
    """An error of the iterable is raised as it is, after what was under way is confirmed."""

    def jobs():
        for n in range(700):
            yield write.job(to=str(n))
        raise LookupError("no more orders")

    async with AsyncProducer(url) as producer:
        with pytest.raises(LookupError, match="no more orders") as caught:
            await producer.send_many(jobs())
    assert caught.value.__notes__ == ["500 jobs of the same send_many had been confirmed"]
    assert len(await take(url, mail.name, 500)) == 500


async def test_many_threads_share_a_producer(url: str) -> None:
    """Sixteen threads send at once; each job arrives once and carries its thread's values (B-08)."""
    sent: list[tuple[str, str]] = []

    def work(name: str) -> None:
        with bind_values(tenant=name):
            sent.extend((producer.send(write, to=str(n)).id, name) for n in range(25))

    with Producer(url) as producer:
        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    found = await take(url, mail.name, 400)
    assert {(one.id, one.context) for one in found} == {
        (job_id, f'{{"tenant":"{name}"}}') for job_id, name in sent
    }
    assert len(found) == 400


async def test_a_sync_producer_beside_a_running_loop(url: str) -> None:
    """A thread that runs an event loop may use the synchronous producer; it blocks meanwhile."""
    with Producer(url) as producer:
        assert producer.send(write, to="a").id
        assert len(producer.send_many(write.job(to=str(n)) for n in range(1200))) == 1200
    assert len(await take(url, mail.name, 1201)) == 1201


async def test_results_come_back(url: str) -> None:
    """The handler's value comes back typed, to every handle and every waiter (ZP-03)."""
    async with AsyncProducer(url) as producer, answering(url, mail.name, succeed(["sent"])):
        job = write.job(to="a").options(reply=True)
        first = await producer.send(job)
        second = await producer.send(job)
        results = await asyncio.gather(*(h.result(timeout=10) for h in (first, second, first)))
    assert results == [["sent"]] * 3


async def test_results_come_back_to_threads(url: str) -> None:
    """The same for the synchronous producer, from several threads."""

    def work(n: int) -> object:
        return producer.send(write.job(to=str(n)).options(reply=True)).result(timeout="10s")

    loop = asyncio.get_running_loop()
    # Threads of their own: the loop's pool resolves host names for the responder.
    with Producer(url) as producer, ThreadPoolExecutor(8) as pool:
        async with answering(url, mail.name, succeed(["sent"])):
            results = await asyncio.gather(*(loop.run_in_executor(pool, work, n) for n in range(8)))
    assert results == [["sent"]] * 8


async def test_a_failure_comes_back_with_its_traceback(url: str) -> None:
    """The remote traceback is in the error (ZP-03)."""
    error = ErrorInfo(type="ValueError", message="no card", traceback="Traceback: shop.py line 7")

    def failed(job: Envelope) -> Reply:
        return Reply(job=job.id, attempt=1, outcome="failed", detail="logical", error=error)

    async with AsyncProducer(url) as producer, answering(url, mail.name, failed):
        handle = await producer.send(write.job(to="a").options(reply=True))
        with pytest.raises(JobFailed, match="shop.py line 7"):
            await handle.result(timeout=10)


async def test_no_result_in_time(url: str) -> None:
    """A result that does not come raises in time, and sending does not wait for it (ZS-02)."""
    async with AsyncProducer(url) as producer:
        handle = await producer.send(write.job(to="a").options(reply=True))
        with pytest.raises(ResultTimeout):
            await handle.result(timeout="0.1s")


async def test_a_shared_broker_stays_open(url: str) -> None:
    """A producer on a broker that it was handed neither opens nor closes it."""
    async with opened(url) as broker:
        async with AsyncProducer(url, broker=broker, parent="p-1") as producer:
            await producer.send(write, to="a")
        receipts = await broker.publish(
            [Envelope(id=mint_id(), queue=mail.name, task="producing.write")], deadline_s=5
        )
        assert receipts[0].status is PublishStatus.CONFIRMED
    assert sorted(one.parent or "" for one in await take(url, mail.name, 2)) == ["", "p-1"]


async def test_publishes_are_counted(url: str) -> None:
    """Publishes are counted by outcome and timed."""
    async with AsyncProducer(url) as producer:
        await producer.send(write, to="a")
        await producer.send_many(write.job(to="b") for _ in range(3))
        with pytest.raises(UnknownQueue):
            await producer.send(Job(queue="nowhere", task="a"))
        shown = producer.metrics.expose().decode()
    assert (
        'jobs_published_total{outcome="confirmed",queue="producing",task="producing.write"} 4.0'
        in shown
    )
    assert (
        'jobs_published_total{outcome="unroutable",queue="nowhere",task="nowhere.a"} 1.0' in shown
    )
    assert 'publish_seconds_count{queue="producing"} 4.0' in shown
    assert "taskyard_broker_connected 1.0" in shown


FORKING = """
import os, sys
from taskyard.producer import Producer
from taskyard.shared import Job

def job(who):
    return Job(queue="producing", task="write", args={"to": who})

producer = Producer()
producer.send(job("parent"))
children = []
for n in range(2):
    pid = os.fork()
    if pid == 0:
        for _ in range(5):
            producer.send(job(f"child-{n}"))
        producer.close()
        sys.exit(0)
    children.append(pid)
producer.send(job("parent"))
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
producer.send_many(job("parent") for _ in range(3))
print("children ended with", codes, flush=True)
"""


async def test_a_forked_child_connects_anew(url: str, tmp_path: Path) -> None:
    """A producer made before a fork works on in parent and children, and ends by itself (no close).

    Each says for itself where its jobs come from (ZP-27).
    """
    program = Program(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
        log=tmp_path / "forking.log",
        env={"TASKYARD_BROKER_URL": url},
    )
    async with program:
        assert await program.wait_exit(within=60) == 0, program.output
        assert "children ended with [0, 0]" in program.output
    taken = await take(url, mail.name, 15)
    sent = [one.body for one in taken]
    counts = {
        who: sent.count(f'{{"to":"{who}"}}'.encode()) for who in ("parent", "child-0", "child-1")
    }
    assert counts == {"parent": 5, "child-0": 5, "child-1": 5}
    origins = {(one.body, one.submitted_from) for one in taken}
    assert len({origin for _, origin in origins}) == len(origins) == 3


FORGETTING = """
import contextlib, threading
from taskyard.producer import Producer
from taskyard.shared import Job, Unavailable

def wait():
    with contextlib.suppress(Unavailable):  # so a waiter is told when the producer closes
        handle.result()

producer = Producer()
handle = producer.send(Job(queue="producing", task="write", args={"to": "a"}, reply=True))
threading.Thread(target=wait, daemon=True).start()
print("sent", flush=True)
"""


async def test_a_program_ends_without_close(url: str, tmp_path: Path) -> None:
    """A producer that was never closed, and a thread that waits, do not keep the program alive."""
    program = Program(
        [sys.executable, "-c", FORGETTING],
        log=tmp_path / "forgetting.log",
        env={"TASKYARD_BROKER_URL": url},
    )
    async with program:
        await program.wait_line("sent", within=30)
        begun = time.monotonic()
        assert await program.wait_exit(within=10) == 0, program.output
        assert time.monotonic() - begun < 5
        assert "Traceback" not in program.output


async def test_connections_end_with_their_producer(url: str) -> None:
    """Fifty producers in turn leave no thread and no open file behind."""

    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def turn() -> None:
        with Producer(url) as producer:
            producer.send(write, to="a")

    await asyncio.to_thread(turn)
    files_before, threads_before = files(), threading.active_count()
    for _ in range(50):
        await asyncio.to_thread(turn)
    assert files() <= files_before + 2
    assert threading.active_count() <= threads_before + 1
