"""Counts what a job costs on each path: calls here, allocations in a process that traces them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks.counts import allocations
from benchmarks.counts.baseline import Cost, Costs, cost_of
from benchmarks.counts.calls import Calls, Counted
from benchmarks.counts.paths import PATHS
from taskyard.shared.settings import PREFIX

#: Jobs before counting begins: caches are warm then, and threads started.
WARM_UP: Final = 250
JOBS: Final = 500
#: Jobs whose allocations are counted: each is a line in a file.
ALLOCATING: Final = 200
ROOT: Final = Path(__file__).parents[2]
_TIMEOUT_S: Final = 60.0
#: After which a process that counts is taken for stuck.
STUCK_S: Final = 50.0

T = TypeVar("T")


def measure(paths: Iterable[str] = PATHS, *, first: str | None = None) -> Costs:
    """Count in a process of its own, as allocations need it.

    Args:
        paths: of `PATHS`.
        first: module to import before, such as one that changes what is counted.

    """
    with tempfile.TemporaryDirectory() as folder:
        variables = {name: v for name, v in os.environ.items() if not name.startswith(PREFIX)}
        variables["PYTHONHASHSEED"] = "0"
        if allocations.is_available():
            variables |= allocations.environment(Path(folder) / "trace")
        command = [sys.executable, "-m", "benchmarks.counts", "--json"]
        command += ["--first", first] if first else []
        command += [part for path in paths for part in ("--path", path)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=variables,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_TIMEOUT_S,
        )
    return {path: cost_of(cost) for path, cost in json.loads(done.stdout).items()}


async def count_calls(path: str, folder: Path) -> Counted:
    """Take jobs along a path, and return what was called."""
    calls = Calls()
    calls.install()
    try:
        async with PATHS[path](folder) as steps:
            await steps.prepare(WARM_UP)
            await steps.run(WARM_UP)
            await steps.prepare(JOBS)
            gc.collect()
            calls.start()
            await steps.run(JOBS)
            return calls.stop()
    finally:
        calls.remove()


async def count_allocations(path: str, folder: Path) -> int:
    """Take jobs along a path, and return how often memory was allocated."""
    tracer = allocations.Allocations()
    async with PATHS[path](folder) as steps:
        await steps.prepare(WARM_UP)
        await steps.run(WARM_UP)
        await steps.prepare(ALLOCATING)
        gc.collect()
        tracer.start()
        await steps.run(ALLOCATING)
        return tracer.stop()


def alone(count: Callable[[str, Path], Coroutine[Any, Any, T]], path: str) -> T:
    """Count on an event loop and in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(count(path, Path(folder)))


def count_here(paths: Sequence[str]) -> Costs:
    """Count in this process.

    Allocations come first, on all paths: a process that has ever watched its calls goes on to
    allocate for that, on some versions of Python.
    """
    allocated: dict[str, int] = {}
    if allocations.is_counting():
        allocated = {path: alone(count_allocations, path) for path in paths}
    return {path: cost(alone(count_calls, path), allocated.get(path)) for path in paths}


def cost(called: Counted, allocated: int | None) -> Cost:
    """Return what one job costs."""
    functions: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, number in called.python.items():
        functions[name][0] += number / JOBS
    for name, number in called.native.items():
        functions[name.partition(" < ")[2]][1] += number / JOBS
    return Cost(
        calls=round(called.python.total() / JOBS, 2),
        native=round(called.native.total() / JOBS, 2),
        allocations=None if allocated is None else round(allocated / ALLOCATING, 2),
        functions={name: (round(py, 2), round(c, 2)) for name, (py, c) in functions.items()},
    )
