"""`--max-rss`: when a worker that holds too much memory is replaced, and when it is not."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.size import parse_size, show_size
from taskyard.workers.recycling import (
    CALLS_PATIENCE_S,
    FIRST_PATIENCE_S,
    LONGEST_PATIENCE_S,
    PAUSE_S,
    Phase,
    Recycling,
    judge,
    look,
)

LIMIT = 300


class Watched:
    """A worker's memory under the state machine, as the recycler drives it."""

    def __init__(self) -> None:
        self.state = Recycling()
        self.now_s = 0.0
        self.settled = 0

    def see(
        self, resident: int, running: set[int], *, settled: int | None = None, calling: int = 0
    ) -> Phase:
        """Look once; memory settles at `settled` if that is asked for."""
        self.state, ask = look(
            self.state,
            now_s=self.now_s,
            resident=resident,
            limit=LIMIT,
            running=running,
            calling=calling,
        )
        if ask:
            self.settled += 1
            self.state = judge(
                self.state,
                now_s=self.now_s,
                settled=resident if settled is None else settled,
                limit=LIMIT,
                running=running,
            )
        return self.state.phase


def test_a_large_job_is_waited_for_and_trips_nothing():
    """A5.6: 400 under a limit of 300 while it runs; others start meanwhile; afterwards it is gone."""
    worker = Watched()
    assert worker.see(400, {1, 2}) is Phase.OUTLASTING
    assert worker.see(410, {1, 3}) is Phase.OUTLASTING
    assert not worker.state.holding
    assert worker.settled == 0
    assert worker.see(400, {3, 4}, settled=80) is Phase.WATCHING
    assert worker.settled == 1


def test_memory_that_the_allocator_keeps_is_no_leak():
    """A5.6: what settles below the limit is not charged, and is not measured again at once."""
    worker = Watched()
    assert worker.see(400, set(), settled=200) is Phase.WATCHING
    worker.now_s = PAUSE_S / 2
    assert worker.see(400, set(), settled=200) is Phase.WATCHING
    assert worker.settled == 1
    worker.now_s = PAUSE_S
    worker.see(400, set(), settled=200)
    assert worker.settled == 2


def test_a_leak_of_an_idle_worker_recycles_it():
    """A5.6: nothing runs, memory has settled, and it is still too much."""
    worker = Watched()
    assert worker.see(301, set()) is Phase.RECYCLED
    assert worker.see(1, {1}) is Phase.RECYCLED


def test_jobs_that_wait_for_jobs_are_not_waited_for():
    """A5.6: a called job may have to start here, so a stand-still does not outlast the calls; it is
    tried again, no more patiently, and ends the worker once nothing runs.
    """
    worker = Watched()
    for _ in range(5):
        begun_s = worker.now_s
        worker.see(400, {1, 2})
        assert worker.see(400, {2, 3}) is Phase.OUTLASTING
        assert worker.see(400, {3, 4}) is Phase.EMPTYING
        worker.now_s += CALLS_PATIENCE_S
        assert worker.see(400, {3, 4}, calling=1) is Phase.EMPTYING
        assert worker.see(400, {3, 4}, calling=2) is Phase.WATCHING
        assert not worker.state.holding
        worker.now_s += FIRST_PATIENCE_S
        assert worker.now_s - begun_s <= CALLS_PATIENCE_S + FIRST_PATIENCE_S
    assert worker.see(400, set()) is Phase.RECYCLED


def test_a_leak_of_a_busy_worker_empties_it_first():
    """A5.6: nothing starts until all that runs has ended; only then is it recycled, between jobs."""
    worker = Watched()
    worker.see(400, {1})
    assert worker.see(400, {2}) is Phase.EMPTYING
    assert worker.state.holding
    assert worker.see(400, {2}) is Phase.EMPTYING
    assert worker.see(400, set()) is Phase.RECYCLED


