"""Several worker processes as one: what follows from their ends, their health, their numbers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from taskyard.shared.cli import ALREADY_RUNNING, UNAVAILABLE, USAGE
from taskyard.shared.metrics import TABLE, Metrics
from taskyard.shared.snapshot import Snapshot, expose, merge, take_snapshot, totals
from taskyard.workers.group import (
    GroupSigns,
    MemberSigns,
    why_group_dead,
    why_group_not_ready,
    why_member_dead,
)
from taskyard.workers.succession import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    SETTLED_S,
    End,
    GiveUp,
    Rest,
    Restart,
    after,
    code_of,
)


def test_a_recycled_process_is_replaced_at_once():
    """A5.6: it worked and ended with 0."""
    assert after(End(code=0, uptime_s=1, failures=3)) == Restart(0.0, 0)


def test_a_process_that_dies_in_a_loop_is_started_less_and_less_often():
    """The pause doubles up to half a minute, and begins anew after one that lasted."""
    failures, delays = 0, []
    for _ in range(10):
        step = after(End(code=-9, uptime_s=1, failures=failures))
        assert isinstance(step, Restart)
        failures = step.failures
        delays.append(step.delay_s)
    assert delays[:4] == [FIRST_DELAY_S, 1, 2, 4]
    assert delays[-1] == LONGEST_DELAY_S
    lasted = after(End(code=-9, uptime_s=SETTLED_S, failures=failures))
    assert lasted == Restart(FIRST_DELAY_S, 1)


def test_one_that_ends_well_without_having_worked_is_no_success():
    """A5.6: a limit that is reached before the first job must not spin."""
    assert after(End(code=0, uptime_s=1, worked=False)) == Restart(FIRST_DELAY_S, 1)


def test_a_drained_process_rests():
    """CR-01: its queues are empty; a complaint is not repeated, a kill is not taken for an end."""
    assert after(End(code=0, uptime_s=1, drained=True)) == Rest()
    assert after(End(code=1, uptime_s=1, drained=True)) == Rest()
    assert isinstance(after(End(code=-9, uptime_s=1, drained=True)), Restart)


@pytest.mark.parametrize("code", [USAGE, UNAVAILABLE])
def test_a_group_that_cannot_start_gives_up(code):
    """The exit code of one worker is the group's, until one has shown that it works."""
    assert after(End(code=code, uptime_s=1, proven=False)) == GiveUp(code)
    assert isinstance(after(End(code=code, uptime_s=1, proven=True)), Restart)


def test_the_exit_code_of_a_group():
    """0 when all ended well; what is said most clearly otherwise; a signal is a plain failure."""
    assert code_of([]) == code_of([0, 0]) == 0
    assert code_of([0, 1, USAGE, 69]) == USAGE
    assert code_of([0, ALREADY_RUNNING]) == ALREADY_RUNNING
    assert code_of([0, -9]) == 1
    assert code_of([0, 5]) == 5


def test_the_health_of_a_group():
    """Dead: a silent or dead process that nobody replaces yet. Ready: all of them, or resting."""
    well = MemberSigns(number=1, pid=11, silent_s=0.1)
    assert why_group_dead(GroupSigns(members=(well,))) == []
    assert why_group_not_ready(GroupSigns(members=(well,))) == []
    silent = MemberSigns(number=2, pid=12, silent_s=60)
    assert why_member_dead(silent) == ["process 12 has not reported for 60 s"]
    assert why_group_dead(GroupSigns(members=(well, silent))) != []
    leaving = MemberSigns(number=2, pid=12, silent_s=60, replacing=True)
    assert why_group_dead(GroupSigns(members=(leaving,))) == []
    assert why_group_not_ready(GroupSigns(members=(leaving,))) == ["process 12 is being replaced"]
    assert why_group_not_ready(GroupSigns(members=(MemberSigns(number=3),))) == [
        "process number 3 does not run"
    ]
    assert why_group_not_ready(GroupSigns(members=(MemberSigns(number=3, resting=True),))) == []
    assert why_group_not_ready(GroupSigns(stopping=True)) == ["the group is stopping"]
    assert why_group_dead(GroupSigns(lag_s=60)) != []


def counted(succeeded: int, waits: tuple[float, ...] = (), *, connected: int = 1) -> Snapshot:
    metrics = Metrics()
    metrics.count("jobs_finished", "q", "t", "succeeded").value = succeeded
    metrics.count("broker_connected").value = connected
    metrics.count("slots", "q").value = 10
    for wait in waits:
        metrics.histogram("job_wait_seconds", "q").observe(wait)
    return take_snapshot(metrics)


def test_the_numbers_of_several_are_those_of_one():
    """Counters, histograms and slots add up; a lost connection of one is the group's."""
    both = merge([counted(3, (0.1, 2.0)), counted(4, (0.1,), connected=0)])
    text = expose(both).decode()
    assert 'taskyard_jobs_finished_total{outcome="succeeded",queue="q",task="t"} 7.0' in text
    assert 'taskyard_job_wait_seconds_count{queue="q"} 3.0' in text
    assert 'taskyard_slots{queue="q"} 20.0' in text
    assert "taskyard_broker_connected 0.0" in text


def test_every_gauge_of_the_broker_is_taken_once():
    """What each process sees alike must not be multiplied by their number."""
    seen_alike = {"queue_jobs", "queue_oldest_seconds", "queue_paused", "parked_jobs"}
    for definition in TABLE:
        if definition.name in seen_alike:
            assert definition.combine == "max"
        if definition.kind != "gauge":
            assert definition.combine == "sum"


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=1, max_size=5))
def test_a_counter_never_goes_back_across_restarts(lives):
    """One place, several processes one after another, each counting from 0: the sum only grows."""
    kept, before = Snapshot(), 0.0
    for steps in lives:
        value = 0
        report = Snapshot()
        for step in steps:
            value += step
            report = counted(value)
            total = value_of(merge([report, kept]))
            assert total >= before
            before = total
        kept = merge([kept, totals(report)])
        assert value_of(merge([kept])) == before
    assert before == sum(map(sum, lives))
    assert not [one for one in kept.counted if one.name == "slots"]


def value_of(snapshot: Snapshot) -> float:
    return sum(one.value for one in snapshot.counted if one.name == "jobs_finished")


def test_a_snapshot_survives_the_way():
    """What a process reports is what its supervisor reads."""
    snapshot = counted(3, (0.1, 99.0))
    way = msgspec.json.encode(snapshot)
    assert msgspec.json.decode(way, type=Snapshot) == snapshot
