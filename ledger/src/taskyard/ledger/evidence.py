"""What was seen of the broker is kept in the audit: what a look has proven stays true.

A queue that was empty at some instant held nothing then of what the ledger knew before, whatever has
been sent to it since. So a rebuild that died goes on where it was, although its queue is no longer
empty; and what the coordinator noticed at night can be rebuilt in the morning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import insert, select

from taskyard.ledger.audit import DONE
from taskyard.ledger.drift import Evidence
from taskyard.ledger.schema import audit
from taskyard.ledger.texts import clean
from taskyard.shared.envelope import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.drift import Drift

#: The actions of the audit that hold it: the coordinator noticed, an operator rebuilt.
NOTICED: Final = "missing"
REBUILT: Final = "rebuild"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence as the details of an audit entry hold it."""

    seen_ms: int
    empty: bool
    undelayed: bool
    missing: int = 0


def subject_of(queue: str) -> str:
    """Return what entries about a queue are about."""
    return f"queue:{clean(queue)}"


def seen_of(drift: Drift) -> Seen:
    """Return what of a drift is to be kept."""
    evidence = drift.evidence
    return Seen(
        seen_ms=evidence.at_ms,
        empty=evidence.empty,
        undelayed=evidence.undelayed,
        missing=drift.found,
    )


async def remember(connection: AsyncConnection, drift: Drift, *, by: str, now_ms: int) -> None:
    """Write down that jobs of a queue are missing."""
    await connection.execute(
        insert(audit).values(
            at_ms=now_ms,
            by=clean(by),
            action=NOTICED,
            subject=subject_of(drift.queue),
            details=msgspec.json.encode(seen_of(drift)).decode(),
            ended_ms=now_ms,
            result=DONE,
        )
    )


async def recall(connection: AsyncConnection, queues: Sequence[str]) -> dict[str, Evidence]:
    """Return, by queue, the latest of what was seen that proves jobs to be missing."""
    by_subject = {subject_of(queue): queue for queue in queues}
    told = audit.c.action.in_((NOTICED, REBUILT))
    found = await connection.execute(
        select(audit.c.subject, audit.c.details).where(told).order_by(audit.c.id.desc())
    )
    latest: dict[str, Evidence] = {}
    for subject, text in found.all():
        queue = by_subject.get(subject)
        if queue is None or queue in latest:
            continue
        try:
            seen = msgspec.json.decode(text or "", type=Seen)
        except UNREADABLE:
            continue
        if seen.empty:
            latest[queue] = Evidence(
                queue=queue, at_ms=seen.seen_ms, empty=True, undelayed=seen.undelayed, old=True
            )
    return latest
