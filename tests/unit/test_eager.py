"""Eager mode: jobs run where they are sent, and mean the same as on a worker (EV-12)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from taskyard.producer import AsyncProducer, Producer
from taskyard.shared import (
    ConfigurationError,
    Context,
    Fail,
    Hold,
    InvalidArguments,
    Job,
    JobFailed,
    JobParked,
    NotFound,
    PayloadTooLarge,
    Queue,
    Retry,
    RetryPolicy,
    bind_values,
    current_job,
    current_values,
)
from taskyard.shared.settings import Settings

EAGER = Settings(mode="eager", app="shop")


class Journal(list[object]):
    """What handlers note."""


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def queue() -> Queue[object]:
    return Queue("eager", retry=RetryPolicy(attempts=3, first=60, factor=2, cap=600))


@pytest.fixture
def producer():
    with Producer(settings=EAGER) as made:
        yield made


def test_the_variable_turns_it_on(
    monkeypatch: pytest.MonkeyPatch, queue: Queue[object], journal: Journal
) -> None:
    """TASKYARD_MODE=eager needs no broker and changes no line of the program (EV-12)."""
    monkeypatch.setenv("TASKYARD_MODE", "eager")
    monkeypatch.delenv("TASKYARD_BROKER_URL", raising=False)

    @queue.task
    async def note(n: int) -> None:
        journal.append(n)

    with Producer() as producer:
        handle = producer.send(note, n=7)
        assert journal == [7], "it ran before send returned"
        assert handle.id


def test_results_are_the_same(producer: Producer, queue: Queue[object]) -> None:
    """A result is what the wire makes of it, typed by the handler's annotation (EV-12)."""

    @queue.task
    async def when(day: int) -> datetime:
        return datetime(2030, 1, day, tzinfo=UTC)

    @queue.task
    def shout(ctx: Context, text: str) -> str:
        return f"{ctx.task} {text}!"

    @queue.task
    def unsaid():
        return (1, 2)

    assert producer.send(when.job(day=3).options(reply=True)).result() == datetime(
        2030, 1, 3, tzinfo=UTC
    )
    assert producer.send(shout.job("a").options(reply=True)).result() == "eager.shout a!"
    assert producer.send(unsaid.job().options(reply=True)).result() == [1, 2]
    by_name = Job[object](queue="eager", task="shout", args={"text": "b"}, reply=True)
    assert producer.send(by_name).result() == "eager.shout b!"


def test_a_failure_surfaces_where_it_would_remotely(
    producer: Producer, queue: Queue[object]
) -> None:
    """Sending raises nothing for the job's own failure; its result does, typed (EV-12)."""

    @queue.task
    async def held() -> None:
        raise Hold("no stock")

    @queue.task
    def failing() -> None:
        raise Fail("declined")

    @queue.task
    def broken() -> None:
        raise ZeroDivisionError("by nought")

    with pytest.raises(JobParked, match="held.*no stock"):
        producer.send(held.job().options(reply=True)).result()
    with pytest.raises(JobFailed, match="logical.*declined"):
        producer.send(failing.job().options(reply=True)).result()
    with pytest.raises(JobParked, match="exhausted.*by nought") as caught:
        producer.send(broken.job().options(reply=True)).result()
    assert "in broken" in caught.value.traceback
    handle = producer.send(broken)
    with pytest.raises(ConfigurationError, match="reply=True"):
        handle.result()


def test_retries_and_delays_take_no_time(
    producer: Producer, queue: Queue[object], journal: Journal
) -> None:
    """Gaps are over at once, on a clock of the job's own."""

    @queue.task
    async def third(ctx: Context) -> str:
        journal.append((ctx.attempt, ctx.due))
        if ctx.attempt < 3:
            raise Retry(delay="1h", priority=ctx.attempt)
        return f"at priority {ctx.priority}"

    job = third.job().options(reply=True, delay="30d")
    assert producer.send(job).result() == "at priority 2"
    attempts, dues = zip(*journal, strict=True)
    assert attempts == (1, 2, 3)
    assert dues[1] - dues[0] == dues[2] - dues[1] == timedelta(hours=1)


