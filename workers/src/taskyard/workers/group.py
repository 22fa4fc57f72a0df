"""Several worker processes as one: whether they live and are ready. Pure judgements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from taskyard.workers.signs import LAG_LIMIT_S

#: Seconds that a process may be dead inside before it is replaced; a kubelet waits for 30.
REPLACE_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSigns:
    """One of the processes.

    Attributes:
        number: its place in the group, from 1.
        pid: None while it does not run.
        silent_s: since its last report; None before the first.
        dead: why it should be replaced, in its own words.
        unready: why it is not ready, in its own words.
        replacing: it was told to end because it is dead inside.
        resting: it has done its work and is not started again.

    """

    number: int
    pid: int | None = None
    silent_s: float | None = None
    dead: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()
    replacing: bool = False
    resting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSigns:
    """A supervisor and its processes at one moment.

    Attributes:
        lag_s: for how long the supervisor's own loop has not turned when it should have.
        stopping: it was told to stop.
        members: its processes.

    """

    lag_s: float = 0.0
    stopping: bool = False
    members: tuple[MemberSigns, ...] = ()


def why_member_dead(member: MemberSigns) -> list[str]:
    """Return why a process should be replaced; empty while it should not."""
    problems = [f"process {member.pid}: {problem}" for problem in member.dead]
    if member.silent_s is not None and member.silent_s > LAG_LIMIT_S:
        problems.append(f"process {member.pid} has not reported for {member.silent_s:.0f} s")
    return problems


def why_group_dead(signs: GroupSigns) -> list[str]:
    """Return why the whole group should be replaced.

    A process that is being replaced already is no reason.
    """
    problems: list[str] = []
    if signs.lag_s > LAG_LIMIT_S:
        problems.append(f"the supervisor has not moved for {signs.lag_s:.1f} s")
    for member in signs.members:
        if not member.replacing:
            problems += why_member_dead(member)
    return problems


def why_group_not_ready(signs: GroupSigns) -> list[str]:
    """Return what keeps any of the processes from running jobs as it should."""
    problems = ["the group is stopping"] if signs.stopping else []
    for member in signs.members:
        if member.resting:
            continue
        if member.pid is None:
            problems.append(f"process number {member.number} does not run")
        elif member.silent_s is None:
            problems.append(f"process {member.pid} is starting")
        elif member.replacing:
            problems.append(f"process {member.pid} is being replaced")
        problems += [f"process {member.pid}: {problem}" for problem in member.unready]
    return problems
