"""What a supervised worker and its supervisor tell each other, over a private socket.

The worker reports from a thread of its own, so that it is heard while its loop stands still; the
supervisor confirms the lock of the group, if it has one. One JSON value a line.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.clock import SystemClock
from taskyard.shared.snapshot import Snapshot, take_snapshot
from taskyard.workers.gauges import signs_of
from taskyard.workers.guard import Guard
from taskyard.workers.isolation.kernel import die_with
from taskyard.workers.signs import why_dead, why_not_ready

if TYPE_CHECKING:
    from taskyard.shared.clock import Clock
    from taskyard.workers.worker import Worker

#: Seconds between two reports.
REPORT_S: Final = 0.5
#: Seconds that a supervisor that does not read keeps a worker from ending.
_PATIENCE_S: Final = 2.0


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker as it is.

    Attributes:
        dead: why it should be replaced.
        unready: why it is not ready.
        worked: it has taken jobs.
        drained: it ends because its queues are empty.
        recycled: it ends to be replaced.
        metrics: what it has counted.

    """

    dead: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()
    worked: bool = False
    drained: bool = False
    recycled: bool = False
    metrics: Snapshot = Snapshot()


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor tells a worker: when the group's lock was last known to be held."""

    lock_confirmed_s: float


_encode: Final = msgspec.json.Encoder().encode
_decode_order: Final = msgspec.json.Decoder(Order).decode


class Link:
    """The worker's end.

    Attributes:
        guard: of the group's lock; None where there is none.

    """

    def __init__(
        self,
        descriptor: int,
        *,
        parent: int,
        fresh_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take over an inherited socket, and die with the supervisor from now on.

        Args:
            descriptor: of the socket.
            parent: process id of the supervisor.
            fresh_s: for how long a confirmation of the group's lock is good, in seconds; None:
                there is no lock.
            clock: measures ages.

        """
        self._clock = clock or SystemClock()
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._socket.settimeout(None)
        self.guard = None if fresh_s is None else Guard(self._clock, fresh_s=fresh_s)
        self._worker: Worker | None = None
        self._over = threading.Event()
        self._reporter: threading.Thread | None = None
        die_with(parent)
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    @classmethod
    def of(cls, words: str) -> Link:
        """Return the link that a supervisor described with `words_for`."""
        descriptor, parent, fresh_s = words.split(",")
        return cls(int(descriptor), parent=int(parent), fresh_s=float(fresh_s) or None)

    def open(self, worker: Worker) -> Link:
        """Report on a worker from now on, until `close`."""
        self._worker = worker
        self._reporter = threading.Thread(target=self._report, name="report", daemon=True)
        self._reporter.start()
        return self

    def close(self) -> None:
        """Report once more, and no more."""
        self._over.set()
        if self._reporter is not None:
            self._reporter.join(timeout=_PATIENCE_S)

    def _report(self) -> None:
        with suppress(OSError):  # the supervisor is gone, and so is this process in a moment
            while not self._over.wait(REPORT_S):
                self._tell()
            self._tell()

    def _tell(self) -> None:
        worker = self._worker
        if worker is None:
            return
        signs = signs_of(worker, self._clock)
        report = Report(
            dead=tuple(why_dead(signs)),
            unready=tuple(why_not_ready(signs)),
            worked=any(lane.taken for lane in list(worker.lanes.values())),
            drained=worker.drained,
            recycled=worker.recycled,
            metrics=take_snapshot(worker.metrics),
        )
        self._socket.sendall(_encode(report) + b"\n")

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if self.guard is not None:
                    self.guard.confirm(_decode_order(line).lock_confirmed_s)
        os._exit(1)  # the supervisor is gone; elsewhere than on Linux nobody else says so


def words_for(descriptor: int, fresh_s: float | None) -> str:
    """Return what a worker needs to know of its link, as text for its command line."""
    return f"{descriptor},{os.getpid()},{fresh_s or 0.0}"
