"""Counts allocations of memory, each and every one, as glibc's `mtrace` writes them down.

It sees what goes through `malloc`, so the process must be started with `environment`: the library
that traces is loaded then, and Python's own allocator, which serves small objects from pools, is
off. Objects that Python takes from its free lists cost no allocation, and count as none.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final

LIBRARY: Final = "libc_malloc_debug.so.0"
_FILE: Final = "MALLOC_TRACE"


def is_available() -> bool:
    """Tell whether this system has what traces: it comes with glibc."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def environment(trace: Path) -> dict[str, str]:
    """Return what a process that counts needs in its environment; `trace` is a file of its own."""
    return {"LD_PRELOAD": LIBRARY, "PYTHONMALLOC": "malloc", _FILE: str(trace)}


def is_counting() -> bool:
    """Tell whether this process was started to count."""
    return os.environ.get("LD_PRELOAD") == LIBRARY and _FILE in os.environ


class Allocations:
    """Counts between `start` and `stop`, on all threads."""

    def __init__(self) -> None:
        """Find the functions; they are there under the name of an old version only."""
        library = ctypes.CDLL(LIBRARY)
        find = ctypes.CDLL(None).dlvsym
        find.restype = ctypes.c_void_p
        find.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        self._start, self._stop = (
            _function(find(library._handle, name, _version()), name)
            for name in (b"mtrace", b"muntrace")
        )

    def start(self) -> None:
        """Begin a window."""
        self._start()

    def stop(self) -> int:
        """End the window and return how many allocations there were; growing one counts too."""
        self._stop()
        # "@ where + address size"; > is the second half of a reallocation
        with Path(os.environ[_FILE]).open("rb") as lines:
            return sum(b" + 0x" in line or b" > 0x" in line for line in lines)


def _version() -> bytes:
    return b"GLIBC_2.17" if os.uname().machine == "aarch64" else b"GLIBC_2.2.5"


def _function(address: int | None, name: bytes) -> Any:
    if not address:
        raise OSError(f"{LIBRARY} has no {name.decode()}: allocations cannot be counted here")
    return ctypes.CFUNCTYPE(None)(address)
