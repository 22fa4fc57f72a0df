"""Noticing what others did: polls the data version, knows what is due, and tells watchers.

`look`, `after_write`, `is_time` and `patience_s` run in the engine's thread; the rest on the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.session import json_list
from taskyard.shared.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskyard.shared.adapters.sql.session import Effects, Session
    from taskyard.shared.adapters.sql.timing import Timing
    from taskyard.shared.clock import Clock

CONTROL: Final = "control"
FEED: Final = "feed"
TOPOLOGY: Final = "topology"
QUEUE: Final = "queue:"
INBOX: Final = "inbox:"

#: How long after something happened the data version is polled ten times as often.
_LIVELY_S: Final = 0.05

#: How long an engine without watchers sleeps: it is woken by its next unit.
_FOREVER_S: Final = 3600.0


class Watch:
    """Who wants to hear of what, and when to look."""

    def __init__(self, timing: Timing, clock: Clock) -> None:
        """Watch nothing yet."""
        self._timing = timing
        self._clock = clock
        self._ticks = SystemClock()
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._due: dict[str, int] = {}
        self._data_version: object = None
        self._topology: int | None = None
        self._last_control = -1
        self._next_poll_s = 0.0
        self._next_reap_s = 0.0
        self._lively_until_s = 0.0
        #: Looks for dead owners, in the thread.
        self.reap: Callable[[Session], None] | None = None
        #: Told on the loop about a change of the topology.
        self.topology_changed: Callable[[], None] | None = None

    # ------------------------------------------------------------ on the loop

    def add(self, topic: str, watcher: Callable[[], None]) -> None:
        """Call `watcher` on the loop whenever something happened to `topic`."""
        self._watchers = {**self._watchers, topic: [*self._watchers.get(topic, ()), watcher]}

    def discard(self, topic: str, watcher: Callable[[], None]) -> None:
        """Stop calling it."""
        left = [one for one in self._watchers.get(topic, ()) if one != watcher]
        others = {name: them for name, them in self._watchers.items() if name != topic}
        self._watchers = {**others, topic: left} if left else others

    def notify(self, topics: Iterable[str]) -> None:
        """Tell the watchers of these topics."""
        for topic in topics:
            if topic == TOPOLOGY and self.topology_changed is not None:
                self.topology_changed()
            for watcher in self._watchers.get(topic, ()):
                watcher()

    def notify_all(self) -> None:
        """Tell every watcher, since anything may have changed."""
        self.notify(list(self._watchers))

    # ------------------------------------------------------------ in the thread

    @property
    def _idle(self) -> bool:
        return not self._watchers and self.reap is None

    def patience_s(self) -> float:
        """Return how long to wait for a unit before looking again."""
        if self._idle:
            return _FOREVER_S
        wait_s = self._next_poll_s - self._ticks.monotonic_s()
        if self._due:
            wait_s = min(wait_s, (min(self._due.values()) - self._clock.now_ms()) / 1000)
        return max(wait_s, 0.0)

    def is_time(self) -> bool:
        """Tell whether to look now."""
        if self._idle:
            return False
        if self._due and min(self._due.values()) <= self._clock.now_ms():
            return True
        return self._ticks.monotonic_s() >= self._next_poll_s

    def postpone(self) -> None:
        """Look again only after a while: the database is not to be had."""
        self._due.clear()
        self._next_poll_s = self._ticks.monotonic_s() + self._timing.reap_s

    def after_write(self, effects: Effects) -> set[str]:
        """Take in what a transaction of our own did and return what to notify."""
        for queue, due_ms in effects.due.items():
            if QUEUE + queue in self._watchers:
                self._due[queue] = min(due_ms, self._due.get(queue, due_ms))
        if effects.topics:
            self._be_lively()
        return effects.topics

    def look(self, session: Session) -> set[str]:
        """Return the topics to which something happened since the last look."""
        now_s = self._ticks.monotonic_s()
        topics = self._fallen_due()
        if now_s >= self._next_poll_s:
            topics |= self._poll(session)
            lively = now_s < self._lively_until_s
            self._next_poll_s = now_s + self._timing.poll_s / (10 if lively else 1)
        if self.reap is not None and now_s >= self._next_reap_s:
            self._next_reap_s = now_s + self._timing.reap_s
            self.reap(session)
        return topics

    def note_due(self, queue: str, due_ms: int | None) -> None:
        """Remember when the next job of a watched queue is due; None: there is none."""
        if due_ms is None:
            self._due.pop(queue, None)
        elif QUEUE + queue in self._watchers:
            self._due[queue] = due_ms

    def _fallen_due(self) -> set[str]:
        now_ms = self._clock.now_ms()
        fallen = [queue for queue, due_ms in self._due.items() if due_ms <= now_ms]
        for queue in fallen:
            del self._due[queue]  # the claim that follows says what is next
        return {QUEUE + queue for queue in fallen}

    def _poll(self, session: Session) -> set[str]:
        version = session.one(queries.DATA_VERSION)
        if version == self._data_version:
            return set()
        self._data_version = version
        self._be_lively()
        return self._survey(session)

    def _survey(self, session: Session) -> set[str]:
        """Ask about everything that is watched: another process wrote something."""
        watched = self._watchers
        topics: set[str] = set()
        names = [topic.removeprefix(QUEUE) for topic in watched if topic.startswith(QUEUE)]
        if names:
            for name, ready, due_ms in session.rows(queries.LOOK_QUEUES, (json_list(names),)):
                self.note_due(str(name), due_ms if isinstance(due_ms, int) else None)
                if ready:
                    topics.add(QUEUE + str(name))
        addresses = [topic.removeprefix(INBOX) for topic in watched if topic.startswith(INBOX)]
        if addresses:
            found = session.rows(queries.LOOK_INBOXES, (json_list(addresses),))
            topics |= {INBOX + str(address) for (address,) in found}
        if FEED in watched and session.one(queries.FEED_ANY_FREE) == (1,):
            topics.add(FEED)
        if CONTROL in watched:
            topics |= self._survey_control(session)
        catalogue = session.catalogue()
        if catalogue.version != self._topology:
            self._topology = catalogue.version
            topics.add(TOPOLOGY)
        return topics

    def _survey_control(self, session: Session) -> set[str]:
        (end,) = session.one(queries.CONTROL_END)
        if end == self._last_control or not isinstance(end, int):
            return set()
        self._last_control = end
        return {CONTROL}

    def _be_lively(self) -> None:
        self._lively_until_s = self._ticks.monotonic_s() + _LIVELY_S
        self._next_poll_s = min(
            self._next_poll_s, self._ticks.monotonic_s() + self._timing.poll_s / 10
        )
