"""What is asked of Linux: who ran out of memory, what a job left running, to die with a parent."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_CGROUPS: Final = Path("/sys/fs/cgroup")


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory, as near to us as it tells.

    The counter of our own memory cgroup (version 2 or 1) where it can be read, the whole machine's
    otherwise; None where there is neither.
    """
    for path in _counters(_read("/proc/self/cgroup")):
        for line in _read(path).splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None


def rose(before: int | None, after: int | None) -> bool | None:
    """Tell whether a counter rose; None where it could not be read."""
    return None if before is None or after is None else after > before


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, and end now if that has happened.

    The kernel means the parent's thread that started us: whoever starts a child does it from a
    thread that lives as long as the process.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of whatever our descendants leave behind, so that `offspring` sees it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def offspring() -> frozenset[int]:
    """Return the ids of our child processes; none where the kernel does not list them."""
    found: list[str] = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += _read(str(path)).split()
    return frozenset(map(int, found))


def left_behind(before: frozenset[int]) -> list[int]:
    """Return the ids of child processes that run now and did not run `before`; collect dead ones."""
    left: list[int] = []
    for pid in offspring() - before:
        with suppress(ChildProcessError):  # somebody else has collected it meanwhile
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                left.append(pid)
    return sorted(left)


def flush_c() -> None:
    """Write out what C code has printed but kept in its buffers."""
    import ctypes  # here as below: a worker without children never needs it

    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).fflush(None)


def _prctl(option: int, value: int) -> None:
    import ctypes

    with suppress(AttributeError, OSError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _counters(cgroups: str) -> list[str]:
    found: list[str] = []
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        place = path.lstrip("/")
        if not controllers:
            found += [str(_CGROUPS / place / "memory.events"), str(_CGROUPS / "memory.events")]
        elif "memory" in controllers.split(","):
            names = (_CGROUPS / "memory" / place, _CGROUPS / "memory")
            found += [str(name / "memory.oom_control") for name in names]
    return [*found, "/proc/vmstat"]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
