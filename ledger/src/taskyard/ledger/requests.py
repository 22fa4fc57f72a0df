"""What operators have asked for and nobody has answered yet, as the control log tells it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from taskyard.shared.changes import (
    ANSWER_KEPT_MS,
    KEPT_MS,
    Asked,
    Start,
    answer_of,
    asked_of,
    start_of,
)
from taskyard.shared.control import token_of
from taskyard.shared.intents import ANSWER, CANCEL, CHANGE, STARTED, kind_and_subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskyard.shared.control import ControlRecord

#: How long workers have to read of a change and to say that they are running the job, in seconds.
GRACE_S: Final = 1.0
#: Most jobs that are changed together: they share a transaction and confirms.
BATCH: Final = 500
#: Answers that are remembered: live intents are written again, some just after they were answered.
_REMEMBERED: Final = 100_000
#: Changed jobs that are held before those are looked for that can be forgotten.
_ROOM: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Something that was asked for and has no answer yet.

    Attributes:
        job: its id.
        by: who asks.
        at_ms: when, by their clock.
        token: names the asking.
        asked: of a change; None for a cancel.
        until_ms: how long it is known, in milliseconds since the epoch; None: for ever.
        heard_s: when we read of it, on the monotonic clock.
        inherited: it was there before we were: somebody may have begun with it.

    """

    job: str
    by: str
    at_ms: int
    token: str
    asked: Asked | None
    until_ms: int | None
    heard_s: float
    inherited: bool


class Published(NamedTuple):
    """A change that was carried out; `until_ms`: when the last message from before it is due."""

    asked: Asked
    until_ms: int


@dataclass(slots=True)
class Requests:
    """What the control log tells of requests.

    Attributes:
        open: what has no answer, by token, in the order of the log.
        starts: what workers say of jobs that they were running, by the token of the request.
        published: of changed jobs, the last generation that was published, and until when (in
            milliseconds since the epoch) messages from before it may come.

    """

    open: dict[str, Request] = field(default_factory=dict[str, Request])
    starts: dict[str, Start] = field(default_factory=dict[str, Start])
    published: dict[str, Published] = field(default_factory=dict[str, "Published"])
    _answered: dict[str, None] = field(default_factory=dict[str, None])
    _room: int = _ROOM

    def take(
        self, records: Iterable[ControlRecord], *, now_ms: int, now_s: float, inherited: bool
    ) -> None:
        """Take in records in their order.

        Args:
            records: as they were read.
            now_ms: the broker's instant, in milliseconds since the epoch.
            now_s: the same on the monotonic clock, in seconds.
            inherited: whether they were there before we were.

        """
        for record in records:
            kind, job = kind_and_subject(record.key)
            if kind == CHANGE:
                self._take_change(record, job, now_ms, now_s, inherited=inherited)
            elif kind == CANCEL:
                # An answer is forgotten sooner than the cancel itself.
                recent = record.at + ANSWER_KEPT_MS > now_ms
                if record.op == "cancel" and recent and (token := token_of(record)):
                    self._put(record, job, token, None, now_s, inherited=inherited)
            elif kind == ANSWER and (answer := answer_of(record)) is not None:
                self._close(answer.of)
            elif kind == STARTED:
                start = start_of(record)
                if start is not None and start.of not in self._answered:
                    self.starts[start.of] = start

    def _take_change(
        self, record: ControlRecord, job: str, now_ms: int, now_s: float, *, inherited: bool
    ) -> None:
        asked = asked_of(record)
        if asked is None:
            return
        if record.op == "change":
            self._put(record, job, asked.token, asked, now_s, inherited=inherited)
            return
        self._close(asked.token)
        if record.op == "changed":
            ends_ms = now_ms + KEPT_MS if record.expires is None else record.expires
            self.published[job] = Published(asked=asked, until_ms=ends_ms - KEPT_MS)
            if len(self.published) > self._room:
                self._forget(now_ms)

    def _forget(self, now_ms: int) -> None:
        """Let go of changes that no message is older than any more."""
        held = self.published.items()
        self.published = {job: p for job, p in held if p.until_ms + KEPT_MS > now_ms}
        self._room = max(_ROOM, 2 * len(self.published))

    def _put(
        self,
        record: ControlRecord,
        job: str,
        token: str,
        asked: Asked | None,
        now_s: float,
        *,
        inherited: bool,
    ) -> None:
        if token in self.open or token in self._answered:
            return  # live intents are written again from time to time
        self.open[token] = Request(
            job=job,
            by=record.by,
            at_ms=record.at,
            token=token,
            asked=asked,
            until_ms=record.expires,
            heard_s=now_s,
            inherited=inherited,
        )

    def _close(self, token: str) -> None:
        self.open.pop(token, None)
        self.starts.pop(token, None)
        self._answered[token] = None
        if len(self._answered) > _REMEMBERED:
            del self._answered[next(iter(self._answered))]

    def ripe(self, now_s: float) -> list[Request]:
        """Return what has waited long enough, the oldest first, and no job twice."""
        found: dict[str, Request] = {}
        for request in self.open.values():
            if request.heard_s + GRACE_S > now_s or len(found) == BATCH:
                break
            found.setdefault(request.job, request)
        return list(found.values())

    def next_s(self) -> float | None:
        """Return when the first of them has waited long enough; None where nothing is open."""
        first = next(iter(self.open.values()), None)
        return None if first is None else first.heard_s + GRACE_S
