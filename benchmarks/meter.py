"""Counts a worker's calls where its driver can read them while it works, in a file per process.

The standard library only: the handlers of every contestant call it, each in its own environment.
What a tick costs (some 300 ns) is the same for all.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

#: Names the folder of the files; and how many latencies each has room for.
FOLDER, ROOM = "BENCH_METER", "BENCH_SAMPLES"

#: Calls, and the instants of the first and the last, in seconds of the monotonic clock.
_HEAD = struct.Struct("=Qdd")
_SAMPLE = struct.Struct("=d")


class Meter:
    """The calls of one process. The file is made at the first, so that a fork makes its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._count = 0
        self._room = int(os.environ.get(ROOM, "0"))
        self._first = 0.0
        self._map: mmap.mmap | None = None

    def tick(self, sent_ns: int = 0) -> None:
        """Count a call; of a job that says when it was sent, also how late it is.

        Args:
            sent_ns: when the job was sent, or due, in nanoseconds since the epoch.

        """
        late_s = (time.time_ns() - sent_ns) / 1e9 if sent_ns else 0.0
        with self._lock:
            now = time.monotonic()
            if self._map is None or self._pid != os.getpid():
                self._open(now)
            assert self._map is not None
            if sent_ns and self._count < self._room:
                _SAMPLE.pack_into(self._map, _HEAD.size + self._count * _SAMPLE.size, late_s)
            self._count += 1
            _HEAD.pack_into(self._map, 0, self._count, self._first, now)

    def _open(self, now: float) -> None:
        self._pid, self._count, self._first = os.getpid(), 0, now
        path = Path(os.environ[FOLDER]) / str(self._pid)
        size = _HEAD.size + self._room * _SAMPLE.size
        path.with_suffix(".new").write_bytes(bytes(size))
        path.with_suffix(".new").rename(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)


class Reading:
    """What all processes of a worker have counted so far."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.first_s = float("inf")
        self.last_s = 0.0
        self.latencies_s: list[float] = []
        for path in sorted(folder.iterdir()):
            if path.suffix != ".new":
                self._add(path.read_bytes())

    @property
    def rate(self) -> float:
        """Calls per second, from the first to the last; 0 where one is all there is."""
        lasted_s = self.last_s - self.first_s
        return (self.count - 1) / lasted_s if lasted_s > 0 else 0.0

    def _add(self, data: bytes) -> None:
        count, first_s, last_s = _HEAD.unpack_from(data)
        if not count:
            return
        self.count += count
        self.first_s, self.last_s = min(self.first_s, first_s), max(self.last_s, last_s)
        self.latencies_s += list(_samples(data, count))


def _samples(data: bytes, count: int) -> Iterator[float]:
    room = (len(data) - _HEAD.size) // _SAMPLE.size
    for index in range(min(count, room)):
        yield _SAMPLE.unpack_from(data, _HEAD.size + index * _SAMPLE.size)[0]
