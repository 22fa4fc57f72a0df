"""What a job cost on each hot path when that was last recorded, and how far off it may be by now."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

FILE: Final = Path(__file__).parents[2] / "tests/guards/baseline.json"
#: How far a count may be off, as a share of the baseline.
TOLERANCE: Final = 0.15
RECORD: Final = "python -m benchmarks.counts --record"
#: Rarer functions are not kept in the file.
_RARE: Final = 0.05
#: Most functions that a message names, and the least that such a one has grown by.
_SHOWN: Final = 10
_GROWN: Final = 0.2

THIS: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one job costs on one path.

    Attributes:
        calls: of Python functions.
        native: calls of functions in C.
        allocations: of memory; None where they were not counted.
        functions: for each Python function, its calls and its calls into C.

    """

    calls: float
    native: float
    allocations: float | None
    functions: dict[str, tuple[float, float]]


Costs: TypeAlias = dict[str, Cost]


def read(file: Path = FILE) -> dict[str, Costs]:
    """Return what was recorded, per version of Python and path."""
    if not file.exists():
        return {}
    return {
        version: {path: cost_of(cost) for path, cost in costs.items()}
        for version, costs in json.loads(file.read_text()).items()
    }


def record(costs: Costs, file: Path = FILE) -> None:
    """Make these the baseline of this version of Python; that of others stays."""
    versions = read(file) | {THIS: costs}
    lines = [f" {json.dumps(version)}: {_costs(versions[version])}" for version in sorted(versions)]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def baseline_of(versions: dict[str, Costs], version: str = THIS) -> tuple[str, Costs]:
    """Return the baseline for a version of Python, and whose it is.

    Where none was recorded it is that of the nearest version below, else of the lowest. It is
    then held upwards only: newer versions inline calls and allocate less (seen up to 3.13: calls
    within 7 % of 3.11's, allocations up to 27 % fewer).
    """
    if version in versions:
        return version, versions[version]
    below = [each for each in versions if _number(each) < _number(version)]
    whose = max(below, key=_number) if below else min(versions, key=_number)
    return whose, versions[whose]


def judge(path: str, found: Cost, before: Cost, *, whose: str = THIS) -> str:
    """Return what is wrong with what a job costs on `path` now; empty if nothing is."""
    worse: list[str] = []
    better: list[str] = []
    for name, now, then in (
        ("calls of Python functions", found.calls, before.calls),
        ("calls into C", found.native, before.native),
        ("allocations", found.allocations, before.allocations),
    ):
        if now is None or then is None:
            continue
        said = f"{name}: {then:.1f} -> {now:.1f} per job ({now / then - 1:+.0%})"
        if now > then * (1 + TOLERANCE):
            worse.append(said)
        elif now < then * (1 - TOLERANCE) and whose == THIS:
            better.append(said)
    if not worse and not better:
        return ""
    limit = "±" if whose == THIS else "+"
    lines = [
        f"{path}, against the baseline of Python {whose} ({limit} {TOLERANCE:.0%})",
        *worse,
        *better,
    ]
    if worse:
        lines += ["what grew most, in calls and calls into C per job:", *_grown(found, before)]
        lines.append(f"take it back; or, if it is worth its cost, record it: {RECORD}")
    else:
        lines.append(f"a job costs less than it did: record that, so that it stays so: {RECORD}")
    return "\n  ".join(lines)


def cost_of(plain: dict[str, Any]) -> Cost:
    """Return the cost that JSON holds."""
    functions = {name: (calls, native) for name, (calls, native) in plain["functions"].items()}
    return Cost(
        calls=plain["calls"],
        native=plain["native"],
        allocations=plain["allocations"],
        functions=functions,
    )


def _grown(found: Cost, before: Cost) -> list[str]:
    none = (0.0, 0.0)
    grown: list[tuple[float, str]] = []
    for name, (calls, native) in found.functions.items():
        was = before.functions.get(name, none)
        more = calls - was[0] + native - was[1]
        if more > _GROWN:
            grown.append((more, f"{calls - was[0]:+8.2f} {native - was[1]:+8.2f}  {name}"))
    return [text for _, text in sorted(grown, reverse=True)[:_SHOWN]]


def _costs(costs: Costs) -> str:
    """Return costs as JSON with a line for each function, so that a difference can be read."""
    paths: list[str] = []
    for path, cost in costs.items():
        totals = f'"calls": {cost.calls}, "native": {cost.native}, "allocations": '
        kept = [
            f"    {json.dumps(name)}: {json.dumps(numbers)}"
            for name, numbers in sorted(cost.functions.items())
            if max(numbers) >= _RARE
        ]
        functions = ",\n".join(kept)
        paths.append(
            f"  {json.dumps(path)}: {{{totals}{json.dumps(cost.allocations)},"
            f' "functions": {{\n{functions}\n  }}}}'
        )
    return "{\n" + ",\n".join(paths) + "\n }"


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
