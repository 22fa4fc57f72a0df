"""What a job costs on the hot paths, counted instead of timed: the same on every machine.

python -m benchmarks.counts                    calls and allocations per job on each path
python -m benchmarks.counts --profile PATH     calls per job of each function on one path
python -m benchmarks.counts --record           make what is counted the baseline of the guard
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks import allocations
from benchmarks.baseline import Cost, Costs, cost_of, record
from benchmarks.calls import Calls, Counted
from benchmarks.paths import PATHS
from taskyard.shared.logs import log_json
from taskyard.shared.settings import PREFIX

#: Jobs before counting begins: caches are warm then, and threads started.
WARM_UP: Final = 250
JOBS: Final = 500
#: Jobs whose allocations are counted: each is a line in a file.
ALLOCATING: Final = 200
TOP: Final = 40
ROOT: Final = Path(__file__).parents[1]
_TIMEOUT_S: Final = 60.0

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


def show(title: str, counts: Counter[str], top: int) -> None:
    """Print calls per job, the most called first."""
    print(f"{title}: {counts.total() / JOBS:.2f} per job")
    for name, number in counts.most_common(top):
        print(f"  {number / JOBS:8.2f}  {name}")


def show_costs(costs: Costs) -> None:
    """Print a line for each path."""
    print(f"{'per job':<18} {'Python calls':>12} {'calls into C':>12} {'allocations':>12}")
    for path, each in costs.items():
        allocated = "not counted" if each.allocations is None else f"{each.allocations:.2f}"
        print(f"{path:<18} {each.calls:12.2f} {each.native:12.2f} {allocated:>12}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=sorted(PATHS), metavar="PATH")
    parser.add_argument("--top", type=int, default=TOP, help="functions of a profile")
    parser.add_argument("--path", action="append", choices=sorted(PATHS), help="only this")
    parser.add_argument("--record", action="store_true", help="write tests/guards/baseline.json")
    parser.add_argument("--first", help="a module to import before")
    parser.add_argument("--json", action="store_true", help="count here, and print JSON")
    options = parser.parse_args(arguments)
    log_json(sys.stderr, "error")
    paths = options.path or list(PATHS)
    if options.first:
        importlib.import_module(options.first)
    if options.profile:
        called = alone(count_calls, options.profile)
        show("Python calls", called.python, options.top)
        show("calls into C, and from where", called.native, options.top)
        return 0
    if options.json:
        print(json.dumps({path: asdict(each) for path, each in count_here(paths).items()}))
        return 0
    costs = measure(paths, first=options.first)
    show_costs(costs)
    if options.record:
        return _record(costs, complete=len(costs) == len(PATHS))
    return 0


def _record(costs: Costs, *, complete: bool) -> int:
    if not complete or any(each.allocations is None for each in costs.values()):
        print(
            f"nothing was recorded: a baseline has every path, and allocations ({allocations.LIBRARY})"
        )
        return 1
    record(costs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
