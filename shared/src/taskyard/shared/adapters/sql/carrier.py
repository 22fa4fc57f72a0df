"""What the engine's thread does with units: groups of writes, single reads, and looking around."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar

from taskyard.shared.adapters.sql.faults import StoreError, is_busy, is_fatal, is_shared
from taskyard.shared.adapters.sql.unit import Unit
from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import TaskyardError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.sql.connection import Connector
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.adapters.sql.watch import Watch

T = TypeVar("T")

#: How long the thread's own transactions wait for the write lock; they are tried again anyway.
_INNER_S: Final = 0.1


class Carrier:
    """The connection and what is done on it. Lives in the engine's thread."""

    def __init__(
        self,
        connector: Connector,
        watch: Watch,
        *,
        report: Callable[[str | None], None],
        notify: Callable[[set[str]], None],
    ) -> None:
        """Open nothing yet: the first unit does.

        Args:
            connector: opens the database.
            watch: looks for what others wrote.
            report: told why the database was lost, or None when it is back.
            notify: told the topics of what the thread found or did by itself.

        """
        self._connector = connector
        self._watch = watch
        self._report_to = report
        self._notify = notify
        self._session: Session | None = None
        self._is_lost = False
        self._clock = SystemClock()  # deadlines pass also while the broker's clock stands still
        self._random = Random()
        self.is_closing = False

    @property
    def is_open(self) -> bool:
        """Whether the database is at hand."""
        return self._session is not None

    def carry_out(self, units: Sequence[Unit[object]]) -> set[str]:
        """Run units and return the topics to tell watchers about; each unit has its result then."""
        session = self._connected(units)
        if session is None:
            return set()
        writes = [unit for unit in units if unit.writes and not unit.abandoned]
        if writes and all(unit.probe is not None for unit in writes):
            # Nobody takes the write lock only to find that there is nothing to do.
            writes = [unit for unit in writes if not self._settled_by_probe(session, unit)]
        if writes:
            self._write(session, writes)
        for unit in units:
            if not unit.writes and not unit.abandoned:
                self._read(session, unit)
        return self._watch.after_write(session.effects) if writes else set()

    def transact(self, run: Callable[[Session], object]) -> bool:
        """Run something in a write transaction, from inside the thread; returns whether it was."""
        session = self._session
        if session is None:
            return False
        until_s = self._clock.monotonic_s() + _INNER_S
        unit: Unit[object] = Unit(run, writes=True, deadline_s=until_s)
        self._write(session, [unit])
        # Nobody else tells our own watchers: what we write does not change the data version for us.
        self._notify(self._watch.after_write(session.effects))
        return unit.error is None

    def look(self) -> None:
        """Notice what others did, if it is time to."""
        if not self._watch.is_time():
            return
        session = self._connected(())
        if session is None:
            self._watch.postpone()
            return
        try:
            self._connector.check_identity()
            topics = self._watch.look(session)
        except Exception as error:  # noqa: BLE001  # the thread goes on, with a fresh connection
            if not (isinstance(error, sqlite3.Error) and is_busy(error)):
                self.disconnect()
                self._report(str(error))
            return
        if topics:
            self._notify(topics)

    # ------------------------------------------------------------ reads and writes

    def _settled_by_probe(self, session: Session, unit: Unit[object]) -> bool:
        assert unit.probe is not None  # noqa: S101  # the caller looked
        try:
            unit.result = self._patiently(unit.probe, session, unit.deadline_s)
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            self._fail([unit], error)
            return True
        return unit.result is not None

    def _read(self, session: Session, unit: Unit[object]) -> None:
        unit.started = True
        try:
            self._connector.check_identity()
            unit.result = self._patiently(unit.run, session, unit.deadline_s)
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            self._fail([unit], error)

    def _write(self, session: Session, units: list[Unit[object]]) -> None:
        """Run units in one transaction; on a fault that may be one unit's, in one each."""
        try:
            units = self._begin(session, units)
            for unit in units:
                unit.started = True
                if not unit.abandoned:
                    unit.result = unit.run(session)
            session.commit()
        except Exception as error:  # noqa: BLE001  # every unit's caller is told, or tried again
            with contextlib.suppress(sqlite3.Error):
                session.rollback()
            if len(units) > 1 and not (isinstance(error, sqlite3.Error) and is_shared(error)):
                self._write_singly(session, units)
            else:
                self._fail(units, error)

    def _write_singly(self, session: Session, units: list[Unit[object]]) -> None:
        topics: set[str] = set()
        due: dict[str, int] = {}
        for unit in units:
            self._write(session, [unit])
            topics |= session.effects.topics
            due |= session.effects.due
        session.effects.topics |= topics
        session.effects.due = due | session.effects.due

    def _begin(self, session: Session, units: list[Unit[object]]) -> list[Unit[object]]:
        """Take the write lock; units whose deadline passes meanwhile are answered by the caller."""
        waited_s = 0.0
        while True:
            try:
                self._connector.check_identity()
                session.begin()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                now_s = self._clock.monotonic_s()
                late = [unit for unit in units if unit.deadline_s <= now_s or unit.abandoned]
                self._fail(late, error)
                units = [unit for unit in units if unit not in late]
                if not units or self.is_closing:
                    raise
                waited_s += self._nap(waited_s)
            else:
                return units

    def _patiently(self, run: Callable[[Session], T], session: Session, deadline_s: float) -> T:
        waited_s = 0.0
        while True:
            try:
                return run(session)
            except sqlite3.OperationalError as error:
                if not is_busy(error) or self._clock.monotonic_s() >= deadline_s:
                    raise
                waited_s += self._nap(waited_s)

    def _nap(self, waited_s: float) -> float:
        """Wait a moment for another process's transaction, the longer the longer it took."""
        nap_s = (0.0003 + min(waited_s / 20, 0.005)) * (0.5 + self._random.random())
        time.sleep(nap_s)
        return nap_s

    def _fail(self, units: Sequence[Unit[object]], error: Exception) -> None:
        for unit in units:
            unit.error = StoreError.of(error) if isinstance(error, sqlite3.Error) else error
        if isinstance(error, sqlite3.Error) and is_fatal(error):
            self.disconnect()
            self._report(str(error))

    # ------------------------------------------------------------ connection

    def _connected(self, units: Sequence[Unit[object]]) -> Session | None:
        if self._session is not None:
            return self._session
        until_s = max((unit.deadline_s for unit in units), default=0.0)
        try:
            self._session = self._connector.connect(until_s, self._nap)
        except (sqlite3.Error, OSError, TaskyardError) as error:
            told = error if isinstance(error, TaskyardError) else StoreError.of(error)
            for unit in units:
                unit.error = told
            self._report(str(error))
            return None
        self._report(None)
        return self._session

    def disconnect(self) -> None:
        """Close the connection; the next unit opens another."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(sqlite3.Error):
                session.connection.close()

    def _report(self, reason: str | None) -> None:
        if self._is_lost != (reason is not None):
            self._is_lost = reason is not None
            self._report_to(reason)
