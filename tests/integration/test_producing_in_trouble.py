"""Publishing while RabbitMQ is away, stuck, or cut off: bounded in time and memory, in words."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.eventually import eventually
from support.proxy import Proxy
from support.rabbitmq import Node
from support.responder import answering, create_queues, succeed, take
from taskyard.producer import AsyncProducer, Producer
from taskyard.shared import (
    Job,
    PartialSendError,
    PublishError,
    PublishTimeout,
    Queue,
    ResultTimeout,
    Unavailable,
)
from taskyard.shared.settings import Settings

mail = Queue("troubled")

#: How much longer than its deadline a call may take on a busy machine, in seconds.
SLACK_S = 2.0


@mail.task
async def write(to: str) -> str: ...  # type: ignore[empty-body]


@pytest.fixture
async def url(amqp_url: str) -> str:
    await create_queues(amqp_url, mail.name)
    return amqp_url


def job(to: str = "a") -> Job[str]:
    return write.job(to=to)


async def failed(sending, *, within: float) -> tuple[PublishError, float]:
    """Return the error of a send, which must come within its deadline, and how long it took."""
    begun = time.monotonic()
    with pytest.raises(PublishError) as caught:
        await sending
    took = time.monotonic() - begun
    assert took < within + SLACK_S
    return caught.value, took


async def test_a_broker_that_is_not_there(url: str) -> None:
    """Pain 9: Nobody listens: `Unavailable` within the deadline, and nothing was sent (ZS-02)."""
    async with Proxy.to(url) as proxy:
        proxy.refuse()
        settings = Settings(broker_url=proxy.url(url), publish_deadline=1.0)
        async with AsyncProducer(settings=settings) as producer:
            error, _ = await failed(producer.send(job()), within=1)
            assert type(error) is Unavailable
            error, _ = await failed(producer.open(deadline=0.5), within=0.5)
            proxy.resume()
            again = job("later")
            await producer.send(again, deadline=10)
    assert [one.id for one in await take(url, mail.name, 1)] == [again.id]


async def test_many_senders_share_the_deadline(url: str) -> None:
    """Two hundred sends to a broker that is away all end within one deadline, not one each."""
    async with Proxy.to(url) as proxy:
        proxy.refuse()
        async with AsyncProducer(proxy.url(url)) as producer:
            begun = time.monotonic()
            results = await asyncio.gather(
                *(producer.send(job(), deadline=1) for _ in range(200)), return_exceptions=True
            )
            assert time.monotonic() - begun < 1 + SLACK_S
    assert {type(result) for result in results} == {Unavailable}


async def test_a_broker_that_goes_away_and_comes_back(url: str) -> None:
    """Cut off, a producer fails in time; connected again by itself, it goes on."""
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url)) as producer:
        await producer.send(job("before"))
        proxy.refuse()
        proxy.cut()
        error, _ = await failed(producer.send(job(), deadline=0.5), within=0.5)
        assert isinstance(error, Unavailable | PublishTimeout)
        proxy.resume()
        await producer.send(job("after"), deadline=15)
    bodies = [one.body for one in await take(url, mail.name, 2)]
    assert bodies[0] == b'{"to":"before"}'
    assert b'{"to":"after"}' in bodies


async def test_a_broker_that_says_nothing(url: str) -> None:
    """Pain 8: No confirm: `PublishTimeout` at the deadline; the same job sent again keeps its id."""
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url)) as producer:
        await producer.send(job("before"))
        proxy.stall()
        unsure = job("unsure")
        error, took = await failed(producer.send(unsure, deadline=1), within=1)
        assert type(error) is PublishTimeout
        assert took >= 0.9
        assert error.job_id == unsure.id
        proxy.resume()
        handle = await producer.send(unsure, deadline=15)
        assert handle.id == unsure.id
    ids = {one.id for one in await take(url, mail.name, 2)}
    assert unsure.id in ids


async def test_send_many_gives_up_at_once(url: str) -> None:
    """After one group timed out the rest is not tried, and every job is accounted for (B-30)."""
    jobs = [job(str(n)) for n in range(5000)]
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url)) as producer:
        await producer.send(job("before"))
        proxy.stall()
        error, _ = await failed(producer.send_many(jobs, deadline=1), within=1)
        assert isinstance(error, PartialSendError)
        assert sorted([*error.sent, *error.failed]) == sorted(one.id for one in jobs)
        kinds = {type(one) for one in error.failed.values()}
        assert kinds <= {PublishTimeout, Unavailable}
        assert kinds
        proxy.resume()


async def test_unconfirmed_bytes_are_bounded(url: str) -> None:
    """Pain 9: With no confirms coming, no more than the cap is handed over; the rest was not sent."""
    settings = Settings(unconfirmed_cap=64 * 1024, publish_deadline=1.0)
    big = [job("x" * 8000) for _ in range(100)]
    async with Proxy.to(url) as proxy:
        settings = settings.but(broker_url=Settings(broker_url=proxy.url(url)).broker_url)
        async with AsyncProducer(settings=settings) as producer:
            await producer.send(job("before"))
            proxy.stall()
            results = await asyncio.gather(
                *(producer.send(one) for one in big), return_exceptions=True
            )
            handed_over = [one for one in results if type(one) is PublishTimeout]
            kept = [one for one in results if type(one) is Unavailable]
            assert len(handed_over) + len(kept) == 100
            assert 0 < len(handed_over) * 8000 <= 64 * 1024
            proxy.resume()
            await producer.send(job("after"), deadline=15)


async def test_the_sync_producer_keeps_its_deadlines(url: str) -> None:
    """The same from a thread: in time, typed, and usable again."""

    def trouble(proxy_url: str) -> tuple[float, type[BaseException]]:
        begun = time.monotonic()
        try:
            producer.send(job(), deadline=1)
        except PublishError as error:
            return time.monotonic() - begun, type(error)
        raise AssertionError

    async with Proxy.to(url) as proxy:
        with Producer(proxy.url(url)) as producer:
            await asyncio.to_thread(producer.send, job("before"))
            proxy.stall()
            took, kind = await asyncio.to_thread(trouble, proxy.url(url))
            assert took < 1 + SLACK_S
            assert kind is PublishTimeout
            proxy.cut()
            proxy.resume()
            after = job("after")

            def sent_again() -> bool:
                return producer.send(after, deadline=5).id == after.id

            await eventually(lambda: asyncio.to_thread(sent_again), within=20)
            await asyncio.to_thread(producer.close)
    assert len(await take(url, mail.name, 2)) >= 2


async def test_heartbeats_are_served_while_the_program_does_something_else(url: str) -> None:
    """The connection of an idle sync producer outlives many heartbeats, though nobody calls it."""
    async with Proxy.to(url) as proxy:
        settings = Settings(broker_url=proxy.url(url), heartbeat=1)
        with Producer(settings=settings) as producer:
            await asyncio.to_thread(producer.open)
            connections = proxy.connections
            await asyncio.to_thread(time.sleep, 4)  # the program's own work: four heartbeats long
            assert proxy.connections == connections
            await asyncio.to_thread(producer.send, job(), deadline=2)


async def test_results_arrive_after_a_reconnect(url: str) -> None:
    """The address for replies is kept over a lost connection: later results still arrive."""
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url)) as producer:
        handle = await producer.send(job().options(reply=True))
        with pytest.raises(ResultTimeout):
            await handle.result(timeout=0.05)
        proxy.cut()

        async def sent_again() -> bool:
            await producer.send(job(), deadline=5)
            return True

        await eventually(sent_again, within=15)

        async with answering(url, mail.name, succeed("done")):
            # An answer may come before the address is bound again, and is then lost for good.
            async def answered() -> bool:
                sent = await producer.send(handle.job, deadline=5)
                return await sent.result(timeout=1) == "done"

            await eventually(answered, within=20)
            assert await handle.result(timeout=5) == "done"


async def test_closing_does_not_wait_for_a_silent_broker(url: str) -> None:
    """A producer whose broker says nothing any more still closes, soon."""
    async with Proxy.to(url) as proxy:
        producer = AsyncProducer(proxy.url(url))
        await producer.send(job("before"))
        proxy.stall()
        await failed(producer.send(job(), deadline=0.5), within=0.5)
        begun = time.monotonic()
        await producer.close()
        assert time.monotonic() - begun < 5 + SLACK_S


@pytest.mark.breaks_broker
async def test_a_blocked_broker(private_node: Node, private_amqp_url: str) -> None:
    """Pain 9: Under a memory alarm each send ends within its deadline, and the metric says why."""
    await create_queues(private_amqp_url, mail.name)
    async with AsyncProducer(private_amqp_url) as producer:
        await producer.send(job("before"))
        await private_node.set_memory_alarm(on=True)
        begun = time.monotonic()
        results = await asyncio.gather(
            *(producer.send(job(), deadline=1) for _ in range(50)), return_exceptions=True
        )
        assert time.monotonic() - begun < 1 + SLACK_S
        assert {type(result) for result in results} <= {PublishTimeout, Unavailable}
        assert "taskyard_broker_blocked 1.0" in producer.metrics.expose().decode()
        await private_node.set_memory_alarm(on=False)

        async def unblocked() -> bool:
            return "taskyard_broker_blocked 0.0" in producer.metrics.expose().decode()

        await eventually(unblocked, within=15)
        await producer.send(job("after"), deadline=10)
