"""What nobody expects in a control log, a ledger or a broker stops nobody who carries changes out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from support.driven import QUEUE, Site, site
from support.eventually import eventually
from taskyard.ledger.acting import Actor
from taskyard.ledger.database import LedgerUnavailable
from taskyard.ledger.schema import jobs
from taskyard.ledger.writing import merge
from taskyard.shared.broker import FEED, QueueStats, SettleStatus
from taskyard.shared.changes import Asked, Change, change_record
from taskyard.shared.control import cancel_record
from taskyard.shared.errors import ConfigurationError, UnknownQueue
from taskyard.shared.feed import FINISHED, FeedRecord

__all__ = ["site"]


class Troubled:
    """A broker one of whose methods does something else, for a number of calls."""

    def __init__(self, broker: Any, method: str, *acts: Any) -> None:
        self._broker = broker
        self._method = method
        self._acts = list(acts)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._broker, name)
        if name != self._method or not self._acts:
            return found
        return self._acts.pop(0)


async def test_a_job_that_cannot_be_read_is_answered(site: Site) -> None:
    """Its envelope is of another version: a cancel and a change end in words, and others go on."""
    odd, other = (await site.send()).id, (await site.send()).id
    await site.ask(odd, None)
    await site.ask(odd, Change(priority=1))
    await site.ask(other, Change(priority=1))
    async with site.database.begin() as connection:
        await connection.execute(update(jobs).where(jobs.c.id == odd).values(envelope=b"\xff"))
    await site.drive()
    said = await site.answers()
    assert len(said) == 3
    assert "no worker that meets it will start it" in said
    assert any("cannot read" in text for text in said)
    assert "changed" in said


async def test_what_the_database_refuses_stops_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request that the database does not even look for is refused; the others are done."""
    ids = [(await site.send()).id for _ in range(5)]
    for job in ids:
        await site.ask(job, Change(priority=1))
    act = Actor.act

    async def refusing(actor: Actor, wanted: Any, started: Any) -> Any:
        if any(request.job == ids[2] for request in wanted):
            raise ValueError("no such character")
        return await act(actor, wanted, started)

    monkeypatch.setattr(Actor, "act", refusing)
    await site.drive()
    said = await site.answers()
    assert sorted(said) == ["changed"] * 4 + ["it cannot be done: no such character"]


async def test_a_queue_that_is_gone_is_no_end(site: Site) -> None:
    """A suspended job whose queue was deleted cannot be resumed or cancelled there; that is said."""
    job = (await site.send()).id
    await site.ask(job, Change(suspend=True))
    await site.drive()
    await site.ask(job, Change(suspend=False))
    await site.ask(job, None)

    def gone(*_: object) -> Any:
        raise UnknownQueue(f"there is no queue {QUEUE!r}")

    await site.drive(Troubled(site.broker, "take_parked", gone, gone), answers=3)
    said = await site.answers()
    assert "parking lot" in said[1]
    assert "not found" in said[2]


async def test_a_move_of_unknown_end_is_tried_again(site: Site) -> None:
    """ZP-20: the broker did not confirm in time: that is not to say that the job is not there."""
    job = (await site.send()).id
    await site.ask(job, Change(suspend=True))
    await site.drive()
    await site.ask(job, Change(suspend=False))

    async def undone(batch: Any, **_: object) -> list[SettleStatus]:
        return [SettleStatus.UNDONE for _ in batch]

    await site.drive(Troubled(site.broker, "settle", undone))
    assert await site.answers() == ["suspended", "resumed"]
    assert await site.forms(job) == ["queued"]


async def test_whoever_may_not_look_waits(site: Site) -> None:
    """The user's rights were taken: the changes wait until they are back."""
    job = (await site.send()).id
    await site.ask(job, Change(priority=1))

    async def refusing(*_: object) -> Any:
        raise ConfigurationError("access refused")

    await site.drive(Troubled(site.broker, "stats", refusing))
    assert await site.answers() == ["changed"]


