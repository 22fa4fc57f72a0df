"""How SQLite carries out the hot statements: by index, never by looking at every row."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from taskyard.shared.adapters.sql import queries

#: Statements that run per batch, per look or per second; the value says what they may scan.
HOT = {
    "READY_ROWS": "ready",
    "NEXT_DUE": "",
    "READY_PROBE": "",
    "PROMOTE": "",
    "CLAIM": "",
    "HELD_ROWS": "",
    "JOBS_DELETE": "",
    "PAYLOADS_DELETE": "",
    "EXTEND": "",
    "UNTAKE": "",
    "PREAMBLE": "",
    "TOPOLOGY_VERSION": "",
    "PARKED_PAGE": "",
    "PARKED_FREE": "",
    "PARKED_FREE_IDS": "",
    "PARKED_HELD_ROWS": "",
    "CONTROL_CHUNK": "",
    "CONTROL_END": "",
    "FEED_FREE_ROWS": "t_feed_free",
    "FEED_ANY_FREE": "t_feed_free",
    "FEED_SIZE": "",
    "FEED_DELETE": "",
    "REPLY_ROWS": "",
    "REPLY_PROBE": "",
    "LOOK_QUEUES": "",
    "LOOK_INBOXES": "watched",
    "OWNER_QUEUES": "",
    "JOBS_REQUEUE": "",
}


@pytest.fixture
def db():
    connection = sqlite3.connect(":memory:")
    connection.executescript(queries.qualify(queries.SCHEMA, "t"))
    # Planners guess by numbers: many scheduled rows are the case that must not cost.
    rows = ((n, 1, n % 3 != 0, n % 10, n, n) for n in range(3000))
    connection.executemany(
        "INSERT INTO t_jobs (seq, queue, state, priority, place, due) VALUES (?,?,?,?,?,?)", rows
    )
    yield connection
    connection.close()


def plan_of(db: sqlite3.Connection, sql: str) -> list[str]:
    text = "EXPLAIN QUERY PLAN " + queries.qualify(sql, "t")
    names = ("queue", "limit", "now", "owner", "fence", "hold", "seq", "after")
    named: dict[str, object] = dict.fromkeys(names, 1)
    named |= {"seqs": "[1]", "ids": '["a"]', "address": "a", "reason": None}
    parameters: Any = named if ":" in sql else [1] * sql.count("?")
    return [row[3] for row in db.execute(text, parameters)]


@pytest.mark.parametrize("name", HOT)
def test_hot_statements_search(db, name: str) -> None:
    """No hot statement reads a whole table, and none sorts jobs."""
    scans = [
        step
        for step in plan_of(db, getattr(queries, name))
        if step.startswith("SCAN")
        and "VIRTUAL TABLE" not in step
        and "CONSTANT ROW" not in step
        and not (HOT[name] and HOT[name] in step)
        and "SUBQUERY" not in step.upper()
    ]
    assert scans == []


def test_claims_follow_the_index(db) -> None:
    """A claim reads the first rows of the index of ready jobs in their order, without a sort."""
    steps = plan_of(db, queries.READY_ROWS)
    assert any("t_jobs_ready" in step for step in steps)
    assert not any("TEMP B-TREE" in step for step in steps)


def test_the_due_are_found_at_the_front_of_their_index(db) -> None:
    """A million scheduled jobs cost a claim one seek."""
    for sql in (queries.NEXT_DUE, queries.PROMOTE, queries.READY_PROBE):
        assert any("t_jobs_scheduled" in step for step in plan_of(db, sql))


def test_leases_are_found_by_owner(db) -> None:
    """Requeueing reads only what the owner holds."""
    for sql in (queries.JOBS_REQUEUE, queries.OWNER_QUEUES):
        assert any("t_jobs_claimed" in step for step in plan_of(db, sql))


def test_numbers_come_from_covering_indexes(db) -> None:
    """Counting touches no row of a table."""
    named = {"id": 1, "name": "q", "now": 1}
    rows = db.execute("EXPLAIN QUERY PLAN " + queries.qualify(queries.STATS, "t"), named)
    steps = [row[3] for row in rows if "t_" in row[3]]
    assert all("INDEX" in step for step in steps), steps