def test_overlapping_large_jobs_cost_less_and_less():
    """A5.6: a stand-still that shows no leak is not repeated soon, and each time later."""
    worker = Watched()
    pauses: list[float] = []
    for number in range(12):
        worker.see(400, {number})
        assert worker.see(400, {-1}) is Phase.EMPTYING
        assert worker.see(400, set(), settled=100) is Phase.WATCHING
        pauses.append(worker.state.not_before_s - worker.now_s)
        worker.now_s = worker.state.not_before_s
    assert pauses[:3] == [FIRST_PATIENCE_S, 2 * FIRST_PATIENCE_S, 4 * FIRST_PATIENCE_S]
    assert pauses[-1] == LONGEST_PATIENCE_S


def test_a_long_job_beside_a_leak_does_not_stop_the_worker_for_ever():
    """A5.6: the stand-still is bounded; it comes again later, for longer."""
    worker = Watched()
    worker.see(400, {1, 9})
    worker.see(400, {2, 9})
    assert worker.state.phase is Phase.OUTLASTING
    worker = Watched()
    worker.see(400, {1})
    worker.see(400, {9})
    worker.now_s = FIRST_PATIENCE_S
    assert worker.see(400, {9}) is Phase.WATCHING
    assert not worker.state.holding
    worker.now_s = worker.state.not_before_s
    worker.see(400, {9})
    assert worker.see(400, {10}) is Phase.EMPTYING
    worker.now_s += FIRST_PATIENCE_S
    assert worker.see(400, {10}) is Phase.EMPTYING
    assert worker.see(400, set()) is Phase.RECYCLED


def test_patience_comes_back_after_a_quiet_time():
    """A5.6: a worker that has long been small is judged as on its first day."""
    worker = Watched()
    worker.see(400, {1})
    worker.see(400, {2})
    worker.see(400, set(), settled=100)
    assert worker.state.patience_s == 2 * FIRST_PATIENCE_S
    worker.now_s = worker.state.not_before_s + 2 * FIRST_PATIENCE_S
    worker.see(100, {3})
    assert worker.state.patience_s == FIRST_PATIENCE_S


_LOOKS = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.integers(0, 600),
        st.frozensets(st.integers(0, 5), max_size=3),
        st.floats(0, 1),
    ),
    max_size=60,
)


@given(_LOOKS)
def test_whatever_happens_no_running_job_is_interrupted(looks):
    """A5.6: only settled memory above the limit, with nothing running, ends a worker; no
    stand-still outlasts its patience; the patience keeps within its bounds.
    """
    worker = Watched()
    for after_s, resident, running, share in looks:
        worker.now_s += after_s
        settled = int(resident * share)
        before = worker.state
        phase = worker.see(resident, set(running), settled=settled)
        if phase is Phase.RECYCLED and before.phase is not Phase.RECYCLED:
            assert not running
            assert settled > LIMIT
        if phase is Phase.EMPTYING:
            assert worker.now_s - worker.state.since_s < worker.state.patience_s or not running
        assert FIRST_PATIENCE_S <= worker.state.patience_s <= LONGEST_PATIENCE_S


SIZES = [
    ("300M", 300 * 1024**2),
    ("1g", 1024**3),
    ("512MiB", 512 * 1024**2),
    ("1.5 GB", 1536 * 1024**2),
    ("1073741824", 1024**3),
    ("64k", 64 * 1024),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sizes_are_read_as_people_write_them(text, size):
    """Units count in steps of 1024, as for Docker and systemd."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "300 apples", "0", "1e9"])
def test_what_is_no_size_is_refused_in_words(text):
    """The text shows how to write one."""
    with pytest.raises(ConfigurationError, match="size"):
        parse_size(text)


@given(st.integers(1, 2**50))
def test_a_shown_size_reads_back_nearly_the_same(size):
    """What a log line says may be given to `--max-rss`."""
    shown = show_size(size)
    assert abs(parse_size(shown) - size) <= size * 0.05 + 1
