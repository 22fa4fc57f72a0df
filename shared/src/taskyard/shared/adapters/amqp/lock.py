"""Named locks: an exclusive queue dies with its connection, so the lock dies with its holder.

Each lock has a connection of its own with a short heartbeat. It is not a fence: a holder that was
frozen may go on for a moment after the broker has given the lock to another.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp.channel import ACCESS_REFUSED, NOT_FOUND, ChannelClosed
from taskyard.shared.adapters.amqp.management import SETTING
from taskyard.shared.adapters.amqp.survey import Questions
from taskyard.shared.broker import Held, Lost, Owner
from taskyard.shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.frames import Message
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.adapters.amqp.management import QueueInfo
    from taskyard.shared.broker import BrokerEvent

_LOCKED: Final = 405
#: Seconds that the broker gets to confirm a lock: it gives one away after two silent heartbeats.
CONFIRM_S: Final = 3.0

#: The owner, as arguments of the queue that is the lock: the broker keeps what it does not know.
_HOST: Final = "x-taskyard-host"
_PID: Final = "x-taskyard-pid"
_SINCE: Final = "x-taskyard-since"


async def take_lock(core: Core, name: str, owner: Owner) -> AmqpLease | Held:
    """Take a lock, or say who holds it. Try again no faster than every 0.4 s.

    Raises:
        ConfigurationError: the broker does not let this user have the lock.
        Unavailable: there is no connection.

    """
    queue = core.names.lock(name)
    # Asking first spares a connection for each try while another holds it.
    if await _is_held(core, queue):
        return Held(owner=await _owner(core, queue))
    link = await core.link(f"lock {name}", heartbeat_s=core.options.lock_heartbeat_s)
    lease = AmqpLease(core, link, queue)
    try:
        await lease.take(owner)
    except ChannelClosed as refusal:
        await core.drop(link)
        if refusal.code == _LOCKED:
            return Held(owner=await _owner(core, queue))
        raise ConfigurationError(f"lock {name!r}: {refusal}") from refusal
    except BaseException:
        await core.drop(link, abort=True)
        raise
    return lease


async def _is_held(core: Core, queue: str) -> bool:
    async with Questions(await core.reader()) as questions:
        try:
            await questions.ask("queue_declare", queue=queue, passive=True)
        except ChannelClosed as refusal:
            if refusal.code == _LOCKED:
                return True
            if refusal.code in {NOT_FOUND, ACCESS_REFUSED}:
                return False
            raise Unavailable(f"{queue}: {refusal}") from refusal
    raise ConfigurationError(f"queue {queue} is not exclusive, so it is no lock: delete it")


async def read_locks(core: Core) -> dict[str, Held]:
    """Return who holds which lock.

    Raises:
        ConfigurationError: the management API cannot be asked.

    """
    prefix = core.names.lock("")
    found = await core.management.queues(prefix)
    if found is None:
        raise ConfigurationError(
            "which locks are held is known to RabbitMQ's management API only, and it cannot be asked "
            f"here: set {SETTING}"
        )
    return {
        info.name.removeprefix(prefix): Held(owner=_owner_in(info))
        for info in sorted(found, key=lambda info: info.name)
        if info.exclusive
    }


async def _owner(core: Core, queue: str) -> Owner | None:
    info = await core.management.queue(queue)
    return None if info is None else _owner_in(info)


def _owner_in(info: QueueInfo) -> Owner | None:
    host, pid, since = (info.arguments.get(name) for name in (_HOST, _PID, _SINCE))
    if isinstance(host, str) and isinstance(pid, int) and isinstance(since, int):
        return Owner(host=host, pid=pid, since_ms=since)
    return None


class AmqpLease:
    """See the port's `Lease`."""

    def __init__(self, core: Core, link: Link, queue: str) -> None:
        """Prepare to hold a lock on a connection of its own."""
        self._core = core
        self._link = link
        self._queue = queue
        self._lost = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._released = False
        self._channel: Channel | None = None

    async def take(self, owner: Owner) -> None:
        """Take it (ChannelClosed if another has it)."""
        channel = self._channel = await self._link.channel()
        self._link.subscribe(self._on_event)
        await channel.call(
            "queue_declare",
            queue=self._queue,
            exclusive=True,
            arguments={_HOST: owner.host, _PID: owner.pid, _SINCE: owner.since_ms},
        )
        # A consumer is told when somebody deletes the queue.
        await channel.consume(self._queue, _ignore, on_cancel=self._end, no_ack=True)
        if self._lost.is_set():
            raise Unavailable(f"lock {self._queue}: the connection is lost")

    async def wait_lost(self) -> None:
        """Return once the lock can no longer be relied on."""
        await self._lost.wait()

    async def confirm(self) -> bool:
        """Return whether it is still ours: an answer on its own connection says so."""
        if self._lost.is_set() or self._channel is None:
            return False
        try:
            await self._channel.call(
                "queue_declare", queue=self._queue, passive=True, timeout_s=CONFIRM_S
            )
        except (ChannelClosed, Unavailable):
            self._end()
        return not self._lost.is_set()

    async def release(self) -> None:
        """Give the lock up."""
        if self._released:
            return
        self._released = True
        self._lost.set()
        if self._link.connected:
            async with Questions(self._link) as questions:
                with suppress(ChannelClosed, Unavailable):  # it goes with the connection
                    await questions.ask("queue_delete", queue=self._queue)
        await self._core.drop(self._link)
        if self._ending is not None:
            await asyncio.wait([self._ending])

    def _on_event(self, event: BrokerEvent) -> None:
        if isinstance(event, Lost):
            self._end()

    def _end(self) -> None:
        """It is lost: say so, and do not connect again."""
        if self._lost.is_set():
            return
        self._lost.set()
        self._ending = asyncio.create_task(
            self._core.drop(self._link, abort=True), name=f"end of {self._queue}"
        )


def _ignore(_: Message) -> None:
    """Take nothing: the queue is a sign, not a way."""
