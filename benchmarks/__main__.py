"""`make bench`: we, the peers and the bare client on one private RabbitMQ, in interleaved rounds.

What counts are the ratios within a round: a noisy machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import peers_environment, plots
from benchmarks.arena import Arena, Stalled, opened
from benchmarks.parts import PARTS
from benchmarks.parts.part import Part, Row
from benchmarks.report import Report, dump, load, markdown, table


def main() -> int:
    """Measure, print, and write what was asked for."""
    options = _options()
    if options.show is not None:
        report = load(options.show.read_bytes())
    else:
        report = _measure(options)
    if options.json is not None:
        options.json.write_bytes(dump(report))
    if options.plots is not None:
        plots.write(report, options.plots)
    if options.markdown is not None:
        options.markdown.write_text(markdown(report))
    elif options.show is not None:
        print(markdown(report))
    return 1 if report.problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--only", help=f"parts, with commas between: {', '.join(names)}")
    parser.add_argument("--rows", help="rows whose label has one of these words in it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the numbers of jobs")
    parser.add_argument("--quick", action="store_true", help="one round at a scale of 0.05")
    parser.add_argument("--root", help="the RabbitMQ installation; default: the newest known")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--plots", type=Path, help="write charts into this folder")
    parser.add_argument("--show", type=Path, help="measure nothing: read this JSON")
    options = parser.parse_args()
    if options.only and (unknown := set(options.only.split(",")) - set(names)):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.quick:
        options.rounds, options.scale = 1, 0.05
    return options


def _measure(options: argparse.Namespace) -> Report:
    parts = _chosen(options.only, options.rows)
    if any(row.contestant.peer for _, rows in parts for row in rows):
        peers_environment.ensure()
    with opened(options.root) as arena:
        report = Report(
            machine=_machine(),
            versions={
                "RabbitMQ": arena.version,
                "Python": platform.python_version(),
                "pika": version("pika"),
                **peers_environment.versions(),
            },
            settings={row.label: row.contestant.settings for _, rows in parts for row in rows},
            rounds=options.rounds,
            scale=options.scale,
        )
        for part, rows in parts:
            print(f"\n{part.title} ({part.name})\n", flush=True)
            for number in range(options.rounds):
                _round(report, part, rows, arena, number)
            if part.name in report.parts:
                print(*table(part, report.parts[part.name]), sep="\n", flush=True)
    return report


def _round(report: Report, part: Part, rows: Iterable[Row], arena: Arena, number: int) -> None:
    for row in rows:
        began_s = time.monotonic()
        try:
            figures = row.measure(arena, report.scale)
        except Stalled as error:
            report.problems.append(f"{part.name}, {row.label}, round {number + 1}: {error}")
            print(f"  {row.label}: {error}", file=sys.stderr, flush=True)
            continue
        report.add(part.name, row.label, figures)
        shown = ", ".join(f"{value:,.5g} {name}" for name, value in figures.items())
        took_s = time.monotonic() - began_s
        print(f"  {number + 1}. {row.label}: {shown} ({took_s:.0f} s)", file=sys.stderr, flush=True)


def _chosen(only: str | None, words: str | None) -> Sequence[tuple[Part, Sequence[Row]]]:
    parts = [part for part in PARTS if only is None or part.name in only.split(",")]
    wanted = [word.strip().lower() for word in (words or "").split(",")]
    return [
        (part, [row for row in part.rows if any(word in row.label.lower() for word in wanted)])
        for part in parts
    ]


def _machine() -> dict[str, str]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": platform.platform(terse=True),
    }


if __name__ == "__main__":
    sys.exit(main())
