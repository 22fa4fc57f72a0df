"""A queue whose handlers run in child processes: those import it by this module's name."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from taskyard.shared import (
    Context,
    Fail,
    Hold,
    Job,
    JobFailed,
    Queue,
    ResultTimeout,
    RetryPolicy,
    Secret,
)
from taskyard.shared.errors import ConfigurationError, UnknownQueue
from taskyard.shared.logs import get_logger
from taskyard.shared.propagation import current_values

_log = get_logger("app.orders")
_kept: list[bytearray] = []


class Notes:
    """What the lifespan yields: appends to the file that the variable PROCESS_TASKS_NOTES names."""

    def __init__(self) -> None:
        self.path = os.environ.get("PROCESS_TASKS_NOTES")

    def add(self, text: str) -> None:
        if self.path:
            with Path(self.path).open("a") as file:
                file.write(f"{os.getpid()} {text}\n")


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Notes]:
    notes = Notes()
    notes.add("entered")
    yield notes
    notes.add("left")


class Trace:
    """Middleware that says where it ran."""

    async def execute(
        self, ctx: Context[object], proceed: Callable[[], Awaitable[object]]
    ) -> object:
        value = await proceed()
        return [os.getpid(), value] if ctx.task.endswith("traced") else value


queue = Queue(
    "proc",
    lifespan=lifespan,
    middleware=[Trace()],
    retry=RetryPolicy(attempts=1),
    concurrency=2,
    ttr=30,
)


@queue.task(mode="process")
def in_thread(ctx: Context[Notes], value: int) -> list[object]:
    ctx.resources.add(f"ran {value}")
    return [os.getpid(), value, ctx.attempt, dict(current_values())]


@queue.task(mode="process")
async def on_loop(ctx: Context[Notes], value: int) -> list[object]:
    ctx.resources.add(f"ran {value}")
    return [os.getpid(), value, ctx.attempt, dict(current_values())]


@queue.task(mode="process")
def traced() -> int:
    return os.getpid()


@queue.task
async def in_worker() -> int:
    return os.getpid()


@queue.task
def thread_in_worker() -> int:
    return os.getpid()


@queue.task(mode="process")
async def verdict(how: str) -> None:
    if how == "hold":
        raise Hold("look at it")
    if how == "fail":
        raise Fail("no")
    if how == "exit":
        sys.exit(3)
    raise ValueError("boom")


@queue.task(mode="process")
def die(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    if how == "half a frame":
        _say((1000).to_bytes(4, "big") + b"x")
    if how == "nonsense":
        _say((3).to_bytes(4, "big") + b"xyz")
        threading.Event().wait()
    if how == "no channel":
        os.closerange(3, 1000)
        return
    os._exit(7)


def _say(data: bytes) -> None:
    """Write to the channel of this process."""
    os.write(int(sys.argv[1]), data)


@queue.task(mode="process")
def result(kind: str) -> object:
    return {"odd": object(), "large": "x" * 2_000_000, "none": None}[kind]


@queue.task(mode="process", ttr=2)
def long(ctx: Context[Notes]) -> list[object]:
    """Run for longer than the time to run, touching."""
    first = ctx.deadline
    for step in range(6):
        time.sleep(0.5)
        ctx.progress(step + 1, 6, "step")
    last = ctx.deadline
    assert first is not None
    assert last is not None
    try:
        ctx.touch("10h")
    except ConfigurationError as error:
        return [(last - first).total_seconds(), str(error)]
    return [(last - first).total_seconds(), ""]


@queue.task(mode="process", ttr=2)
async def warned(ctx: Context[Notes]) -> bool:
    near = asyncio.Event()
    ctx.on_deadline_soon(near.set, before=1.5)
    await near.wait()
    return True


@queue.task(mode="process")
async def sends(ctx: Context[Notes]) -> list[str]:
    refused = ""
    try:
        await ctx.send(Job(queue="nosuch", task="t"))
    except UnknownQueue as error:
        refused = str(error)
    sent = await ctx.send(on_loop.job(1).options(priority="high"))
    return [sent, await asyncio.to_thread(ctx.send_from_thread, on_loop.job(2)), refused]


@queue.task(mode="process")
def sends_from_thread(ctx: Context[Notes]) -> str:
    return ctx.send_from_thread(on_loop.job(3))


@queue.task(mode="process")
async def calls(ctx: Context[Notes]) -> list[object]:
    """Call from the loop and from a thread: values, a failure and a time-out."""
    loop = await ctx.call(in_thread.job(1))
    thread = await asyncio.to_thread(ctx.call_from_thread, on_loop.job(2))
    seen: list[object] = [loop[1], thread[1], await ctx.call(in_worker.job())]
    try:
        await ctx.call(verdict.job("fail"))
    except JobFailed as error:
        seen.append(error.kind)
    try:
        await ctx.call(in_worker.job().options(delay="1h"), timeout=0.2)
    except ResultTimeout as error:
        seen.append(error.timeout_s)
    ctx.ok("all called")
    return seen


@queue.task(mode="process")
async def pays(ctx: Context[Notes], card: Secret[str]) -> bool:
    """Send a secret on, by a call."""
    return await ctx.call(charged.job(Secret(card.reveal() + "!")))


@queue.task(mode="process")
def charged(card: Secret[str]) -> bool:
    return card.reveal() == "4111!"


@queue.task(mode="process")
def talks(word: str) -> None:
    """Write by every way there is."""
    print(f"{word} print")
    os.write(2, f"{word} raw\n".encode())
    subprocess.run(["echo", f"{word} program"], check=True)
    ctypes.CDLL(None).puts(f"{word} libc".encode())
    _log.warning("an order", word=word)
    print(f"{word} unfinished", end="")


@queue.task(mode="process")
def floods(lines: int) -> None:
    for n in range(lines):
        print("line", n)


@queue.task(mode="process", ttr=1)
def spins(path: str) -> None:
    """Start a program, note both process ids, and never end."""
    other = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(f"{os.getpid()} {other.pid}")
    while True:
        pass


@queue.task(mode="process", ttr=600)
def waits(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    threading.Event().wait()


@queue.task(mode="process", ttr=600)
async def blocks_loop(path: str, seconds: float) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)


@queue.task(mode="process")
def keeps(mib: int) -> int:
    _kept.append(bytearray(os.urandom(1024 * 1024) * mib))
    return os.getpid()


@queue.task(mode="process")
def logs(length: int) -> None:
    _log.info("x" * length)


@queue.task(mode="process")
def leaves(path: str, how: str) -> int:
    """Leave a process behind that keeps our streams open: an orphan, or one of its own session."""
    if how == "orphan":
        subprocess.run(["sh", "-c", f"sleep 600 & echo $! > {path}"], check=True)
    else:
        other = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(path).write_text(str(other.pid))
        if how == "and dies":
            os._exit(7)
    return os.getpid()


@queue.task(mode="process")
def forks(path: str) -> int:
    """Leave a copy of ourselves behind, which talks and waits."""
    if not os.fork():
        print("said by a copy")
        _log.warning("logged by a copy")
        Path(path).write_text(str(os.getpid()))
        threading.Event().wait()
    while not Path(path).exists():
        time.sleep(0.01)
    return os.getpid()


def _square(number: int) -> int:
    _log.info("squaring", number=number)
    return number * number


@queue.task(mode="process")
def pools() -> list[int]:
    """Compute in a pool of forked processes, whose end is a SIGTERM to each."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(_square, range(8))
