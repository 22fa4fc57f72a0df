"""The accountant finds what it is there for, and a seed attacks in the same way each time."""

from __future__ import annotations

from pathlib import Path

from support.accounting import Account, Books, Fault, account
from support.schedule import schedule

KILLED = Fault(kind="worker killed", since=5.0, until=5.0, pid=7)
CUT = Fault(kind="connections cut", since=5.0, until=5.2)


def start(at: float, number: int, *, deliveries: int = 1, pid: int = 7, attempt: int = 1) -> str:
    return f"start {at} {number} job-{number} {attempt} {deliveries} {pid}"


def end(at: float, number: int, *, deliveries: int = 1, pid: int = 7, attempt: int = 1) -> str:
    return f"end {at} {number} job-{number} {attempt} {deliveries} {pid}"


def found(folder: Path, runs: list[str], *faults: Fault, sent: str = "", parked=()) -> Account:
    """Account for numbers 0 and 1, both confirmed unless `sent` says otherwise."""
    (folder / "sent-1").write_text(sent or "trying 0.0 0 2\nconfirmed 0.1 0 2\n")
    for pid in (7, 8):
        own = [line for line in runs if line.endswith(f" {pid}")]
        (folder / f"runs-{pid}").write_text("".join(f"{line}\n" for line in own))
    return account(Books.of(folder), faults, parked)


ZERO = [start(1, 0), end(2, 0)]


def test_each_number_is_in_one_place(tmp_path: Path) -> None:
    """Done once; parked; confirmed and never ended; never confirmed."""
    assert found(tmp_path, [*ZERO, start(1, 1), end(2, 1)]).once == {0, 1}
    assert found(tmp_path, ZERO, parked={1}).parked == {1}
    assert found(tmp_path, [*ZERO, start(1, 1)]).missing == {1}
    unsure = "trying 0.0 0 1\nconfirmed 0.1 0 1\ntrying 0.1 1 2\n"
    nowhere = found(tmp_path, ZERO, sent=unsure)
    assert (nowhere.unsent, nowhere.missing) == ({1}, set())


def test_a_second_run_needs_a_cause(tmp_path: Path) -> None:
    """Its own process was killed in between, or every connection was cut; nothing else counts."""
    runs = [*ZERO, start(4, 1), start(6, 1, deliveries=2, pid=8), end(7, 1, deliveries=2, pid=8)]
    for fault in (KILLED, CUT):
        good = found(tmp_path, runs, fault)
        assert good.more == {1}
        assert dict(good.reasons) == {fault.kind: 1}
        assert not good.unexplained
        assert not good.unmarked
    elsewhere = Fault(kind="worker killed", since=5.0, until=5.0, pid=9)
    before = Fault(kind="connections cut", since=3.0, until=3.5)
    after = Fault(kind="connections cut", since=6.5, until=7.0)
    for excuse in (elsewhere, before):  # somebody may have held it, or its copy, without a run
        told = f"counted twice, {excuse.kind}"
        assert dict(found(tmp_path, runs, excuse).reasons) == {told: 1}
    bad = found(tmp_path, runs, after)
    assert len(bad.unexplained) == 1
    assert "a job ran twice" in str(bad)
    unlike = [*ZERO, start(4, 1), start(6, 1, pid=8), end(7, 1, pid=8)]
    assert len(found(tmp_path, unlike, elsewhere, before).unexplained) == 1


def test_a_second_run_must_say_so(tmp_path: Path) -> None:
    """One that looks like the first is not recognisable, and one that was charged is counted."""
    same = [*ZERO, start(4, 1), start(6, 1, pid=8), end(7, 1, pid=8)]
    assert len(found(tmp_path, same, KILLED).unmarked) == 1
    charged = [*ZERO, start(6, 1, attempt=2), end(7, 1, attempt=2)]
    assert found(tmp_path, charged).charged == {1}


def test_one_that_was_cut_off_may_begin_last(tmp_path: Path) -> None:
    """Continued, it runs what was given to another meanwhile, with the older count; not the same."""
    frozen = Fault(kind="worker frozen", since=3.0, until=5.0, pid=7)
    other = [start(4, 1, deliveries=2, pid=8), end(4.5, 1, deliveries=2, pid=8)]
    late = found(tmp_path, [*ZERO, *other, start(5.5, 1), end(6, 1)], frozen)
    assert dict(late.reasons) == {"worker frozen": 1}
    assert not late.unmarked
    twin = [start(4, 1, pid=8), end(4.5, 1, pid=8), start(5.5, 1), end(6, 1)]
    assert len(found(tmp_path, [*ZERO, *twin], frozen).unmarked) == 1


def test_a_job_that_was_sent_again_may_run_twice(tmp_path: Path) -> None:
    """Even at the same time in one process: it is the same job, and its sender says so."""
    sent = "trying 0.0 0 2\nagain 0.1 1\nconfirmed 0.2 0 2\n"
    both = [*ZERO, start(4, 1), start(4.1, 1), end(5, 1), end(5.1, 1)]
    twice = found(tmp_path, both, sent=sent)
    assert twice.more == {1}
    assert dict(twice.reasons) == {"sent again, its confirm was lost": 1}
    assert not twice.unmarked
    over_the_cut = [*ZERO, start(4.9, 1), end(4.95, 1), start(5.5, 1), end(5.6, 1)]
    twice = found(tmp_path, over_the_cut, CUT, sent=sent)
    assert (dict(twice.reasons), twice.unmarked) == ({"connections cut": 1}, [])
    assert found(tmp_path, over_the_cut, CUT).unmarked


def test_the_last_words_of_a_process_may_be_cut_off(tmp_path: Path) -> None:
    """Half a line is no note."""
    (tmp_path / "runs-9").write_text("start 1.0 0 job-0 1 1 9\nend 2.0 0 jo")
    (run,) = Books.of(tmp_path).runs[0]
    assert run.end is None


def test_a_seed_is_a_schedule() -> None:
    """The same seed, the same strikes; as many as were asked for, over the whole time."""
    counts = {"a": 10, "b": 3}
    one, again, other = (schedule(seed, counts, lasting_s=30.0) for seed in (1, 1, 2))
    assert one == again
    lasting = schedule(1, counts, lasting_s=30.0, longest_s=4.0)
    assert [s.at_s for s in lasting] == [s.at_s for s in one]
    assert all(2 <= s.for_s <= 4 for s in lasting)
    assert one != other
    assert [s.at_s for s in one] == sorted(s.at_s for s in one)
    assert {kind: sum(s.kind == kind for s in one) for kind in counts} == counts
    for place, strike in enumerate(s for s in one if s.kind == "a"):
        assert 3 * place <= strike.at_s <= 3 * place + 3
