"""How long leases last, and how often what cannot be waited for is looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds.

    Attributes:
        lease_s: what a handle that has stopped moving may keep its jobs for. A process that died
            is noticed by its file lock, within `reap_s`.
        lock_lease_s: the same for named locks.
        poll_s: how often an idle handle asks whether another process wrote; it asks ten times as
            often just after something happened.
        reap_s: how often a handle looks for holders that died.

    """

    lease_s: float = 30.0
    lock_lease_s: float = 10.0
    poll_s: float = 0.02
    reap_s: float = 0.5
