"""`--singleton`: one worker at a time, by a lock that dies with its holder.

The lock is taken before anything is consumed. Whoever comes second is told by whom it is held;
a holder that loses it stops at once, and hands back what runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import Held, Lease, Owner
from taskyard.shared.clock import SystemClock, to_datetime
from taskyard.shared.errors import AlreadyRunning, LockLost
from taskyard.shared.logs import get_logger
from taskyard.workers.guard import FRESH_S, Guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from taskyard.shared.broker import Broker
    from taskyard.shared.settings import Settings
    from taskyard.workers.worker import Worker

_log = get_logger(__name__)

#: Longest name made of queues; brokers bear some 200 bytes.
_LONGEST: Final = 120
#: Seconds that the broker gets to take a lock back; then it goes with the connection.
_RELEASE_S: Final = 3.0


def lock_name(queues: Iterable[str], given: str | None = None) -> str:
    """Return the name of the lock of workers on these queues, or of those that share a name.

    Args:
        queues: that are consumed; another set, even one that overlaps, is another lock.
        given: a name to use instead.

    """
    name = given or "+".join(sorted(queues))
    if len(name.encode()) > _LONGEST:
        name = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"worker-{name}"


def already_running(name: str, held: Held, now_ms: int) -> str:
    """Return who holds a lock, in words."""
    owner = held.owner
    if owner is None:
        return (
            f"another worker holds the lock {name}; who and since when cannot be told, because the "
            "broker's management API does not answer (TASKYARD_MANAGEMENT_URL)"
        )
    since = to_datetime(owner.since_ms).isoformat(timespec="seconds")
    age_s = max(now_ms - owner.since_ms, 0) // 1000
    return (
        f"already running: pid {owner.pid} on host {owner.host} holds the lock {name} "
        f"since {since} ({age_s} s)"
    )


class Lock:
    """A lock that is held, and the guard that knows so."""

    def __init__(self, lease: Lease, name: str, guard: Guard) -> None:
        """Hold a lease that was just taken."""
        self.lease = lease
        self.name = name
        self.guard = guard

    @classmethod
    async def take(cls, broker: Broker, name: str, settings: Settings) -> Lock:
        """Take a lock.

        Args:
            broker: open.
            name: see `lock_name`.
            settings: of the process.

        Raises:
            AlreadyRunning: another has it; the text names host, pid and since when.
            ConfigurationError: the broker has no locks.

        """
        guard = Guard(SystemClock(), fresh_s=min(FRESH_S, settings.lock_heartbeat))
        owner = Owner(host=socket.gethostname(), pid=os.getpid(), since_ms=broker.now_ms())
        asked_s = SystemClock().monotonic_s()
        lease = await broker.lock(name, owner)
        if isinstance(lease, Held):
            raise AlreadyRunning(already_running(name, lease, broker.now_ms()))
        guard.confirm(asked_s)
        _log.info("lock taken", lock=name)
        return cls(lease, name, guard)

    async def keep(self, told: Callable[[float], None] | None = None) -> str:
        """Return why the lock cannot be relied on any more, once that is so."""
        return await self.guard.keep(self.lease, told=told)

    async def release(self) -> None:
        """Give it up, as far as the broker answers."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_S):
                await self.lease.release()


@asynccontextmanager
async def held(worker: Worker, lock: Lock | None, guard: Guard | None) -> AsyncIterator[None]:
    """Stop a worker at once when its lock is lost, and say so at the end.

    Args:
        worker: runs inside.
        lock: of this process; None: its supervisor has it.
        guard: of the lock; None: there is none.

    Raises:
        LockLost: it was.

    """
    reasons: list[str] = []

    def lose(ended: asyncio.Task[str]) -> None:
        if ended.cancelled():
            return
        # A question that fails is an answer, too: nobody confirms the lock.
        problem = ended.exception()
        reason = ended.result() if problem is None else f"the lock cannot be asked for: {problem}"
        if guard is not None:
            guard.revoke()
        if not reasons:
            _log.error("the worker stops at once", worker=worker.name, why=reason)
            worker.hurry(f"lock lost: {reason}")
        reasons.append(reason)

    watching: list[asyncio.Task[str]] = []
    if guard is not None:
        watching.append(asyncio.create_task(guard.watch(worker.lanes.values()), name="guard"))
    if lock is not None:
        watching.append(asyncio.create_task(lock.keep(), name="lock"))
    for task in watching:
        task.add_done_callback(lose)
    try:
        yield
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    if reasons:
        raise LockLost(f"{reasons[0]}; the worker stopped, and handed back what it ran")
