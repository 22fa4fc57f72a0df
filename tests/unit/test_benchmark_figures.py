"""What the benchmark makes of its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import Goal, Spread, judge, percentile, ratios
from benchmarks.meter import FOLDER, ROOM, Meter, Reading
from benchmarks.parts import PARTS
from benchmarks.plots import chart
from benchmarks.report import Report, dump, load, markdown


def test_a_ratio_is_taken_within_each_round() -> None:
    """A round in which the machine was slow for both says as much as the others."""
    assert ratios([100.0, 10.0, 90.0], [50.0, 5.0, 30.0]) == Spread(2.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("less_is_better", "rival", "ratio", "met"), [(False, "b", 1.5, True), (True, "a", 3.0, False)]
)
def test_the_best_rival_counts(less_is_better: bool, rival: str, ratio: float, met: bool) -> None:
    """The best is the one with most of it, or with least, by the median."""
    rows = {"we": {"x": [30.0]}, "a": {"x": [10.0]}, "b": {"x": [20.0]}, "c": {"y": [1.0]}}
    goal = Goal(row="we", figure="x", against=("a", "b", "c", "d"), factor=1.5)
    verdict = judge(goal, rows, less_is_better=less_is_better)
    assert verdict is not None
    assert (verdict.rival, verdict.ratio.median, verdict.met) == (rival, ratio, met)


@pytest.mark.parametrize(("less_is_better", "met"), [(False, True), (True, False)])
def test_a_goal_may_be_a_figure_itself(less_is_better: bool, met: bool) -> None:
    """Without rivals it is held to the number."""
    goal = Goal(row="we", figure="x", factor=25.0)
    verdict = judge(goal, {"we": {"x": [30.0]}}, less_is_better=less_is_better)
    assert verdict is not None
    assert (verdict.rival, verdict.ratio.median, verdict.met) == ("", 30.0, met)


def test_what_was_not_measured_is_not_judged() -> None:
    """A goal says nothing where a row of it is missing."""
    goal = Goal(row="we", figure="x", against=("a",), factor=1.0)
    assert judge(goal, {"we": {"x": [1.0]}}, less_is_better=False) is None
    assert judge(goal, {"a": {"x": [1.0]}}, less_is_better=False) is None


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    """The nearest rank."""
    assert percentile([float(n) for n in range(100, 0, -1)], share) == value


def test_a_meter_is_read_while_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, rate and latencies of all processes, in the order of each."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(ROOM, "2")
    assert Reading(tmp_path).count == 0
    meter = Meter()
    for _ in range(3):
        meter.tick(1)
    reading = Reading(tmp_path)
    assert reading.count == 3
    assert reading.rate > 0
    assert len(reading.latencies_s) == 2
    assert min(reading.latencies_s) > 1e9  # the job was sent in 1970


def test_a_report_comes_back_from_its_json() -> None:
    """And its tables name each row, with goals met or not."""
    part = next(part for part in PARTS if part.goals)
    report = Report(machine={"cores": "2"}, versions={}, settings={}, rounds=2, scale=1.0)
    for row in part.rows:
        for _ in range(2):
            report.add(part.name, row.label, {part.goals[0].figure: 100.0})
    again = load(dump(report))
    assert again == report
    text = markdown(again)
    assert all(row.label in text for row in part.rows)
    assert "Met: " in text
    bars = [
        (label, figures[part.goals[0].figure]) for label, figures in again.parts[part.name].items()
    ]
    assert chart("a <b>", bars).count("<path") == len(part.rows)


def test_every_goal_is_about_rows_of_its_part() -> None:
    """A goal that names no row would never be judged."""
    for part in PARTS:
        labels = {row.label for row in part.rows}
        assert len(labels) == len(part.rows)
        for goal in part.goals:
            assert goal.row in labels
            assert not goal.against or labels & set(goal.against)
