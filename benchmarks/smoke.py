"""`make bench-smoke`: our publish and consume rates beside bare pika's, on one private node.

Rounds are interleaved and every part runs in a process of its own, so that a noisy machine
disturbs both sides alike. What counts is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bare import PREFETCH

# The private node is that of the tests; its folder is on the path there, and here it is not yet.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

QUEUE = "taskyard.q.bench"


def main() -> int:
    """Measure and print."""
    from support.blocking_node import BlockingNode
    from support.roots import find_root, installed_roots

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--root", help="one RabbitMQ installation; default: each that is known")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    roots = [find_root(options.root)] if options.root else installed_roots()
    report = {}
    for root in roots:
        node = BlockingNode(root)
        node.start()
        try:
            print(
                f"RabbitMQ {node.version}: {options.jobs} jobs, {options.rounds} rounds, {PREFETCH} slots"
            )
            report[node.version] = measure(node.url, options.jobs, options.rounds)
        finally:
            node.close()
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 0


def measure(url: str, jobs: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return jobs per second of each round, per part and side, and print them."""
    environment = {**os.environ, "TASKYARD_BROKER_URL": url, "TASKYARD_METRICS_PORT": "0"}
    run(environment, "taskyard.shared.cli", "broker", "apply", "benchmarks.noop")
    rates: dict[str, dict[str, list[float]]] = {
        part: {"bare": [], "ours": []} for part in ("publish", "consume")
    }
    for _ in range(rounds):
        rates["publish"]["bare"].append(bare("publish", url, jobs, environment))
        rates["consume"]["bare"].append(bare("consume", url, jobs, environment))
        rates["publish"]["ours"].append(ours_publish(jobs, environment))
        rates["consume"]["ours"].append(ours_consume(jobs, environment))
    for part, sides in rates.items():
        ratios = [o / b for o, b in zip(sides["ours"], sides["bare"], strict=True)]
        shown = ", ".join(
            f"{side} {statistics.median(all_):,.0f}/s" for side, all_ in sides.items()
        )
        print(
            f"  {part:<8} {shown}; ours is {statistics.median(ratios):.0%} of bare "
            f"(from {min(ratios):.0%} to {max(ratios):.0%})"
        )
    return rates


def bare(part: str, url: str, jobs: int, environment: dict[str, str]) -> float:
    """Run one part with the bare client."""
    return float(run(environment, "benchmarks.bare", part, url, QUEUE, str(jobs)))


def ours_publish(jobs: int, environment: dict[str, str]) -> float:
    """Send the jobs with the SDK, validation and ids included."""
    return float(run(environment, "benchmarks.send", str(jobs)))


def ours_consume(jobs: int, environment: dict[str, str]) -> float:
    """Run them in a worker that ends when the queue is empty."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rate"
        variables = {**environment, "BENCH_JOBS": str(jobs), "BENCH_RESULT": str(result)}
        variables["TASKYARD_STATE_DIR"] = folder
        run(
            variables,
            "taskyard.shared.cli",
            "worker",
            "benchmarks.noop",
            "--queues",
            "bench",
            "--drain",
        )
        deadline = time.monotonic() + 5
        while not result.exists():
            if time.monotonic() > deadline:
                msg = f"the worker ended before it had run {jobs} jobs"
                raise RuntimeError(msg)
            time.sleep(0.05)
        return float(result.read_text())


def run(environment: dict[str, str], module: str, *arguments: str) -> str:
    """Run a module in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
