"""Whether a worker lives and is ready: pure judgements over what it shows of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Seconds that the event loop may stand still; a handler that blocks it belongs in a thread.
LAG_LIMIT_S: Final = 10.0
#: Seconds that a consumer may be missing while the broker is reachable.
ABSENCE_LIMIT_S: Final = 30.0
#: Seconds that a consumer may get nothing while jobs are ready; it is opened anew several times.
STARVED_LIMIT_S: Final = 30.0
#: Abandoned handlers that a small queue bears before the process is better replaced.
STUCK_LIMIT: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSigns:
    """One queue in this process.

    Attributes:
        queue: its name.
        paused: by an operator.
        present: the broker knows its consumer.
        absent_s: for how long the consumer is missing that should be there.
        absence: why it is missing, in words, as far as that is known.
        starved_s: for how long it has got nothing though jobs are ready and slots are free.
        running: attempts under way.
        slots: attempts that may run at once.
        stuck: handlers that were told to end and did not.
        problem: why it is not consumed, in words.

    """

    queue: str
    paused: bool = False
    present: bool = True
    absent_s: float = 0.0
    absence: str = ""
    starved_s: float = 0.0
    running: int = 0
    slots: int = 1
    stuck: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """A worker at one moment.

    Attributes:
        lag_s: for how long the event loop has not turned when it should have.
        connected: the broker is reachable.
        blocked: the broker takes no publishes.
        control_ready: operators' intents were read once.
        control_problem: why they cannot be read now.
        stopping: it takes no more jobs.
        holding: why no job starts for the moment, in words.
        lanes: its queues.

    """

    lag_s: float = 0.0
    connected: bool = True
    blocked: bool = False
    control_ready: bool = True
    control_problem: str = ""
    stopping: bool = False
    holding: str = ""
    lanes: tuple[LaneSigns, ...] = ()


def stuck_limit(slots: int) -> int:
    """Return how many abandoned handlers a queue with so many slots does not bear any more."""
    return max(slots, STUCK_LIMIT)


def why_dead(signs: Signs) -> list[str]:
    """Return why the process should be replaced; empty while it should not.

    A broker that is away is no reason: a new process would find it no sooner.
    """
    problems: list[str] = []
    if signs.lag_s > LAG_LIMIT_S:
        problems.append(
            f"the event loop has not turned for {signs.lag_s:.1f} s: a handler blocks it"
        )
    for lane in signs.lanes:
        if lane.absent_s > ABSENCE_LIMIT_S and not lane.problem:
            problems.append(
                f"queue {lane.queue}: no consumer for {lane.absent_s:.0f} s{_because(lane)}"
            )
        if lane.starved_s > STARVED_LIMIT_S:
            problems.append(
                f"queue {lane.queue}: jobs are ready and none is delivered for {lane.starved_s:.0f} s"
            )
        if lane.stuck >= stuck_limit(lane.slots):
            problems.append(
                f"queue {lane.queue}: {lane.stuck} handlers ran out of time and do not end"
            )
    return problems


def why_not_ready(signs: Signs) -> list[str]:
    """Return what keeps the worker from running jobs as it should; empty when nothing does."""
    problems: list[str] = []
    if signs.stopping:
        problems.append("the worker is stopping")
    if signs.holding:
        problems.append(f"no job starts: {signs.holding}")
    if not signs.connected:
        problems.append("no connection to the broker")
    if not signs.control_ready:
        problems.append("operators' intents (the control log) are not known yet")
    if signs.control_problem:
        problems.append(f"the control log cannot be read: {signs.control_problem}")
    for lane in signs.lanes:
        if lane.problem:
            problems.append(lane.problem)
        elif _is_missed(lane, signs):
            problems.append(f"queue {lane.queue} is not consumed{_because(lane)}")
    return problems


def _because(lane: LaneSigns) -> str:
    return f": {lane.absence}" if lane.absence else ""


def _is_missed(lane: LaneSigns, signs: Signs) -> bool:
    """Whether a consumer should be there, is not, and nothing else explains it."""
    shut = lane.paused or bool(signs.holding)
    return not lane.present and not shut and signs.connected and signs.control_ready
