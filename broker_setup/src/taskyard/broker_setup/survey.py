"""What lies in parking lots, counted by what it failed with."""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskyard.shared.broker import fingerprint_of, park_reason_of
from taskyard.shared.errors import ConfigurationError, NotFound
from taskyard.shared.naming import full_task_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskyard.shared.broker import Broker, Selection
    from taskyard.shared.envelope import Envelope

#: Ids that a group remembers as examples; everything else about it is counted.
EXAMPLES: Final = 5
#: Tasks and reasons that a group names.
_NAMED: Final = 20
_ID_LENGTH: Final = 8


def group_id(fingerprint: str) -> str:
    """Return a short name for a fingerprint, to type instead of it."""
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:_ID_LENGTH]


@dataclass(slots=True, kw_only=True)
class Group:
    """Parked jobs of one fingerprint.

    Attributes:
        fingerprint: exception and call site, or the reason where there was no exception.
        queues: in whose lots they are.
        count: how many.
        reasons: why they are parked.
        tasks: full names.
        first_ms: when the first of them was parked; None where that is not known.
        last_ms: when the last was.
        examples: ids of the longest parked ones.

    """

    fingerprint: str
    queues: set[str] = field(default_factory=set[str])
    count: int = 0
    reasons: set[str] = field(default_factory=set[str])
    tasks: set[str] = field(default_factory=set[str])
    first_ms: int | None = None
    last_ms: int | None = None
    examples: list[str] = field(default_factory=list[str])

    @property
    def id(self) -> str:
        """A short name for the fingerprint."""
        return group_id(self.fingerprint)

    def add(self, envelope: Envelope, lot: str) -> None:
        """Count one job."""
        self.count += 1
        self.queues.add(lot)
        if len(self.reasons) < _NAMED:
            self.reasons.add(park_reason_of(envelope))
        if len(self.tasks) < _NAMED:
            self.tasks.add(full_task_name(envelope.queue, envelope.task))
        if len(self.examples) < EXAMPLES:
            self.examples.append(envelope.id)
        self._span(envelope.parking.at_ms if envelope.parking else None)

    def join(self, other: Group) -> None:
        """Take in the same group of another lot."""
        self.count += other.count
        self.queues |= other.queues
        self.reasons |= other.reasons
        self.tasks |= other.tasks
        self.examples = (self.examples + other.examples)[:EXAMPLES]
        self._span(other.first_ms)
        self._span(other.last_ms)

    def _span(self, at_ms: int | None) -> None:
        if at_ms:
            self.first_ms = min(self.first_ms or at_ms, at_ms)
            self.last_ms = max(self.last_ms or at_ms, at_ms)


@dataclass(slots=True, kw_only=True)
class Survey:
    """What a selection means, as the lots are now.

    Attributes:
        by_lot: the groups of each lot, in the order of their longest parked job.
        newest: of jobs that were edited, the generation that is meant, by id. Their older form is
            in the lot as well where an edit was cut short.

    """

    by_lot: dict[str, dict[str, Group]] = field(default_factory=dict[str, dict[str, Group]])
    newest: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def count(self) -> int:
        """How many jobs are meant."""
        return sum(group.count for groups in self.by_lot.values() for group in groups.values())

    def groups(self) -> list[Group]:
        """Return the groups over all lots, the largest first."""
        joined: dict[str, Group] = {}
        for groups in self.by_lot.values():
            for name, group in groups.items():
                joined.setdefault(name, Group(fingerprint=name)).join(group)
        return sorted(joined.values(), key=lambda group: -group.count)

    def note(self, envelope: Envelope) -> None:
        """Remember the generation of a job that was edited."""
        if envelope.generation > self.newest.get(envelope.id, 1):
            self.newest[envelope.id] = envelope.generation

    def supersedes(self, envelope: Envelope) -> bool:
        """Tell whether a job is what an edit left behind: a newer form of it is parked too."""
        return envelope.generation < self.newest.get(envelope.id, 1)


async def survey(broker: Broker, queues: Sequence[str], selection: Selection) -> Survey:
    """Look through lots, once and job by job, and count what a selection means.

    Its limit is counted over all lots, in their order.
    """
    found = Survey()
    left = selection.limit
    for queue in queues:
        groups = found.by_lot.setdefault(queue, {})
        async with aclosing(broker.parked(queue)) as lot:
            async for parked in lot:
                envelope = parked.envelope
                found.note(envelope)
                if left == 0 or not selection.matches(envelope):
                    continue
                left = None if left is None else left - 1
                name = fingerprint_of(envelope)
                groups.setdefault(name, Group(fingerprint=name)).add(envelope, queue)
    return found


async def resolve_fingerprint(broker: Broker, queues: Sequence[str], text: str) -> str:
    """Return the fingerprint that is meant by itself, by its beginning, or by its group's id.

    Raises:
        NotFound: no parked job has it.
        ConfigurationError: more than one begins so; the text lists them.

    """
    known: set[str] = set()
    for queue in queues:
        async with aclosing(broker.parked(queue)) as lot:
            async for parked in lot:
                known.add(fingerprint_of(parked.envelope))
    return choose_fingerprint(known, text)


def choose_fingerprint(known: Iterable[str], text: str) -> str:
    """Choose among known fingerprints; see `resolve_fingerprint`."""
    known = set(known)
    if text in known:
        return text
    meant = sorted(f for f in known if f.startswith(text) or group_id(f).startswith(text))
    if len(meant) == 1:
        return meant[0]
    if not meant:
        msg = (
            f"no parked job has the fingerprint {text!r}; `taskyard parked list --group` shows them"
        )
        raise NotFound(msg)
    listed = ", ".join(f"{group_id(f)} ({f})" for f in meant[:10])
    msg = f"--fingerprint {text!r} fits {len(meant)} groups: {listed}; write more of it"
    raise ConfigurationError(msg)