def test_expiry_counts_on_the_jobs_clock(producer: Producer, queue: Queue[object]) -> None:
    """A retry past the expiry parks, and so does a job that is due after it."""

    @queue.task
    def failing() -> None:
        raise ValueError

    with pytest.raises(JobParked, match="expired"):
        producer.send(failing.job().options(reply=True, expires=1)).result()
    with pytest.raises(JobParked, match="expired"):
        producer.send(failing.job().options(reply=True, delay=5, expires=1)).result()


def test_a_handler_knows_its_job(
    producer: Producer, queue: Queue[object], journal: Journal
) -> None:
    """Context, current job and propagated values are a worker's, and gone afterwards (ZS-23)."""

    @queue.task
    def child(n: int) -> None:
        job = current_job()
        assert job is not None
        assert job.args == {"n": n}
        journal.append((job.parent, dict(current_values())))

    @queue.task
    async def by_context(ctx: Context) -> str:
        await ctx.send(child.job(1))
        return ctx.job_id

    @queue.task
    def by_thread(ctx: Context) -> str:
        ctx.send_from_thread(child.job(2))
        job = current_job()
        assert job is not None
        assert job.args == {} == ctx.args
        return job.job_id

    with bind_values(tenant="acme"):
        first = producer.send(by_context.job().options(reply=True))
        second = producer.send(by_thread.job().options(reply=True, values={"tenant": "other"}))
    assert first.result() == first.id
    assert second.result() == second.id
    assert journal == [(first.id, {"tenant": "acme"}), (second.id, {"tenant": "other"})]
    assert current_job() is None
    assert current_values() == {}


def test_plain_handlers_run_in_the_callers_thread(producer: Producer, queue: Queue[object]) -> None:
    """A `def` handler sees the caller's thread, as its database connection may need it."""

    @queue.task
    def where() -> str:
        return threading.current_thread().name

    job = where.job().options(reply=True)
    assert producer.send(job).result() == threading.current_thread().name


def test_an_async_handler_is_told_how_to_send(producer: Producer, queue: Queue[object]) -> None:
    """Sending by the same producer from its own loop would never end: refused in words."""

    @queue.task
    async def inner() -> None: ...

    @queue.task(retry=RetryPolicy(attempts=1))
    async def outer() -> None:
        producer.send(inner)

    with pytest.raises(JobParked, match="ctx.send"):
        producer.send(outer.job().options(reply=True)).result()


def test_a_time_to_run_is_kept(producer: Producer, queue: Queue[object]) -> None:
    """An async handler is stopped when its time is up; a touch gives it more."""

    @queue.task(ttr=0.05, retry=RetryPolicy(attempts=1))
    async def slow(ctx: Context, touches: bool) -> str:
        for _ in range(4):
            await asyncio.sleep(0.03)
            if touches:
                ctx.touch()
        return "done"

    with pytest.raises(JobParked, match="longer than its 0.05 s"):
        producer.send(slow.job(touches=False).options(reply=True)).result()
    assert producer.send(slow.job(touches=True).options(reply=True)).result() == "done"


def test_what_is_unknown_is_said_when_sent(producer: Producer, queue: Queue[object]) -> None:
    """Names resolve among the declared tasks; nothing else can run here (EV-12)."""
    with pytest.raises(NotFound, match="no queue 'nowhere' is declared.*eager"):
        producer.send(Job(queue="nowhere", task="a"))
    with pytest.raises(NotFound, match="queue eager has no task"):
        producer.send(Job(queue="eager", task="a"))


def test_what_is_refused_remotely_is_refused_here(queue: Queue[object]) -> None:
    """Arguments and size are checked as they are before a publish (ZS-18)."""

    @queue.task
    def take(text: str) -> None: ...

    with Producer(settings=Settings(mode="eager", payload_limit=100)) as producer:
        with pytest.raises(InvalidArguments):
            producer.send(take, text=1)  # type: ignore[call-overload]
        with pytest.raises(PayloadTooLarge):
            producer.send(take, text="x" * 100)


def test_a_handler_that_exits_ends_only_its_attempt(
    producer: Producer, queue: Queue[object]
) -> None:
    """`sys.exit` in a handler is a failed attempt, and the producer goes on."""

    @queue.task(retry=RetryPolicy(attempts=1))
    async def leave() -> None:
        raise SystemExit(3)

    @queue.task(retry=RetryPolicy(attempts=1))
    def leave_too() -> None:
        raise SystemExit(3)

    for task in (leave, leave_too):
        with pytest.raises(JobParked, match=r"sys\.exit\(3\)"):
            producer.send(task.job().options(reply=True)).result()


