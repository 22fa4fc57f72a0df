"""The pages of the ledger's lists, their order and their totals, on each of its databases."""

from __future__ import annotations

from support.ledger import ledger_url
from support.mix import NOW_MS, minutes, one_of_the_mix, sent
from support.told import Told, ledger, write
from taskyard.ledger import reading
from taskyard.ledger.filters import SORTS, Filter, Span
from taskyard.shared.states import State

__all__ = ["ledger", "ledger_url"]


async def test_pages_of_what_has_finished(ledger):
    """ZP-17: 250 finished: page 3 of 100 has 50, total 250; the newest id first."""
    await write(ledger, [Told(sent(n)).end("succeeded") for n in range(250)])
    await write(ledger, [Told(sent(n)).start() for n in range(250, 260)])
    meant = Filter(states=(State.SUCCEEDED,), spans=(Span(moment="ended", after_ms=minutes(0)),))
    pages = [
        await reading.list_jobs(
            ledger, meant, now_ms=NOW_MS, sort="id", limit=100, offset=100 * number
        )
        for number in range(4)
    ]
    assert [len(page) for page in pages] == [100, 100, 50, 0]
    assert [row.id for page in pages for row in page] == [f"job-{n:03}" for n in range(249, -1, -1)]
    assert await reading.count(ledger, meant, now_ms=NOW_MS) == reading.Count(250, more=False)


async def test_totals_are_exact_up_to_their_cap(ledger):
    """ZS-62: the total ignores paging; issue 6, 5: beyond the cap there are "more"."""
    await write(ledger, [one_of_the_mix(n) for n in range(40)])
    assert len(await reading.list_jobs(ledger, Filter(), now_ms=NOW_MS, limit=5)) == 5
    counted = {
        cap: await reading.count(ledger, Filter(), now_ms=NOW_MS, cap=cap) for cap in (39, 40, 41)
    }
    assert counted == {
        39: reading.Count(39, more=True),
        40: reading.Count(40, more=False),
        41: reading.Count(40, more=False),
    }


def test_a_total_is_written_so_that_it_can_be_read():
    """Issue 6, 5: exact totals to 10 000, then "10 000+"."""
    assert str(reading.Count(9_999, more=False)) == "9 999"
    assert str(reading.Count(reading.EXACT, more=True)) == "10 000+"


async def test_every_order_is_whole_and_stable(ledger):
    """ZS-62: by each column, both ways; pages of seven make the same list as one page."""
    await write(ledger, [one_of_the_mix(n) for n in range(40)])
    for sort in SORTS:
        for descending in (False, True):
            whole, parts, sorted_at_once = [
                [
                    row
                    for offset in range(0, 40, size)
                    for row in await reading.list_jobs(
                        ledger,
                        Filter(),
                        now_ms=NOW_MS,
                        sort=sort,
                        descending=descending,
                        limit=size,
                        offset=offset,
                        few=few,
                    )
                ]
                for size, few in ((40, False), (7, False), (7, True))
            ]
            assert whole == parts == sorted_at_once
            keys = [(key_of(row, sort), row.id) for row in whole]
            assert keys == sorted(keys, reverse=descending), (sort, descending)
            assert len(whole) == 40


def key_of(row, sort):
    if sort == "state":  # what is scheduled is kept as queued
        return "queued" if row.state == "scheduled" else row.state
    value = getattr(row, sort if hasattr(row, sort) else f"{sort}_ms")
    return (value is not None, value)


async def test_the_newest_come_first(ledger):
    """ZP-17: without a word about the order."""
    await write(ledger, [one_of_the_mix(n) for n in (3, 1, 2)])
    rows = await reading.list_jobs(ledger, Filter(), now_ms=NOW_MS)
    assert [row.id for row in rows] == ["job-003", "job-002", "job-001"]


async def test_a_job_whose_envelope_was_not_seen_is_listed(ledger):
    """Facts come in any order: what is not known of it is None, and comes last."""
    told = one_of_the_mix(3)
    del told.items[0]
    await write(ledger, [told, one_of_the_mix(4)])
    rows = await reading.list_jobs(ledger, Filter(), now_ms=NOW_MS, arguments=True)
    assert [(row.id, row.created_ms is None) for row in rows] == [
        ("job-004", False),
        ("job-003", True),
    ]
    assert rows[1].arguments is None


async def test_names_that_occur(ledger):
    """ZP-27, ZP-28, ZS-65: applications, queues and the hosts of senders, each once."""
    assert await reading.hosts(ledger) == []
    assert (await reading.apps(ledger), await reading.queues(ledger)) == ([], [])
    await write(ledger, [one_of_the_mix(n) for n in range(40)])
    assert await reading.apps(ledger) == ["accounting", "web"]
    assert await reading.queues(ledger) == ["mail", "shop", "stock"]
    assert await reading.hosts(ledger) == ["web", "web-2", "web2"]
