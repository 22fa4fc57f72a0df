"""Who carries changes out may die at any step: the next one finds what was done, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from support.driven import QUEUE, Site, site
from support.eventually import eventually
from taskyard.broker_setup.intents import read_intents
from taskyard.ledger.driving import Driver
from taskyard.ledger.schema import jobs
from taskyard.shared.adapters.memory import MemoryBroker
from taskyard.shared.broker import ControlBatch
from taskyard.shared.changes import KEPT_MS, Change, Standing
from taskyard.shared.envelope import Envelope

__all__ = ["site"]


class Died(Exception):
    """What a step raises that is the last of its process."""


class Mortal:
    """A broker whose user dies at a method: before it has done anything, or when all is done."""

    def __init__(self, broker: MemoryBroker, method: str, *, after: bool) -> None:
        self._broker = broker
        self._method = method
        self._after = after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._broker, name)
        if name != self._method:
            return found

        async def dying(*args: Any, **options: Any) -> None:
            if self._after:
                await found(*args, **options)
            raise Died

        return dying


#: What each kind of change does at the broker, before the control log is told.
USED = {"change": "publish", "suspend": "park", "resume": "settle", "change suspended": "settle"}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, method) for kind, used in USED.items() for method in (used, "append_control")],
)
async def test_it_dies_at_a_step(site: Site, kind: str, method: str, after: bool) -> None:
    """Issue 6: a change is carried out once, whoever dies when: one form of the job counts."""
    job = (await site.send(not_before_ms=site.broker.now_ms() + 3_600_000)).id
    if kind in {"resume", "change suspended"}:
        await site.ask(job, Change(suspend=True))
        await site.drive()
    change = {
        "change": Change(priority=9),
        "suspend": Change(suspend=True),
        "resume": Change(suspend=False),
        "change suspended": Change(priority=9),
    }[kind]
    await site.ask(job, change)
    with pytest.raises(ExceptionGroup) as raised:
        await site.drive(Mortal(site.broker, method, after=after))
    assert raised.group_contains(Died)
    await site.drive()
    aside = kind in {"suspend", "change suspended"}
    assert await site.forms(job) == ["aside" if aside else "queued"]
    row = await site.row(job)
    assert row is not None
    assert row["state"] == ("suspended" if aside else "queued")
    assert row["priority"] == (9 if change.priority else 4)
    expected = {
        "suspend": "suspended",
        "resume": "resumed",
        "change suspended": "changed; it stays suspended",
    }
    # Of one that was found done it is only known that it was.
    assert (await site.answers())[-1] in {expected.get(kind, "changed"), "changed"}


async def test_two_changes_at_once_are_carried_out_in_order(site: Site) -> None:
    """The last one stands; what the first one published never counts."""
    job = (await site.send()).id
    await site.ask(job, Change(priority=1))
    await site.ask(job, Change(priority=2))
    await site.drive()
    await eventually(lambda: _has(site, job, priority=2))
    assert await site.forms(job) == ["queued"]
    assert await site.answers() == ["changed", "changed"]


async def test_what_a_refused_change_leaves_old_stays_old(site: Site) -> None:
    """A second change that comes too late does not make the first one's old message count again."""
    job = (await site.send()).id
    await site.ask(job, Change(priority=1))
    await site.drive()
    await eventually(lambda: _has(site, job, priority=1))
    asking = await site.ask(job, Change(suspend=True))
    await site.ask(job, None)  # cancelled in between: then there is nothing to suspend
    async with site.database.begin() as connection:
        await connection.execute(jobs.update().values(state="succeeded", rank=2**62))
    await site.drive()
    assert list(asking.jobs.values()) == [job]
    assert "it is over: succeeded" in await site.answers()
    intents = await read_intents(site.broker)
    old = Envelope(id=job, queue=QUEUE, task="q.t", generation=1)
    assert intents.standing_of(old) is Standing.SUPERSEDED
    new = Envelope(id=job, queue=QUEUE, task="q.t", generation=2)
    assert intents.standing_of(new) is Standing.CURRENT


async def test_the_first_message_may_be_the_last_to_come(site: Site) -> None:
    """ZP-23: due in a year, then tomorrow, then at once, then refused: what is due in a year is old."""
    day_ms = 86_400_000
    now_ms = site.broker.now_ms()
    job = (await site.send(not_before_ms=now_ms + 365 * day_ms)).id
    for due_ms in (now_ms + day_ms, now_ms + 2 * day_ms):
        await site.ask(job, Change(due_ms=due_ms))
        await site.drive()
        await eventually(partial(_has, site, job, due_ms=due_ms))
    assert await _kept_ms(site, job) >= now_ms + 365 * day_ms + KEPT_MS
    await site.ask(job, Change(suspend=True))
    async with site.database.begin() as connection:
        await connection.execute(jobs.update().values(state="succeeded", rank=2**62))
    await site.drive()
    assert "it is over: succeeded" in await site.answers()
    assert await _kept_ms(site, job) >= now_ms + 365 * day_ms + KEPT_MS


async def test_a_cancel_is_known_until_the_job_is_due(site: Site) -> None:
    """ZS-35: due in a year, it is cancelled: it does not start then; one due tomorrow needs no more."""
    day_ms = 86_400_000
    now_ms = site.broker.now_ms()
    far = (await site.send(not_before_ms=now_ms + 365 * day_ms)).id
    near = (await site.send(not_before_ms=now_ms + day_ms)).id
    await site.ask(far, None)
    await site.ask(near, None)
    await site.drive(answers=2)
    intents = await read_intents(site.broker)
    cancel = intents.cancel_of(far)
    assert cancel is not None
    assert cancel.expires == now_ms + 365 * day_ms + KEPT_MS
    assert (cancel.op, cancel.by) == ("cancel", "me")
    written = [
        record
        async for batch in _log(site)
        for record in batch.records
        if record.key == f"job:{near}:cancel"
    ]
    assert len(written) == 1


async def _log(site: Site) -> AsyncIterator[ControlBatch]:
    async for batch in site.broker.follow_control():
        yield batch
        if batch.caught_up:
            return


async def _kept_ms(site: Site, job: str) -> int:
    """Return until when it is known which messages of a job are old."""
    live = (await read_intents(site.broker)).live(site.broker.now_ms())
    (record,) = [each for each in live if each.key == f"job:{job}:change"]
    assert record.op == "changed"
    return record.expires or 0


async def test_a_suspended_job_is_cancelled(site: Site) -> None:
    """It leaves its parking lot, and is over."""
    job = (await site.send()).id
    await site.ask(job, Change(suspend=True))
    await site.drive()
    await site.ask(job, None)
    driving_on = asyncio.create_task(Driver(site.broker, site.database).run())
    await eventually(lambda: _has(site, job, state="cancelled"))
    driving_on.cancel()
    with suppress(asyncio.CancelledError):
        await driving_on
    assert await site.forms(job) == []
    assert not site.broker.state.lanes[QUEUE].parked


async def _has(site: Site, job: str, **expected: object) -> bool:
    row = await site.row(job)
    assert row is not None
    assert {name: row[name] for name in expected} == expected
    return True
