"""A queue whose only task does nothing but count itself, and says how fast it was called."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.bare import PREFETCH
from taskyard.shared import Queue

bench = Queue("bench", concurrency=PREFETCH)


class Meter:
    """Counts calls; at the last one, writes calls per second to the file that BENCH_RESULT names."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._count = 0
        self._started = 0.0

    def tick(self) -> None:
        if not self._count:
            self._started = time.perf_counter()
        self._count += 1
        if self._count == self._expected:
            rate = self._count / (time.perf_counter() - self._started)
            Path(os.environ["BENCH_RESULT"]).write_text(str(rate))


_meter = Meter(int(os.environ.get("BENCH_JOBS", "0")))


@bench.task
async def noop(n: int) -> None:
    """Do nothing with `n` but count the call."""
    del n
    _meter.tick()
