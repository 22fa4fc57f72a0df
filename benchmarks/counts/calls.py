"""Counts calls of functions on all threads: Python's by their code, those into C by name and caller.

A coroutine or generator counts each time it goes on. Calls made by `benchmarks` itself, such as
those of the peer in place of a broker, are left out.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from types import CodeType, FrameType

    Key: TypeAlias = tuple[CodeType, str]

_OWN: Final = str(Path(__file__).parent)
_ROOT: Final = str(Path(__file__).parents[2])
_LIBRARIES: Final = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"))


@dataclass(frozen=True, slots=True)
class Counted:
    """What was called meanwhile.

    Attributes:
        python: calls of Python functions, by `file:name`.
        native: calls of functions in C, by `name < file:name of the caller`.

    """

    python: Counter[str]
    native: Counter[str]


class Calls:
    """Counts from `install` on, in this thread and in those that are started later."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._counts: list[defaultdict[Key, int]] = []
        self._before: Counter[Key] = Counter()

    def install(self) -> None:
        """Watch this thread, and each that is started from now on."""
        threading.setprofile(self._first)
        sys.setprofile(self._first)

    def remove(self) -> None:
        """Watch this thread no more; others are watched as long as they live."""
        threading.setprofile(None)
        sys.setprofile(None)

    def start(self) -> None:
        """Begin a window."""
        self._before = self._sum()

    def stop(self) -> Counted:
        """End the window and return what was called in it."""
        meanwhile = self._sum()
        meanwhile.subtract(self._before)
        counted = Counted(Counter(), Counter())
        for (code, native), number in meanwhile.items():
            if number <= 0 or code.co_filename.startswith(_OWN):
                continue
            if native:
                counted.native[f"{native} < {_place(code)}"] += number
            else:
                counted.python[_place(code)] += number
        return counted

    def _sum(self) -> Counter[Key]:
        total: Counter[Key] = Counter()
        for counts in self._counts:
            total.update(counts.copy())
        return total

    def _first(self, frame: FrameType, event: str, arg: Any) -> None:
        """Give the thread that this is called in a count of its own: two cannot share one."""
        counts: defaultdict[Key, int] = defaultdict(int)
        self._counts.append(counts)

        def count(frame: FrameType, event: str, arg: Any) -> None:
            if event == "call":
                counts[frame.f_code, ""] += 1
            elif event == "c_call":
                counts[frame.f_code, arg.__qualname__] += 1

        sys.setprofile(count)
        count(frame, event, arg)


def _place(code: CodeType) -> str:
    name = code.co_filename
    for folder in _LIBRARIES:
        name = name.removeprefix(folder).removeprefix("/") if name.startswith(folder) else name
    name = name.removeprefix(_ROOT).removeprefix("/")
    name = name.partition("/src/taskyard/")[2] or name
    return f"{name}:{code.co_qualname}"
