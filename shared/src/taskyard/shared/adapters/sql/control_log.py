"""The control log as a table: appended in bulk, read in chunks that Python decodes at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from taskyard.shared.adapters.sql import queries
from taskyard.shared.adapters.sql.faults import StoreError
from taskyard.shared.adapters.sql.watch import CONTROL
from taskyard.shared.broker import ControlBatch
from taskyard.shared.control import (
    DRAIN_KEY,
    ControlUnavailable,
    decode_records,
    encode_records,
)
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from taskyard.shared.adapters.sql.engine import Engine
    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.control import ControlRecord

_T = TypeVar("_T")

#: Records per batch, and per transaction of a bulk write.
_CHUNK: Final = 5000

_MISSING: Final = "this database has no control log yet: run `taskyard broker apply`"


def append(session: Session, records: Sequence[ControlRecord]) -> bool:
    """Write records in order; returns whether there is a log."""
    if not session.catalogue().control:
        return False
    session.run(queries.CONTROL_APPEND, (encode_records(records).decode(),))
    if any(record.key == DRAIN_KEY for record in records):
        session.run(queries.CONTROL_DRAIN, {"appended": len(records), "key": DRAIN_KEY})
    session.effects.topics.add(CONTROL)
    return True


def last_drain(session: Session) -> ControlRecord | None:
    """Return the last record about draining, if there is one."""
    (record,) = session.one(queries.DRAINING)
    if record is None:
        return None
    return next(iter(decode_records(f"[{record!s}]".encode())), None)


class ControlLog:
    """The log as one handle sees it."""

    def __init__(self, engine: Engine) -> None:
        """Belong to a handle."""
        self._engine = engine
        self._followers: set[Callable[[], None]] = set()
        self._is_ended = False

    async def append(self, records: Sequence[ControlRecord], deadline_s: float) -> None:
        """See `Broker.append_control`."""
        clock = asyncio.get_running_loop()
        until_s = clock.time() + deadline_s
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            try:
                is_there = await self._engine.write(
                    lambda s, chunk=chunk: append(s, chunk),  # type: ignore[misc]  # bound now
                    deadline_s=max(until_s - clock.time(), 0.001),
                    weight=len(chunk),
                )
            except (StoreError, Unavailable) as error:
                msg = f"control log: {start} of {len(records)} records written, then: {error}"
                raise ControlUnavailable(msg) from error
            if not is_there:
                raise ControlUnavailable(_MISSING)

    async def follow(self, after: int | None) -> AsyncIterator[ControlBatch]:
        """See `Broker.follow_control`."""
        something = asyncio.Event()
        # Watching starts before reading, so that nothing falls between the two.
        self._followers.add(something.set)
        self._engine.watch.add(CONTROL, something.set)
        try:
            goal = await self._read(_end)
            position, is_first = after or 0, True
            while not self._is_ended:
                something.clear()
                batch = await self._read(lambda s: _chunk(s, position, goal))  # noqa: B023
                if batch.records or is_first:
                    yield batch
                    position, is_first = batch.position, False
                else:
                    await something.wait()
        finally:
            self._followers.discard(something.set)
            self._engine.watch.discard(CONTROL, something.set)

    def end(self) -> None:
        """Let all that follow end."""
        self._is_ended = True
        for wake in self._followers:
            wake()

    async def _read(self, run: Callable[[Session], _T]) -> _T:
        try:
            return await self._engine.read(run)
        except (StoreError, Unavailable) as error:
            msg = f"control log: {error}"
            raise ControlUnavailable(msg) from error


def _end(session: Session) -> int:
    if not session.catalogue().control:
        raise ControlUnavailable(_MISSING)
    (end,) = session.one(queries.CONTROL_END)
    return int(str(end))


def _chunk(session: Session, after: int, goal: int) -> ControlBatch:
    count, last, text = session.one(queries.CONTROL_CHUNK, (after, _CHUNK))
    if not count:
        return ControlBatch(records=(), position=after, caught_up=after >= goal)
    position = int(str(last))
    records = tuple(decode_records(str(text).encode()))
    return ControlBatch(records=records, position=position, caught_up=position >= goal)
