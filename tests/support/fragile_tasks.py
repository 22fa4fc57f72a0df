"""A queue whose lifespan fails as it is told to; only child processes serve it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from taskyard.shared import Queue


@asynccontextmanager
async def fails_as_told() -> AsyncGenerator[None]:
    told = Path(os.environ["PROCESS_TASKS_NOTES"]).with_name("set-up")
    how = told.read_text() if told.exists() else ""
    if how == "raise":
        raise RuntimeError("no database")
    if how == "exit":
        os._exit(3)
    if how == "hang":
        await asyncio.Event().wait()
    yield


fragile = Queue("fragile", lifespan=fails_as_told, concurrency=2)


@fragile.task(mode="process")
def runs() -> int:
    return os.getpid()