async def test_without_a_feed_nothing_is_decided(site: Site) -> None:
    """The feed was deleted: what the ledger says may be old, so changes wait until it is back."""
    job = (await site.send()).id
    await site.ask(job, Change(priority=1))
    asked: list[str] = []

    async def without(*_: object) -> Any:
        asked.append("feed")
        assert await site.answers() == []
        return {FEED: QueueStats(exists=False)}

    await site.drive(Troubled(site.broker, "stats", without, without))
    assert asked == ["feed", "feed"]
    assert await site.answers() == ["changed"]


async def test_a_ledger_that_is_lost_after_the_parking(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspended job is in its lot once, though the ledger could not be told the first time."""
    job, first = (await site.send()).id, (await site.send()).id
    failures = [LedgerUnavailable("gone")]

    async def failing(connection: Any, batch: Any) -> None:
        if failures and batch.jobs[0].id == job:
            raise failures.pop()
        await merge(connection, batch)

    monkeypatch.setattr("taskyard.ledger.acting.merge", failing)
    driving = asyncio.create_task(site.drive(answers=2))
    await site.ask(first, Change(priority=1))
    await eventually(lambda: _answered(site, 1))  # from now on it inherits nothing
    await site.ask(job, Change(suspend=True))
    await driving
    assert not failures
    assert await site.answers() == ["changed", "suspended"]
    assert await site.forms(job) == ["aside"]


async def _answered(site: Site, number: int) -> bool:
    assert len(await site.answers()) >= number
    return True


async def test_what_is_still_in_the_hands_of_the_recorder_counts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZP-23: the database was away, and the recorder tries again later: what had run is not sent again."""
    job = await site.send()
    away = [True]

    async def failing(connection: Any, batch: Any) -> None:
        if away:
            raise LedgerUnavailable("gone")
        await merge(connection, batch)

    monkeypatch.setattr("taskyard.ledger.recorder.merge", failing)
    ended = FeedRecord.of(
        job, FINISHED, at_ms=site.broker.now_ms(), worker="w", outcome="succeeded"
    )
    await site.broker.record([ended], deadline_s=5)
    await eventually(lambda: bool(site.recorder.problem))
    await site.ask(job.id, Change(priority=1))
    driving = asyncio.create_task(site.drive())
    held = asyncio.create_task(site.recorder.wait_written())
    await asyncio.wait([driving, held], timeout=2, return_when=asyncio.FIRST_COMPLETED)
    assert await site.answers() == []
    away.clear()
    await asyncio.gather(driving, held)
    assert await site.answers() == ["it is over: succeeded"]


async def test_many_suspended_jobs_are_cancelled_with_one_look(site: Site) -> None:
    """Looking for one reads the whole lot: not once for each."""
    ids = [(await site.send()).id for _ in range(20)]
    for job in ids:
        await site.ask(job, Change(suspend=True))
    await site.drive()
    for job in ids:
        await site.ask(job, None)
    looks: list[object] = []
    take = site.broker.take_parked

    def counting(*args: Any) -> Any:
        looks.append(args)
        return take(*args)

    await site.drive(Troubled(site.broker, "take_parked", *[counting] * 20), answers=40)
    assert len(looks) == 1
    assert not site.broker.state.lanes[QUEUE].parked
    assert (await site.answers())[20:] == ["cancelled before attempt 1 started"] * 20


async def test_odd_records_of_anybody_stop_nobody(site: Site) -> None:
    """Numbers that no job can have make a record that counts for nothing."""
    job = (await site.send()).id
    wish = Asked(generation=2, token="t", change=Change(priority=1))
    record = change_record(job, wish, by="x", at_ms=site.broker.now_ms())
    body = record.body or {}
    odd = [
        {**body, "change": {"priority": 300}},
        {**body, "change": {"due_ms": 2**70}},
        {**body, "generation": 2**70},
        {**body, "generation": 0},
    ]
    records = [type(record)(key=record.key, op="change", at=record.at, body=each) for each in odd]
    nul = cancel_record("a\0b", by="x", at_ms=record.at, token="nul")
    await site.broker.append_control([*records, nul])
    await site.ask(job, Change(priority=2))
    await site.drive(answers=2)
    assert min(await site.answers()) == "changed"

    async def changed() -> bool:
        row = await site.row(job)
        return row is not None and row["priority"] == 2

    await eventually(changed)
