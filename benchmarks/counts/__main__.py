"""What a job costs on the hot paths, counted instead of timed: the same on every machine.

python -m benchmarks.counts                    calls and allocations per job on each path
python -m benchmarks.counts --profile PATH     calls per job of each function on one path
python -m benchmarks.counts --record           make what is counted the baseline of the guard
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from benchmarks.counts import allocations
from benchmarks.counts.baseline import Costs, record
from benchmarks.counts.measuring import (
    JOBS,
    STUCK_S,
    alone,
    count_calls,
    count_here,
    measure,
)
from benchmarks.counts.paths import PATHS
from taskyard.shared.logs import log_json

#: Functions of a profile.
TOP: Final = 40


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
        # Who waits for this process gives it a minute; if it hangs, it says where.
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
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
