"""Tasks that show how an installation behaves: success, failure, retry, hold, time, crash.

taskyard broker apply taskyard.workers.selftest
taskyard worker taskyard.workers.selftest
taskyard send default:test:hello
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Final

import msgspec

from taskyard.shared import Context, Fail, Hold, Queue, Retry, RetryPolicy
from taskyard.shared.clock import SystemClock

#: Short and exact, so that a person or a test can watch it.
RETRY: Final = RetryPolicy(attempts=3, first=0.5, factor=2.0, jitter="none")

default = Queue("default", retry=RETRY, label="Shows how an installation behaves")

_clock: Final = SystemClock()
#: What `leak` keeps for the life of the process.
_leaked: list[bytearray] = []


class SelftestError(Exception):
    """What `error` and `flaky` raise."""


@default.task
async def test(message: str) -> str:
    """Return the message."""
    return message


@default.task
async def ok() -> None:
    """Succeed."""


@default.task
async def error(message: str = "an error, as asked for") -> None:
    """Raise, each time."""
    raise SelftestError(message)


@default.task
async def flaky(ctx: Context, failures: int = 1) -> int:
    """Raise in the first attempts, then return the number of the one that succeeded."""
    if ctx.attempt <= failures:
        msg = f"attempt {ctx.attempt} of the {failures} that fail"
        raise SelftestError(msg)
    return ctx.attempt


@default.task
async def retry(ctx: Context, times: int = 1, in_seconds: float = 0.5) -> int:
    """Ask for a retry in some seconds, so many times, then return the attempt that succeeded."""
    if ctx.attempt <= times:
        raise Retry(f"retry {ctx.attempt} of {times}", delay=in_seconds)
    return ctx.attempt


@default.task
async def hold(reason: str = "held, as asked for") -> None:
    """Have the job parked for a human."""
    raise Hold(reason)


@default.task
async def fail(reason: str = "failed, as asked for") -> None:
    """Fail by logic: final, never tried again."""
    raise Fail(reason)


@default.task
async def sleep(ctx: Context, seconds: float = 1.0, touch_every: float | None = None) -> None:
    """Wait on the event loop, touching the job now and then if asked to."""
    end_s = _clock.monotonic_s() + seconds
    while (left_s := end_s - _clock.monotonic_s()) > 0:
        await asyncio.sleep(left_s if touch_every is None else min(left_s, touch_every))
        if touch_every is not None:
            ctx.touch()


@default.task
def spin(seconds: float = 1.0) -> None:
    """Keep a thread and a processor busy; nothing can interrupt it."""
    end_s = _clock.monotonic_s() + seconds
    while _clock.monotonic_s() < end_s:
        pass


@default.task
async def crash() -> None:
    """Kill this process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@default.task
async def leak(mib: int = 1) -> int:
    """Take so many MiB and keep them; returns how many are kept in all."""
    _leaked.append(bytearray(os.urandom(1024 * 1024) * mib))
    return sum(map(len, _leaked)) // (1024 * 1024)


@default.task
async def large(mib: int = 400, seconds: float = 0.0) -> int:
    """Take and touch so many MiB, keep them for a while, and give them back: big, but no leak."""
    held = bytearray(os.urandom(1024 * 1024) * mib)
    await asyncio.sleep(seconds)
    return len(held) // (1024 * 1024)


@default.task
async def noop(n: int = 0) -> None:
    """Do nothing: for measuring everything else."""


@default.task
async def record(ctx: Context, path: str, line: str = "") -> None:
    """Append one JSON line that tells of this attempt to a file, in a single write.

    Times are in seconds since the epoch.
    """
    entry = {
        "job": ctx.job_id,
        "attempt": ctx.attempt,
        "deliveries": ctx.deliveries,
        "queue": ctx.queue,
        "priority": ctx.priority,
        "line": line,
        "due": ctx.due.timestamp(),
        "started": _clock.now_ms() / 1000,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
    }
    file = os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, msgspec.json.encode(entry) + b"\n")
    finally:
        os.close(file)
