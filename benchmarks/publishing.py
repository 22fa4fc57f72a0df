"""The command line that the publishing side of every contestant has. The standard library only.

    python -m benchmarks.peers.celery_app many 20000 1024    so many jobs of so many bytes at once
    python -m benchmarks.peers.celery_app one 2000 0         one after another, each confirmed
    python -m benchmarks.peers.celery_app pace 1000 0 500    so many, at 500 a second

Prints jobs per second, the last confirm included; what is connected before is not measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

#: The arguments of a no-op job: when it was sent, in nanoseconds since the epoch, and ballast.
Job: TypeAlias = tuple[int, str]
#: Sends jobs and returns when all are confirmed.
Send: TypeAlias = Callable[[Sequence[Job]], None]

_THREADS = 16


def jobs(number: int, size: int) -> list[Job]:
    """Return so many jobs with so many bytes of ballast each."""
    return [(0, "x" * size)] * number


def paced(number: int, size: int, per_second: float) -> Iterator[list[Job]]:
    """Yield jobs when they are due, those of a tick together, stamped with the present."""
    tick_s = max(0.01, 1 / per_second)
    began, done = time.monotonic(), 0
    while done < number:
        due = min(number, int((time.monotonic() - began) * per_second) + 1)
        if due > done:
            yield [(time.time_ns(), "x" * size)] * (due - done)
            done = due
        time.sleep(tick_s / 4)


def in_threads(send: Send, load: Sequence[Job]) -> None:
    """Have 16 threads send a share each, one job after another."""
    with ThreadPoolExecutor(_THREADS) as pool:
        shares = [load[start::_THREADS] for start in range(_THREADS)]
        for done in [pool.submit(send, share) for share in shares]:
            done.result()


def main(modes: Mapping[str, Send], *, pace: str = "many", ready: Callable[[], None]) -> None:
    """Run the mode that the command line names.

    Args:
        modes: how to send, by name.
        pace: the mode in which `pace` sends the jobs of a tick.
        ready: connects, before the clock starts.

    """
    mode, number, size, *rest = sys.argv[1:]
    ready()
    if mode == "pace":
        for some in paced(int(number), int(size), float(rest[0])):
            modes[pace](some)
        return
    load = jobs(int(number), int(size))
    began = time.perf_counter()
    modes[mode](load)
    print(len(load) / (time.perf_counter() - began))
