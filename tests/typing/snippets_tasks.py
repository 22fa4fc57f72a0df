"""Declaring tasks and making jobs of them, as users write it; both type checkers read this file.

A line whose error is expected carries an ignore for each checker; a checker that finds no error
there complains about the ignore.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from taskyard.shared import Context, Fail, Hold, Job, Queue, Retry, RetryPolicy, Task

plain = Queue("plain", retry=RetryPolicy(attempts=5, first=1, factor=2, cap=300), ttr=60)


# ------------------------------------------------------------------ bare, with and without context


@plain.task
async def async_with_context(ctx: Context, order_id: int, note: str = "") -> str:
    assert_type(ctx.resources, object)
    assert_type(ctx.job_id, str)
    return f"{order_id}{note}"


@plain.task
async def async_without_context(order_id: int) -> list[str]:
    return [str(order_id)]


@plain.task
def sync_with_context(ctx: Context, order_id: int) -> dict[str, int]:
    return {ctx.queue: order_id}


@plain.task
def sync_without_context(order_id: int, *, dry: bool = False) -> None:
    if dry:
        raise Hold("dry run")
    raise Retry(delay="5m", priority="low") if order_id else Fail("no order")


@plain.task
async def nothing() -> None: ...


# ------------------------------------------------------------------ called, with options


@plain.task(name="named", ttr="5m")
async def called_async(ctx: Context, order_id: int) -> str:
    return ctx.task + str(order_id)


@plain.task(retry=RetryPolicy(attempts=1), mode="thread")
def called_sync(order_id: int) -> float:
    return float(order_id)


@plain.task(mode="process", ttr="1h")
def in_process(ctx: Context, order_id: int) -> bytes:
    return ctx.job_id.encode() * order_id


@plain.task(mode="process")
async def in_process_async(order_id: int) -> int:
    return order_id


@plain.task()
async def called_empty(order_id: int) -> int:
    return order_id


assert_type(async_with_context.job(order_id=7, note="!"), Job[str])
assert_type(async_with_context.job(7), Job[str])
assert_type(async_without_context.job(order_id=7), Job[list[str]])
assert_type(sync_with_context.job(order_id=7), Job[dict[str, int]])
assert_type(sync_without_context.job(7, dry=True), Job[None])
assert_type(nothing.job(), Job[None])
assert_type(called_async.job(order_id=7), Job[str])
assert_type(called_sync.job(7), Job[float])
assert_type(called_empty.job(7), Job[int])
assert_type(in_process.job(7), Job[bytes])
assert_type(in_process_async.job(order_id=7), Job[int])


# ------------------------------------------------------------------ wrong arguments are found


async_with_context.job(order_id="7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async_with_context.job()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
async_with_context.job(order_id=7, nope=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
async_without_context.job(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
sync_without_context.job(1, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
nothing.job(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# ------------------------------------------------------------------ typed resources


@dataclass(frozen=True)
class Pool:
    size: int


@asynccontextmanager
async def open_pool() -> AsyncGenerator[Pool]:
    yield Pool(size=3)


pooled = Queue("pooled", lifespan=open_pool)
assert_type(pooled, Queue[Pool])


@pooled.task
async def with_pool(ctx: Context[Pool], order_id: int) -> int:
    assert_type(ctx.resources, Pool)
    return ctx.resources.size + order_id


@pooled.task(ttr=5)
def with_pool_sync(ctx: Context[Pool]) -> int:
    return ctx.resources.size


@pooled.task
async def without_asking(ctx: Context, order_id: int) -> int:
    assert_type(ctx.resources, object)
    return order_id


assert_type(with_pool.job(order_id=1), Job[int])
assert_type(with_pool_sync.job(), Job[int])
assert_type(without_asking.job(order_id=1), Job[int])


# ------------------------------------------------------------------ options and jobs by name


later = async_with_context.job(order_id=7).options(
    priority="high", delay=60, ttr=timedelta(minutes=5), expires="1d", reply=True, app="shop"
)
assert_type(later, Job[str])
assert_type(later.options(at=datetime(2030, 1, 1, tzinfo=UTC), priority=9), Job[str])
assert_type(later.options(retry=RetryPolicy(attempts=9), values={"tenant": "acme"}), Job[str])
later.options(priority="highest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
later.options(prio=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

by_name = Job[str](queue="checkout", task="verify_card", args={"order_id": 7}, priority="low")
assert_type(by_name, Job[str])
untyped: Job[object] = Job(queue="checkout", task="verify_card", args={"order_id": 7})
widened: Job[object] = by_name
jobs: list[Job[object]] = [by_name, later, untyped, called_sync.job(1)]


# ------------------------------------------------------------------ a task is still its function


def takes_a_task(task: Task[..., str]) -> None: ...


takes_a_task(async_with_context)
takes_a_task(called_async)
takes_a_task(called_sync)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def declared_otherwise(order_id: int) -> int:
    return order_id


added: Task[..., Any] = plain.add(declared_otherwise, name="added", ttr=3)
