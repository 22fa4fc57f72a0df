"""Which job a call means: an id that follows from the attempt that calls, not from chance.

An attempt whose worker died, or stopped, is delivered again and runs again from its beginning. With
an id minted anew it would call a second job; with one that follows from what is the same in both
runs, what it sends again is the same job, and an idempotent handler knows it by its id.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Collection

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job

_VERSION, _VARIANT = 0x7 << 76, 0b10 << 62
_RANDOM_A, _RANDOM_B = 0xFFF << 64, (1 << 62) - 1


def callee_id(caller: Envelope, job: Job[object], *, taken: Collection[str]) -> str:
    """Return the id of a job that an attempt calls: a UUID in the form of version 7.

    It follows from the caller's id, generation and attempt, and from the job's queue, task and
    arguments; of calls that are alike in all that, from their order. A further attempt calls
    further jobs: those of the one before may have failed for good.

    Args:
        caller: the attempt that calls.
        job: what it calls.
        taken: the ids of what it has called before.

    """
    base = sha256()
    # Each part behind its length, so that no two lists of parts read alike.
    for part in (
        caller.id.encode(),
        b"%d.%d" % (caller.generation, caller.attempt),
        job.queue.encode(),
        job.task.encode(),
        _public(job),
    ):
        base.update(b"%d:" % len(part) + part)
    number = 1
    while True:
        each = base.copy()
        each.update(b"#%d" % number)
        found = _uuid(caller.enqueued_ms or 0, each.digest())
        if found not in taken:
            return found
        number += 1


def _public(job: Job[object]) -> bytes:
    """Return what may be read in the broker, where anybody could try which arguments yield an id."""
    return b"" if job.resolved.encrypt else job.body


def _uuid(at_ms: int, digest: bytes) -> str:
    drawn = int.from_bytes(digest[:10], "big")
    return str(
        UUID(
            int=(at_ms & ((1 << 48) - 1)) << 80
            | _VERSION
            | (drawn & _RANDOM_A)
            | _VARIANT
            | (drawn & _RANDOM_B)
        )
    )
