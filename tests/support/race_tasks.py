"""Tasks that note each run before and after a moment's work."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from taskyard.shared import Context, Queue

default = Queue("default")


@default.task
async def noted(ctx: Context, path: str, line: str, seconds: float) -> None:
    """Append one JSON line that tells of this attempt, in a single write, and work on a little."""
    entry = {"job": ctx.job_id, "attempt": ctx.attempt, "line": line}
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + os.linesep)
    await asyncio.sleep(seconds)
