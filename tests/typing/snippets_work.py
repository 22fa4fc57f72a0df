"""Tasks as classes, and jobs that call jobs, as users write them; both type checkers read this."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, assert_type

from taskyard.producer import Handle, Producer
from taskyard.shared import Context, Hooks, Job, Queue, Retry, Work


@dataclass(frozen=True)
class Pool:
    size: int


@asynccontextmanager
async def open_pool() -> AsyncGenerator[Pool]:
    yield Pool(size=3)


class Care(Hooks):
    idle_after_s = 3.0

    async def on_error(self, ctx: Context[object], error: Exception) -> None:
        if isinstance(error, OSError):
            raise Retry(ctx.job_id) from error

    async def on_idle(self) -> None: ...


media = Queue("media", lifespan=open_pool, middleware=[Care()])


# ------------------------------------------------------------------ tasks as classes


class Resize(Work[str], queue=media, ttr="5m"):
    path: str
    width: int = 100

    async def run(self, ctx: Context) -> str:
        return f"{self.path} {self.width} {ctx.attempt}"


class Count(Work[int], queue=media, name="count"):
    words: list[str]

    def run(self, ctx: Context[Pool]) -> int:
        return len(self.words) + ctx.resources.size


class Base(Work[None]):
    tenant: str


class Clean(Base, queue=media):
    async def run(self, ctx: Context) -> None:
        del ctx


resize = Resize(path="a")
assert_type(resize.width, int)
resize.width = 7
assert_type(resize.job(), Job[str])
assert_type(resize.job().options(priority="high"), Job[str])
assert_type(Count(words=[]).job(), Job[int])
assert_type(Clean(tenant="acme").job(), Job[None])

Resize()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Resize(path=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Resize(path="a", height=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def send(producer: Producer) -> None:
    assert_type(producer.send(Resize(path="a").job()), Handle[str])


# ------------------------------------------------------------------ calling


@media.task
async def parent(ctx: Context, path: str) -> int:
    name = await ctx.call(Resize(path=path).job(), timeout="30s")
    assert_type(name, str)
    assert_type(await ctx.call(Count(words=[name]).job()), int)
    by_name: Job[Any] = Job(queue="media", task="count", args={"words": []})
    assert_type(await ctx.call(by_name), Any)
    await ctx.call(path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return len(name)


@media.task
def parent_in_thread(ctx: Context) -> int:
    value = ctx.call_from_thread(parent.job(path="a"))
    assert_type(value, int)
    return value
