"""How long work stood still after a fault, from notes."""

from __future__ import annotations

import math

from support.accounting import Books, Run
from support.recovery import recoveries, table


def run(number: int, pid: int, start: float) -> Run:
    """A run of a job."""
    return Run(number, f"job-{number}", 1, 1, pid, start, start)


def test_only_what_was_sent_after_the_fault_counts() -> None:
    """A job that a worker had in hand when the fault came does not show that it consumes again."""
    books = Books(tried_at={1: 9.0, 2: 11.0, 3: 12.0})
    for one in (run(1, 7, 10.5), run(2, 7, 14.0), run(3, 8, 15.5)):
        books.runs[one.number].append(one)
    (found,) = recoveries(books, [10.0], {7, 8})
    assert found.first_s == 4.0
    assert found.last_s == 5.5
    assert "median 4.00 s, worst 4.00 s" in table([found])


def test_a_worker_that_never_works_again_is_seen() -> None:
    """One that starts nothing before the next fault took for ever; children do not count for it."""
    books = Books(tried_at={1: 11.0, 2: 12.0, 3: 21.0})
    for one in (run(1, 7, 11.5), run(2, 99, 12.5), run(3, 8, 21.5)):
        books.runs[one.number].append(one)
    first, second = recoveries(books, [20.0, 10.0], [7, 8])
    assert first.each_s == {7: 1.5, 8: math.inf}
    assert second.each_s == {7: math.inf, 8: 1.5}
