"""The life of one open handle: its thread, its identity, and what it has opened."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from taskyard.shared.adapters.sql.connection import Connector
from taskyard.shared.adapters.sql.control_log import ControlLog
from taskyard.shared.adapters.sql.engine import Engine
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.keeper import Keeper
from taskyard.shared.adapters.sql.presence import Presence
from taskyard.shared.adapters.sql.publishing import Publisher
from taskyard.shared.adapters.sql.reaper import Reaper, sweep_files
from taskyard.shared.adapters.sql.watch import Watch
from taskyard.shared.broker import Connected, Lost
from taskyard.shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.adapters.sql.consumer import SqlConsumer
    from taskyard.shared.adapters.sql.feed_consumer import SqlFeedConsumer
    from taskyard.shared.adapters.sql.inbox import SqlInbox
    from taskyard.shared.adapters.sql.location import Location
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.adapters.sql.timing import Timing
    from taskyard.shared.broker import BrokerEvent, BrokerOptions
    from taskyard.shared.clock import Clock

T = TypeVar("T")

#: A file of an owner without a row is old enough to be removed; seconds.
_STALE_FILE_S = 3600.0


class Handle:
    """From `open` to `close`, `abort` or `crash`.

    Attributes:
        engine: the thread with the connection.
        presence: who this handle is to the others.
        keeper: renews what it holds.
        log: the control log.
        publisher: publishes.
        reaper: puts back what dead handles hold.
        flows: consumers of jobs.
        feeds: consumers of the feed.
        inboxes: addresses for replies.
        recording: whether the feed exists.

    """

    def __init__(
        self,
        location: Location,
        options: BrokerOptions,
        timing: Timing,
        clock: Clock,
        *,
        tell: Callable[[BrokerEvent], None],
    ) -> None:
        """Touch nothing yet."""
        self._folder = location.owners
        self._tell = tell
        self._watch = Watch(timing, clock)
        self._connector = Connector(location, options.namespace, clock)
        self._becoming_owner = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self.engine = Engine(self._connector, self._watch, tell=self._connection_changed)
        # Counting a million rows takes a while: it has a thread of its own, so that no claim waits.
        self._reader = Engine(
            Connector(location, options.namespace, clock),
            Watch(timing, clock),
            tell=_ignore,  # the other engine says when the database is lost
        )
        self.presence = Presence(location.owners, timing)
        self.keeper = Keeper(self.engine, self.presence, timing)
        self.log = ControlLog(self.engine)
        self.publisher = Publisher(
            self.engine, str(location), options.namespace, options.unconfirmed_cap_bytes
        )
        self.reaper = Reaper(self._folder, self.presence.id, self.engine.transact)
        self.flows: set[SqlConsumer] = set()
        self.feeds: set[SqlFeedConsumer] = set()
        self.inboxes: set[SqlInbox] = set()
        self.recording = False

    # ------------------------------------------------------------ life

    async def open(self, deadline_s: float) -> None:
        """Open the database and put back what dead handles have left behind."""
        self._watch.topology_changed = self._look_at_topology
        self.engine.start()
        try:
            self.recording = await self.engine.read(_is_recording, deadline_s=deadline_s)
            await self.engine.read(self.reaper, deadline_s=deadline_s)
        except (StoreError, ConfigurationError) as error:
            self.engine.kill()
            await self.engine.stop()
            if isinstance(error, ConfigurationError):
                raise
            raise Unavailable(str(error)) from error

    async def become_owner(self) -> None:
        """Register as an owner, and look after the others from now on."""
        async with self._becoming_owner:
            if self._keeping is not None:
                return
            try:
                self.presence.appear()
            except OSError as error:
                msg = f"no file lock in {self._folder}: {error}"
                raise Unavailable(msg) from error
            await self.engine.write(self._register)
            self._connector.prepare = self._prepare
            self._watch.reap = self.reaper
            self._keeping = asyncio.create_task(self.keeper.run(), name="taskyard-sql-keeper")

    async def read_aside(self, run: Callable[[Session], T]) -> T:
        """Run something long that only reads, without holding up the rest (StoreError)."""
        if not self._reader.is_started:
            self._reader.start()
        return await self._reader.read(run)

    async def close(self) -> None:
        """Give everything back and disconnect."""
        await self._stop_keeping()
        for flow in self.flows:
            flow.pause()
        for flow in self.flows:
            await flow.wait_quiet()
        untaken = [seq for flow in self.flows for seq in flow.untaken()]
        self._end_all()
        is_gone = False
        if self.presence.file_lock is not None:
            with contextlib.suppress(StoreError, Unavailable):
                await self.engine.write(lambda s: self.presence.leave(s, untaken))
                is_gone = True
        await self._stop_engines()
        if is_gone:
            self.presence.vanish()
        self.presence.die()

    async def crash(self) -> None:
        """Stop as a killed process does: without a word to anybody."""
        self.engine.kill()
        self.presence.die()
        self._end_all()
        await self._stop_keeping()
        await self._stop_engines()

    # ------------------------------------------------------------ helpers

    async def _stop_engines(self) -> None:
        self._reader.kill()
        await self._reader.stop()
        await self.engine.stop()

    async def _stop_keeping(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])

    def _end_all(self) -> None:
        for flow in list(self.flows):
            flow.end()
        for feed in list(self.feeds):
            feed.end()
        for inbox in list(self.inboxes):
            inbox.end()
        self.keeper.lose_all()
        self.log.end()

    def _register(self, session: Session) -> None:
        self.presence.renew(session)
        sweep_files(session, self._folder, _STALE_FILE_S)

    def _prepare(self, session: Session) -> None:
        """Make our own rows exist, also in a file that has just been created anew."""
        self.presence.renew(session)
        for flow in list(self.flows):
            flow.register(session)
        for inbox in list(self.inboxes):
            inbox.register(session)

    def _connection_changed(self, reason: str | None) -> None:
        if reason is not None:
            self._tell(Lost(reason))
            return
        self._tell(Connected())
        self._look_at_topology()
        self._watch.notify_all()

    def _look_at_topology(self) -> None:
        self.engine.read_soon(_is_recording, self._note_recording)

    def _note_recording(self, recording: bool | None) -> None:
        if recording is not None:
            self.recording = recording


def _is_recording(session: Session) -> bool:
    return session.catalogue().feed_limit is not None


def _ignore(reason: str | None) -> None:
    del reason
