"""When a worker that holds too much memory is to be replaced: a state machine, pure.

Memory above the limit is no proof: a large job may hold it, and the allocator keeps what jobs gave
back. So the judgement waits until those that ran when it was seen have ended; others start
meanwhile, and nobody stands still. If settled memory is still above, others may hold it: now
nothing starts until nothing runs, memory settles, and what is left belongs to no job. Above: it is
a leak, and the worker ends. Below: it goes on, and neither the next stand-still comes as soon nor
this one lasts as long as the other: both are bounded by a patience that doubles, so that a stream
of large jobs costs less and less, and long jobs beside a leak put the end off but do not prevent it.
Jobs that wait for jobs which they have called are not waited for: what they wait for may have to start
here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

#: Seconds of the first stand-still, and of the pause after it; doubled each time.
FIRST_PATIENCE_S: Final = 30.0
LONGEST_PATIENCE_S: Final = 3600.0
#: Seconds of a stand-still in which all that runs waits for jobs that it has called.
CALLS_PATIENCE_S: Final = 2.0
#: Seconds until the next judgement when none was needed after all: settling costs some, too.
PAUSE_S: Final = 5.0


class Phase(Enum):
    """What a worker waits for."""

    WATCHING = "watching"
    """For memory to pass the limit."""
    OUTLASTING = "outlasting"
    """For the attempts that ran at that moment; others start."""
    EMPTYING = "emptying"
    """For nothing to run; nothing starts."""
    RECYCLED = "recycled"
    """For its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """Where the judgement stands.

    Attributes:
        phase: what is waited for.
        outlasted: attempts whose end is waited for.
        since_s: when the phase began.
        not_before_s: when memory is looked at again.
        patience_s: bounds the next stand-still, and the pause after it.

    """

    phase: Phase = Phase.WATCHING
    outlasted: frozenset[object] = frozenset()
    since_s: float = 0.0
    not_before_s: float = 0.0
    patience_s: float = FIRST_PATIENCE_S

    @property
    def holding(self) -> bool:
        """Whether no attempt may start."""
        return self.phase in {Phase.EMPTYING, Phase.RECYCLED}


def look(
    state: Recycling,
    *,
    now_s: float,
    resident: int,
    limit: int,
    running: AbstractSet[object],
    calling: int = 0,
) -> tuple[Recycling, bool]:
    """Return what follows from memory as it is, and whether settled memory must be judged now.

    Args:
        state: as it stands.
        now_s: on the monotonic clock.
        resident: bytes that the process holds, not settled.
        limit: bytes that it may hold.
        running: attempts under way, by anything that tells them apart.
        calling: how many of them do nothing but wait for jobs that they have called.

    """
    if state.phase is Phase.RECYCLED:
        return state, False
    if resident <= limit:
        return _below(state, now_s), False
    if state.phase is Phase.WATCHING:
        if now_s < state.not_before_s:
            return state, False
        state = replace(state, phase=Phase.OUTLASTING, outlasted=frozenset(running), since_s=now_s)
    if state.phase is Phase.OUTLASTING:
        state = replace(state, outlasted=state.outlasted & running)
        return state, not state.outlasted
    if running and now_s - state.since_s >= state.patience_s:
        return _later(state, now_s), False
    if running and len(running) == calling and now_s - state.since_s >= CALLS_PATIENCE_S:
        # Waiting longer would not end them, so the next time is no more patient than this one.
        again_s = now_s + FIRST_PATIENCE_S
        return replace(state, phase=Phase.WATCHING, since_s=now_s, not_before_s=again_s), False
    return state, not running


def judge(
    state: Recycling, *, now_s: float, settled: int, limit: int, running: AbstractSet[object]
) -> Recycling:
    """Return what follows from settled memory, when `look` asked for it."""
    if settled <= limit:
        return _below(state, now_s)
    if not running:
        return replace(state, phase=Phase.RECYCLED, since_s=now_s)
    return replace(state, phase=Phase.EMPTYING, since_s=now_s, outlasted=frozenset())


def _below(state: Recycling, now_s: float) -> Recycling:
    if state.phase is Phase.EMPTYING:
        return _later(state, now_s)
    if state.phase is Phase.OUTLASTING:
        return replace(
            state, phase=Phase.WATCHING, outlasted=frozenset(), not_before_s=now_s + PAUSE_S
        )
    if now_s - state.not_before_s >= state.patience_s > FIRST_PATIENCE_S:
        return replace(state, patience_s=FIRST_PATIENCE_S)  # long enough without a stand-still
    return state


def _later(state: Recycling, now_s: float) -> Recycling:
    """Go on after a stand-still that did not show a leak."""
    return replace(
        state,
        phase=Phase.WATCHING,
        outlasted=frozenset(),
        since_s=now_s,
        not_before_s=now_s + state.patience_s,
        patience_s=min(state.patience_s * 2, LONGEST_PATIENCE_S),
    )
