"""What a job costs on the hot paths, counted instead of timed: the same on every machine.

python -m benchmarks.counts                    calls per job on each path
python -m benchmarks.counts --profile PATH     calls per job of each function on one path
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from benchmarks.calls import Calls, Counted
from benchmarks.paths import PATHS
from taskyard.shared.logs import log_json

#: Jobs before counting begins: caches are warm then, and threads started.
WARM_UP: Final = 250
JOBS: Final = 500
TOP: Final = 40


async def count_calls(path: str, folder: Path) -> Counted:
    """Take jobs along a path and return what was called."""
    calls = Calls()
    calls.install()
    try:
        async with PATHS[path](folder) as steps:
            await steps.prepare(WARM_UP)
            await steps.run(WARM_UP)
            await steps.prepare(JOBS)
            calls.start()
            await steps.run(JOBS)
            return calls.stop()
    finally:
        calls.remove()


def counted(path: str) -> Counted:
    """Count one path on an event loop of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(count_calls(path, Path(folder)))


def show(title: str, counts: Counter[str], top: int = TOP) -> None:
    """Print calls per job, the most called first."""
    print(f"{title}: {counts.total() / JOBS:.2f} per job")
    for name, number in counts.most_common(top):
        print(f"  {number / JOBS:8.2f}  {name}")


def main() -> int:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=sorted(PATHS), metavar="PATH")
    parser.add_argument("--top", type=int, default=TOP, help="functions of a profile")
    options = parser.parse_args()
    log_json(sys.stderr, "error")
    if options.profile:
        found = counted(options.profile)
        show("Python calls", found.python, options.top)
        show("calls into C, and from where", found.native, options.top)
        return 0
    for path in PATHS:
        found = counted(path)
        print(
            f"{path:<20} {found.python.total() / JOBS:8.2f} Python calls "
            f"{found.native.total() / JOBS:8.2f} calls into C"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
