"""Outcomes of jobs, as they come back to whoever asked for them.

One inbox serves a whole producer. It is opened when the first result is asked for, before that
job is sent. What nobody holds a handle for any more is forgotten, so that unanswered jobs cost
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import TaskyardError, Unavailable
from taskyard.shared.feed import Reply, decode_reply

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker, Inbox

_log = logging.getLogger("taskyard.producer")


class Awaited:
    """The outcome of one job, shared by all its handles; safe from any thread."""

    __slots__ = ("__weakref__", "_callbacks", "_lock", "broken", "reply")

    def __init__(self) -> None:
        """Start without an outcome."""
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.reply: Reply | None = None
        self.broken: str | None = None

    @property
    def settled(self) -> bool:
        """Whether there is an outcome, or never will be one."""
        return self.reply is not None or self.broken is not None

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once it is settled: at once if it is."""
        with self._lock:
            if not self.settled:
                self._callbacks.append(callback)
                return
        callback()

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Forget a callback that was not called yet."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def arrive(self, reply: Reply) -> None:
        """Take an outcome. A later one replaces it: a parked job may still succeed."""
        if self.reply is None or self.reply.outcome != "succeeded":
            self._settle(reply, None)

    def abandon(self, reason: str) -> None:
        """Say that no outcome can arrive any more."""
        self._settle(self.reply, reason)

    def _settle(self, reply: Reply | None, broken: str | None) -> None:
        with self._lock:
            self.reply, self.broken = reply, broken
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Replies:
    """The outcomes that one producer waits for."""

    def __init__(self, broker: Broker) -> None:
        """Receive through `broker`, which is open whenever `open` is called."""
        self._broker = broker
        self._awaited: WeakValueDictionary[str, Awaited] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._opening = asyncio.Lock()
        self._inbox: Inbox | None = None
        self._reader: asyncio.Task[None] | None = None
        self.address: str | None = None

    @property
    def present(self) -> bool:
        """Whether outcomes that are sent now would get here, if any are awaited at all."""
        return self._inbox is None or self._inbox.present

    async def open(self, deadline_s: float) -> str:
        """Return the address for replies, opening the inbox first if need be.

        Raises:
            Unavailable: that was not possible within `deadline_s` seconds.

        """
        try:
            async with asyncio.timeout(deadline_s), self._opening:
                if self.address is None:
                    self._inbox = await self._broker.inbox()
                    self.address = self._inbox.address
                    self._reader = asyncio.get_running_loop().create_task(
                        self._read(self._inbox), name="replies"
                    )
                return self.address
        except TimeoutError as error:
            msg = (
                f"no address for replies could be opened within {deadline_s:g} s; nothing was sent"
            )
            raise Unavailable(msg) from error

    def expect(self, job_id: str) -> Awaited:
        """Return where the outcome of a job will be, for as long as somebody holds it."""
        with self._lock:
            awaited = self._awaited.get(job_id)
            if awaited is None or awaited.broken is not None:
                awaited = self._awaited[job_id] = Awaited()
            return awaited

    def deliver(self, reply: Reply) -> None:
        """Give an outcome to whoever waits for it."""
        with self._lock:
            awaited = self._awaited.get(reply.job)
        if awaited is not None:
            awaited.arrive(reply)

    def abandon(self, reason: str) -> None:
        """Say to everybody who waits that no outcome can arrive any more."""
        with self._lock:
            every = list(self._awaited.values())
        for awaited in every:
            if not awaited.settled:
                awaited.abandon(reason)

    async def close(self) -> None:
        """Give the address up."""
        inbox, reader = self._inbox, self._reader
        self._inbox = self._reader = self.address = None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        if inbox is not None:
            await inbox.close()

    async def _read(self, inbox: Inbox) -> None:
        try:
            while bodies := await inbox.take():
                for body in bodies:
                    self._read_one(body)
        except TaskyardError as error:
            _log.warning("replies are lost: %s; the next job gets a new address", error)
            self.abandon(f"the address for its outcome was lost ({error})")
        finally:
            if self._inbox is inbox:
                self._inbox = self.address = None

    def _read_one(self, body: bytes) -> None:
        try:
            reply = decode_reply(body)
        except UNREADABLE as error:
            _log.warning("dropped a message that is no reply: %s", error)
        else:
            self.deliver(reply)
