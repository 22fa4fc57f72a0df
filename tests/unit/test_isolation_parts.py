"""The smaller parts of isolation: deaths in words, output in lines, what Linux tells."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, strategies as st

from support import process_tasks
from taskyard.shared import Queue
from taskyard.shared.clock import VirtualClock
from taskyard.shared.envelope import Envelope
from taskyard.shared.outcomes import HandedBack, Parked
from taskyard.shared.states import ParkReason
from taskyard.workers.isolation import kernel
from taskyard.workers.isolation.conduct import modules_of, problem_of
from taskyard.workers.isolation.death import Death, outcome_of_death
from taskyard.workers.isolation.output import Allowance, Lines

# deaths

OOM = "; the kernel's out-of-memory counter rose meanwhile"


@pytest.mark.parametrize(
    ("death", "said"),
    [
        (Death(code=-9), "its process was killed by signal 9 (SIGKILL)"),
        (Death(code=-11, out_of_memory=False), "its process was killed by signal 11 (SIGSEGV)"),
        (Death(code=-99), "its process was killed by signal 99 (unknown)"),
        (Death(code=0), "its process ended by itself with exit code 0"),
        (Death(code=-9, out_of_memory=True), f"its process was killed by signal 9 (SIGKILL){OOM}"),
    ],
)
def test_a_death_in_words(death, said):
    """B-14: signal or exit code, and whether memory ran out, where the kernel says so."""
    assert str(death) == said


@pytest.mark.parametrize("deliveries", range(1, 8))
def test_a_death_is_charged_until_the_limit(deliveries):
    """B-14: the fifth delivery of five parks it as poison, with what is known; never a sixth."""
    envelope = Envelope(id="j", queue="q", task="q.t", deliveries=deliveries, attempt=2)
    outcome = outcome_of_death(Death(code=-9), envelope, 5)
    if deliveries < 5:
        assert outcome == HandedBack(reason=str(Death(code=-9)), charged=True)
    else:
        assert isinstance(outcome, Parked)
        assert outcome.reason is ParkReason.POISON
        assert "SIGKILL" in outcome.detail
        assert f"delivery {deliveries} of attempt 2" in outcome.detail


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(1, 1, False), (1, 2, True), (None, 2, None), (1, None, None)]
)
def test_a_counter_rises_or_is_unknown(before, after, expected):
    """Where the kernel keeps no counter, nothing is claimed."""
    assert kernel.rose(before, after) is expected


def test_the_counter_of_the_nearest_cgroup_counts(monkeypatch):
    """Version 2, version 1, then the whole machine; None where there is none."""
    files = {"/proc/self/cgroup": "4:cpu,memory:/a\n0::/b/c\n"}
    monkeypatch.setattr(kernel, "_read", lambda path: files.get(path, ""))
    assert kernel.oom_kills() is None
    files["/proc/vmstat"] = "pgfault 5\noom_kill 1\n"
    assert kernel.oom_kills() == 1
    files["/sys/fs/cgroup/memory/memory.oom_control"] = "under_oom 0\noom_kill 2\n"
    assert kernel.oom_kills() == 2
    files["/sys/fs/cgroup/memory/a/memory.oom_control"] = "under_oom 0\noom_kill 3\n"
    assert kernel.oom_kills() == 3
    del files["/proc/self/cgroup"]
    assert kernel.oom_kills() == 1


def test_a_child_whose_parent_is_another_ends_at_once():
    """Between its start and its first line the worker may have died."""
    code = "from taskyard.workers.isolation.kernel import die_with; die_with(1); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_what_a_job_leaves_running_is_seen(tmp_path):
    """Also what a program in between has started; what has ended meanwhile is collected."""
    code = (
        "import os, subprocess, time\n"
        "from taskyard.workers.isolation.kernel import adopt_orphans, left_behind, offspring\n"
        "adopt_orphans()\n"
        "kept = subprocess.Popen(['sleep', '60'])\n"
        "before = offspring()\n"
        "assert before == {kept.pid}, before\n"
        "over = subprocess.Popen(['true'])\n"
        "os.waitid(os.P_PID, over.pid, os.WEXITED | os.WNOWAIT)\n"
        "assert left_behind(before) == []\n"
        "assert offspring() == before\n"
        "said = subprocess.run(['sh', '-c', 'sleep 60 >/dev/null & echo $!'], stdout=-1, check=True)\n"
        "assert left_behind(before) == [int(said.stdout)], said\n"
        "os.kill(int(said.stdout), 9); kept.kill()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# output


@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(1, 20))
def test_lines_are_whole_and_bounded(pieces, limit):
    """Nothing is lost or mixed, wherever the pipe cuts; no line is longer than the limit."""
    lines = Lines(limit)
    got = [line for piece in pieces for line in lines.feed(piece)]
    got += lines.flush()
    whole = b"".join(pieces).replace(b"\r", b"")
    assert "".join(got).replace("\ufffd", "") == "".join(
        line for line in _decoded(b"".join(pieces), limit)
    ).replace("\ufffd", "")
    assert all(len(line.encode()) <= 3 * limit for line in got)
    assert len(got) >= whole.count(b"\n")


def _decoded(data: bytes, limit: int) -> list[str]:
    return [
        line[start : start + limit].decode("utf-8", "replace").rstrip("\r")
        for line in data.split(b"\n")
        for start in range(0, max(len(line), 1), limit)
    ]


def test_an_allowance_is_a_burst_and_a_rate():
    """Ten at once, then two a second; never more than the burst is saved up."""
    clock = VirtualClock()
    allowance = Allowance(clock, burst=10, rate=2)
    assert [allowance.take(7), allowance.take(7), allowance.take(7)] == [7, 3, 0]
    clock.advance(ms=1500)
    assert [allowance.take(2), allowance.take(7)] == [2, 1]
    clock.advance(ms=3_600_000)
    assert allowance.take(20) == 10


# which modules a child imports


def test_what_a_child_can_import():
    """Named modules, or those of the tasks; a queue of the program itself, or of a function, is none."""
    known = process_tasks.queue
    assert modules_of(known, ()) == ("support.process_tasks",)
    assert modules_of(known, ("shop.tasks",)) == ("shop.tasks",)
    assert problem_of(known, modules_of(known, ())) == ""
    assert "declared in the program itself" in problem_of(known, ("__main__",))
    assert "no attribute of its modules (none)" in problem_of(Queue("local"), ())
    assert "(support.process_tasks)" in problem_of(Queue("proc"), ("support.process_tasks",))
