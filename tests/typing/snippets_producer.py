"""Sending jobs and reading their results, as users write it; both type checkers read this file."""

from __future__ import annotations

from typing import assert_type

from taskyard.producer import AsyncHandle, AsyncProducer, Handle, Producer
from taskyard.shared import (
    Context,
    Job,
    JobFailed,
    PartialSendError,
    PublishTimeout,
    Queue,
    ResultTimeout,
    bind_values,
    current_job,
)

checkout = Queue("snippets", ttr="1m")


@checkout.task
async def verify_card(ctx: Context, order_id: int, note: str = "") -> str:
    child = await ctx.send(cancel_order.job(order_id=order_id))
    assert_type(child, str)
    return f"{ctx.attempt}{order_id}{note}"


@checkout.task(name="cancel")
def cancel_order(order_id: int) -> list[int]:
    job = current_job()
    if job is not None:
        assert_type(job.job_id, str)
    return [order_id]


def use_the_producer() -> None:
    with Producer() as producer:
        assert_type(producer.send(verify_card, order_id=7), Handle[str])
        assert_type(producer.send(verify_card, 7, note="!"), Handle[str])
        assert_type(producer.send(cancel_order, 7), Handle[list[int]])
        job = verify_card.job(order_id=7).options(priority="high", delay=60, reply=True)
        handle = producer.send(job)
        assert_type(handle, Handle[str])
        assert_type(handle.id, str)
        assert_type(handle.result(timeout=30), str)
        assert_type(producer.send(job, deadline="5s"), Handle[str])
        ids = producer.send_many(verify_card.job(order_id=n) for n in range(10_000))
        assert_type(ids, list[str])
        producer.send_many([verify_card.job(1), cancel_order.job(1), Job(queue="a", task="b")])
        by_name: Job[object] = Job(queue="checkout", task="verify_card", args={"order_id": 7})
        assert_type(producer.send(by_name), Handle[object])
        with bind_values(tenant="acme"):
            producer.send(job)
        try:
            producer.send(job)
        except PublishTimeout as error:
            assert_type(error.job_id, str)
        except PartialSendError as error:
            assert_type(error.sent, list[str])

        producer.send(verify_card, order_id="7")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        producer.send(verify_card)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        producer.send(job, order_id=7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        producer.send("verify_card")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def use_the_async_producer() -> None:
    async with AsyncProducer("amqp://localhost/", app="shop") as producer:
        assert_type(await producer.send(verify_card, order_id=7), AsyncHandle[str])
        job = cancel_order.job(order_id=7).options(reply=True)
        handle = await producer.send(job, deadline=2.5)
        assert_type(handle, AsyncHandle[list[int]])
        try:
            assert_type(await handle.result(timeout="30s"), list[int])
        except JobFailed as error:
            assert_type(error.traceback, str)
        except ResultTimeout as error:
            assert_type(error.timeout_s, float)
        assert_type(await producer.send_many([job, verify_card.job(7)]), list[str])

        await producer.send(verify_card, "7")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