def test_an_interrupt_reaches_the_caller(producer: Producer, queue: Queue[object]) -> None:
    """Ctrl-C in a handler that runs in the caller's thread interrupts the caller."""

    @queue.task
    def interrupted() -> None:
        raise KeyboardInterrupt

    @queue.task
    def fine() -> int:
        return 1

    with pytest.raises(KeyboardInterrupt):
        producer.send(interrupted)
    assert producer.send(fine.job().options(reply=True)).result() == 1


def test_resources_are_entered_once_and_left_at_the_end(journal: Journal) -> None:
    """A queue's lifespan is entered with its first job and left when the producer closes."""

    @asynccontextmanager
    async def pool() -> AsyncIterator[str]:
        journal.append("entered")
        yield "pool"
        journal.append("left")

    queue = Queue("eager-pool", lifespan=pool)

    @queue.task
    async def use(ctx: Context[str]) -> None:
        journal.append(ctx.resources)

    with Producer(settings=EAGER) as producer:
        assert journal == []
        producer.send_many(use.job() for _ in range(3))
        assert journal == ["entered", "pool", "pool", "pool"]
    assert journal[-1] == "left"


def test_broken_resources_fail_the_job(producer: Producer) -> None:
    """A lifespan that cannot be entered fails each job of its queue."""

    @asynccontextmanager
    async def pool() -> AsyncIterator[str]:
        raise OSError("no database")
        yield ""

    queue = Queue("eager-broken", lifespan=pool, retry=RetryPolicy(attempts=2, first=0))

    @queue.task
    async def use(ctx: Context[str]) -> None: ...

    with pytest.raises(JobParked, match="no database"):
        producer.send(use.job().options(reply=True)).result()


def test_middleware_wraps_both_kinds(journal: Journal) -> None:
    """Middleware runs around async and plain handlers, the first outermost."""

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self, ctx: Context[object], proceed):
            job = current_job()
            journal.append((self.name, job is not None and job.job_id == ctx.job_id))
            return f"{self.name}({await proceed()})"

    queue = Queue("eager-layers", middleware=[Noting("a"), Noting("b")])

    @queue.task
    def plain() -> str:
        return "plain"

    @queue.task
    async def coroutine() -> str:
        return "coroutine"

    with Producer(settings=EAGER) as producer:
        for task in (plain, coroutine):
            found = producer.send(task.job().options(reply=True)).result()
            assert found == f"a(b({task.short_name}))"
    assert journal == [("a", True), ("b", True)] * 2


async def test_the_async_producer_does_the_same(queue: Queue[object]) -> None:
    """AsyncProducer runs jobs inline as well, plain handlers in a thread (EV-12)."""

    @queue.task
    async def on_loop() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    @queue.task
    def in_thread(ctx: Context) -> str:
        ctx.send_from_thread(on_loop.job())
        return threading.current_thread().name

    async with AsyncProducer(settings=EAGER) as producer:
        here = threading.current_thread().name
        handle = await producer.send(on_loop.job().options(reply=True))
        assert await handle.result(timeout=1) == here
        handle = await producer.send(in_thread.job().options(reply=True))
        assert await handle.result() != here
        assert len(await producer.send_many([on_loop.job(), in_thread.job()])) == 2
        counted = producer.metrics.expose().decode()
    assert 'outcome="confirmed",queue="eager",task="eager.on_loop"} 4.0' in counted


def test_a_handler_calls_another_job(producer: Producer, queue: Queue[object]) -> None:
    """ZS-22: its value or its error comes back, in a coroutine and in a thread."""

    @queue.task
    async def child(n: int) -> int:
        if n < 0:
            raise Fail("below zero")
        return n * 2

    @queue.task
    async def parent(ctx: Context, n: int) -> int:
        return await ctx.call(child.job(n)) + 1

    @queue.task
    def threaded(ctx: Context, n: int) -> int:
        return ctx.call_from_thread(child.job(n)) + 1

    for task in (parent, threaded):
        assert producer.send(task.job(3).options(reply=True)).result() == 7
        with pytest.raises(JobParked, match="below zero"):
            producer.send(task.job(-3).options(reply=True, retry=RetryPolicy(attempts=1))).result()
