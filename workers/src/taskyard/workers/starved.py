"""Whether a consumer starves: the broker knows it, slots are free, jobs are ready, and none comes.

It must not happen, and happens in the field: a broker that loses track of a consumer while a leader
changes, a client that loses track of its own. From outside both look like a quiet worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

#: Seconds without a delivery after which the broker is asked whether jobs are ready.
QUIET_S: Final = 10.0
#: Longest pause between two questions while nothing is ready, which doubles each time.
LONGEST_S: Final = 60.0
#: Seconds from a first suspicion to the verdict; others may just be taking what is ready.
SURE_S: Final = 5.0


class Verdict(Enum):
    """What follows from an answer."""

    FED = "fed"
    SUSPECT = "suspect"
    STARVED = "starved"


@dataclass(slots=True)
class Hunger:
    """One consumer. A state machine without clock or broker.

    Attributes:
        since_s: when it was first found to starve (monotonic), until it is fed.

    """

    since_s: float | None = None
    _taken: int = -1
    _ask_at_s: float = 0.0
    _pause_s: float = QUIET_S

    def look(self, now_s: float, *, taken: int, hungry: bool) -> bool:
        """Note the state of things; return whether the broker is to be asked now.

        Args:
            now_s: monotonic, in seconds.
            taken: deliveries so far.
            hungry: whether a delivery could be taken, as far as the worker is concerned.

        """
        if taken != self._taken or not hungry:
            self._taken = taken
            self._fed(now_s, QUIET_S)
        if now_s < self._ask_at_s:
            return False
        self._ask_at_s = now_s + QUIET_S  # where no answer comes
        return True

    def judge(self, now_s: float, *, taken: int, ready: int) -> Verdict:
        """Return what the broker's answer means; `ready` jobs wait for a slot."""
        if taken != self._taken or not ready:
            pause_s = min(2 * self._pause_s, LONGEST_S) if taken == self._taken else QUIET_S
            self._taken = taken
            self._fed(now_s, pause_s)
            return Verdict.FED
        if self.since_s is None:
            self.since_s = now_s
        self._ask_at_s = now_s + SURE_S
        return Verdict.STARVED if now_s - self.since_s >= SURE_S else Verdict.SUSPECT

    def _fed(self, now_s: float, pause_s: float) -> None:
        self.since_s = None
        self._pause_s = pause_s
        self._ask_at_s = now_s + pause_s
