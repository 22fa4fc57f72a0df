"""What is measured."""

from __future__ import annotations

from typing import Final

from benchmarks.parts.consuming import (
    CONSUME,
    CONSUME_1K,
    CONSUME_16K,
    CONSUME_THREADS,
    CONSUME_TWO,
)
from benchmarks.parts.delays import DELAYS
from benchmarks.parts.embedded import EMBEDDED_CONSUME, EMBEDDED_PUBLISH
from benchmarks.parts.growing import GROWING_DELAYED, GROWING_QUEUES, GROWING_WORKERS
from benchmarks.parts.memory import MEMORY, MEMORY_DELAYED
from benchmarks.parts.publishing import PUBLISH_MANY, PUBLISH_ONE, PUBLISH_THREADS
from benchmarks.parts.waiting import LATENCY_HALF, LATENCY_IDLE, LATENCY_LOW, STARTUP

#: In the order in which they are measured.
PARTS: Final = (
    PUBLISH_ONE,
    PUBLISH_THREADS,
    PUBLISH_MANY,
    CONSUME,
    CONSUME_THREADS,
    CONSUME_1K,
    CONSUME_16K,
    CONSUME_TWO,
    LATENCY_IDLE,
    LATENCY_LOW,
    LATENCY_HALF,
    STARTUP,
    MEMORY,
    MEMORY_DELAYED,
    DELAYS,
    EMBEDDED_PUBLISH,
    EMBEDDED_CONSUME,
    GROWING_QUEUES,
    GROWING_WORKERS,
    GROWING_DELAYED,
)
