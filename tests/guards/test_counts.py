"""What a job costs on the hot paths stays what it was: calls and allocations, counted, not timed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest

from benchmarks.counts import allocations, baseline
from benchmarks.counts.baseline import Cost, Costs, baseline_of, judge
from benchmarks.counts.calls import Calls
from benchmarks.counts.measuring import ROOT, measure

COST = Cost(
    calls=10.0,
    native=20.0,
    allocations=30.0,
    functions={"shared/a.py:A.run": (4.0, 8.0), "shared/b.py:b": (6.0, 12.0)},
)
#: Less than this is what a job costs more where it is recorded. Counted: 4.2, 3.8 and 9.5, with
#: fifty jobs to a commit; the dictionary of a call with too many names would be two allocations.
RECORDING = Cost(calls=6.0, native=6.0, allocations=10.5, functions={})


def test_a_job_costs_what_it_did() -> None:
    """More than the baseline fails on any path, and so does less: then the baseline follows."""
    whose, before = baseline_of(baseline.read())
    costs = measure()
    assert set(costs) == set(before)
    if allocations.is_available() or os.environ.get("CI"):  # else no limit holds for them here
        assert [path for path, cost in costs.items() if not cost.allocations] == []
    problems = [judge(path, cost, before[path], whose=whose) for path, cost in costs.items()]
    if any(problems):
        pytest.fail("\n".join(filter(None, problems)), pytrace=False)


def test_what_costs_more_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper around a worker's start of a job fails the guard, by name, in each of the counts."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    before = measure(["worker"])["worker"]
    found = measure(["worker"], first="support.costly")["worker"]
    problem = judge("worker", found, before)
    assert "calls of Python functions" in problem
    assert "calls into C" in problem
    assert ("allocations:" in problem) == allocations.is_available()
    assert "  +40.00   +80.00  tests/support/costly.py:spend" in problem


def test_what_recording_adds_to_a_job_stays_small() -> None:
    """Its outcome's record costs half a dozen calls: 15 % of all that a job costs could hide twice that."""
    costs = measure(["worker", "worker-unrecorded"])
    on, off = costs["worker"], costs["worker-unrecorded"]
    assert 0 < on.calls - off.calls < RECORDING.calls
    assert 0 < on.native - off.native < RECORDING.native
    if on.allocations and off.allocations and RECORDING.allocations:
        assert 0 < on.allocations - off.allocations < RECORDING.allocations
    else:
        assert not allocations.is_available()


def spend(times: int) -> None:
    for _ in range(times):
        len("")


def test_calls_are_counted_on_every_thread_and_within_the_window() -> None:
    """Those of a thread that was started before the window count in it, and only in it."""
    turns: SimpleQueue[int] = SimpleQueue()
    done: SimpleQueue[None] = SimpleQueue()

    def serve() -> None:
        while times := turns.get():
            spend(times)
            done.put(None)

    calls = Calls()
    calls.install()
    try:
        thread = Thread(target=serve)
        thread.start()
        turns.put(100)
        done.get()
        calls.start()
        spend(3)
        turns.put(4)
        done.get()
        counted = calls.stop()
        turns.put(0)
        thread.join()
    finally:
        calls.remove()
    here = "tests/guards/test_counts.py:spend"
    assert counted.python[here] == 2
    assert counted.native[f"len < {here}"] == 7


@pytest.mark.parametrize("name", ["calls", "native", "allocations"])
@pytest.mark.parametrize(("factor", "word"), [(1.16, "take it back"), (0.84, "costs less")])
def test_each_count_is_held_on_both_sides(name: str, factor: float, word: str) -> None:
    """15 % either way is the most; the message says what to do."""
    found = replace(COST, **{name: getattr(COST, name) * factor})
    problem = judge("path", found, COST)
    assert word in problem
    assert baseline.RECORD in problem
    within = replace(COST, **{name: getattr(COST, name) * (1 + (factor - 1) * 0.9)})
    assert judge("path", within, COST) == ""


def test_what_grew_most_comes_first() -> None:
    """New functions count from nothing."""
    functions = {"shared/a.py:A.run": (5.0, 8.0), "shared/c.py:c": (7.0, 0.0)}
    problem = judge("path", replace(COST, calls=12.0, functions=functions), COST)
    assert problem.index("+7.00    +0.00  shared/c.py:c") < problem.index(
        "+1.00    +0.00  shared/a.py:A.run"
    )
    assert "shared/b.py" not in problem


@pytest.mark.parametrize(
    ("version", "whose"), [("3.11", "3.11"), ("3.12", "3.12"), ("3.14", "3.12"), ("3.9", "3.11")]
)
def test_a_python_without_a_baseline_takes_the_nearest(version: str, whose: str) -> None:
    """The nearest below, else the lowest there is."""
    versions: dict[str, Costs] = {"3.12": {}, "3.11": {}}
    assert baseline_of(versions, version)[0] == whose


def test_anothers_baseline_is_held_upwards_only() -> None:
    """Calls that a newer Python inlines are no improvement of ours; much more is still too much."""
    assert judge("path", replace(COST, calls=5.0), COST, whose="3.0") == ""
    assert judge("path", replace(COST, calls=11.4), COST, whose="3.0") == ""
    assert "against the baseline of Python 3.0 (+ 15%)" in judge(
        "path", replace(COST, calls=11.6), COST, whose="3.0"
    )


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Other versions' stay; functions that are called once in a blue moon are left out."""
    file = tmp_path / "baseline.json"
    file.write_text('{"3.0": {}}')
    rare = {"shared/rare.py:rare": (0.01, 0.0)}
    baseline.record({"path": replace(COST, functions=COST.functions | rare)}, file)
    assert baseline.read(file) == {"3.0": {}, baseline.THIS: {"path": COST}}
