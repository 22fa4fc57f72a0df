"""What the ledger answers when it is asked for jobs, on each of its databases."""

from __future__ import annotations

from sqlalchemy import update

from support.ledger import ledger_url
from support.mix import APPS, HOUR_MS, NOW_MS, minutes, one_of_the_mix, sent
from support.told import Told, ledger, write
from taskyard.ledger import reading
from taskyard.ledger.conditions import conditions
from taskyard.ledger.filters import Filter, Span, parse_argument
from taskyard.ledger.schema import jobs
from taskyard.shared.states import State

__all__ = ["ledger", "ledger_url"]

# ---------------------------------------------------------------- a mix of forty jobs


def ends(*digits: int):
    return lambda n: n % 10 in digits


CASES = {
    "all": (Filter(), lambda n: True),
    "queued": (Filter(states=(State.QUEUED,)), ends(0)),
    "scheduled": (Filter(states=(State.SCHEDULED,)), ends(1)),
    "queued or scheduled": (Filter(states=(State.QUEUED, State.SCHEDULED)), ends(0, 1)),
    "scheduled or failed": (Filter(states=(State.SCHEDULED, State.FAILED)), ends(1, 5, 6)),
    "running": (Filter(states=(State.RUNNING,)), ends(2)),
    "failed or parked": (Filter(states=(State.FAILED, State.PARKED)), ends(5, 6, 7, 8)),
    "waiting": (Filter(states=(State.WAITING,)), ends()),
    "ok": (Filter(ok=True), ends(3)),
    "completed": (Filter(ok=False), ends(4)),
    "reasons": (Filter(details=("logical", "held")), ends(6, 8)),
    "queue": (Filter(queues=("mail",)), lambda n: n % 3 == 0),
    "queues": (Filter(queues=("mail", "stock")), lambda n: n % 3 != 1),
    "task": (Filter(tasks=("shop.send",)), lambda n: n % 9 == 1),
    "tasks by pattern": (Filter(tasks=("mail.*",)), lambda n: n % 3 == 0),
    "one letter": (Filter(tasks=("*.send?all",)), lambda n: n // 3 % 3 == 1),
    "capitals": (Filter(tasks=("*.Send",)), lambda n: n // 3 % 3 == 2),
    "pattern or name": (
        Filter(tasks=("mail.send*", "shop.Send")),
        lambda n: n % 9 in (0, 3, 7),
    ),
    "a line is no joker": (Filter(tasks=("mail.send_*",)), lambda n: n % 9 == 3),
    "app": (Filter(apps=("accounting",)), lambda n: n // 2 % 3 == 0),
    "tenants": (Filter(tenants=("t2", "t3")), lambda n: n % 7 in (2, 3)),
    "ids": (Filter(ids=("job-007", "job-039", "job-040")), lambda n: n in (7, 39)),
    "parent": (Filter(parents=("job-000",)), lambda n: n % 13 == 1),
    "name": (Filter(names=("run 3*",)), lambda n: n % 4 == 3),
    "names": (Filter(names=("run 1*", "no")), lambda n: n % 4 == 1),
    "names by pattern": (Filter(names=("run*",)), lambda n: n % 2 == 1),
    "host": (Filter(hosts=("web",)), lambda n: n % 5 in (0, 1)),
    "process": (Filter(hosts=("web:12",)), lambda n: n % 5 == 1),
    "hosts": (Filter(hosts=("web-2", "web2")), lambda n: n % 5 in (2, 3)),
    "fingerprint": (Filter(fingerprints=("shop.Broken ",)), ends(5)),
    "fingerprints": (Filter(fingerprints=("shop.B",)), ends(5, 7)),
    "no joker there either": (Filter(fingerprints=("shop_B", "%", "*", "shop.b")), ends()),
    "priority": (Filter(priorities=((7, 7),)), lambda n: n // 4 == 7),
    "priorities": (Filter(priorities=((1, 2), (9, 9))), lambda n: n // 4 in (1, 2, 9)),
    "created": (
        Filter(spans=(Span(moment="created", after_ms=minutes(5), before_ms=minutes(8)),)),
        lambda n: 5 <= n < 8,
    ),
    "due later than": (
        Filter(spans=(Span(moment="due", after_ms=NOW_MS + HOUR_MS + 20),)),
        lambda n: n in (21, 31),
    ),
    "started": (
        Filter(spans=(Span(moment="started", after_ms=minutes(30)),)),
        lambda n: n >= 30 and 2 <= n % 10 <= 7,
    ),
    "ended": (
        Filter(spans=(Span(moment="ended", before_ms=minutes(10)),)),
        lambda n: 3 <= n < 10,
    ),
    "changed": (
        Filter(spans=(Span(moment="changed", after_ms=minutes(7) + 150),)),
        lambda n: n >= 7,
    ),
    "two spans": (
        Filter(
            spans=(
                Span(moment="created", after_ms=minutes(10)),
                Span(moment="ended", before_ms=minutes(20)),
            )
        ),
        lambda n: 13 <= n < 20,
    ),
    "number": (Filter(arguments=(parse_argument("order=3"),)), lambda n: n % 5 == 3),
    "text of digits": (Filter(arguments=(parse_argument("zip=3"),)), lambda n: n % 5 == 3),
    "only a text": (Filter(arguments=(parse_argument('order="3"'),)), ends()),
    "truth": (Filter(arguments=(parse_argument("paid=true"),)), lambda n: n % 3 == 0),
    "truth is no number": (Filter(arguments=(parse_argument("paid=1"),)), ends()),
    "number is no truth": (Filter(arguments=(parse_argument("order=false"),)), ends()),
    "fraction": (Filter(arguments=(parse_argument("ratio=1.5"),)), lambda n: n == 12),
    "whole fraction": (Filter(arguments=(parse_argument("ratio=2"),)), lambda n: n == 16),
    "odd name": (Filter(arguments=(parse_argument('odd "name".%=x'),)), lambda n: n % 4 == 0),
    "arguments": (
        Filter(arguments=(parse_argument("order=3"), parse_argument("who=p1"))),
        lambda n: n % 5 == 3 and n % 6 == 1,
    ),
    "kept": (Filter(kept=True), lambda n: n == 11),
    "not kept": (Filter(kept=False, states=(State.SCHEDULED,)), lambda n: n in (1, 21, 31)),
    "together": (
        Filter(states=(State.FAILED,), queues=("mail", "shop"), apps=("web",)),
        lambda n: n % 10 in (5, 6) and n % 3 < 2 and n // 2 % 3 == 1,
    ),
}


async def test_each_filter_returns_the_exact_set(ledger):
    """ZS-07, ZS-62, ZS-65, ZP-27, ZP-15, ZP-16, issue 6, 5: of a known mix of 40 jobs."""
    await write(ledger, [one_of_the_mix(n) for n in range(40)])
    await ledger.execute(update(jobs).where(jobs.c.id == "job-011").values(kept=True))
    found, counted, expected = {}, {}, {}
    for name, (meant, is_meant) in CASES.items():
        rows = await reading.list_jobs(ledger, meant, now_ms=NOW_MS, sort="id", descending=False)
        found[name] = [row.id for row in rows]
        counted[name] = (await reading.count(ledger, meant, now_ms=NOW_MS)).number
        expected[name] = [f"job-{n:03}" for n in range(40) if is_meant(n)]
    assert found == expected
    assert counted == {name: len(ids) for name, ids in expected.items()}


def test_a_filter_that_is_ignored_would_be_seen():
    """Each case but one leaves jobs out."""
    for name, (meant, is_meant) in CASES.items():
        number = sum(map(is_meant, range(40)))
        assert number < 40 or not conditions(meant, now_ms=NOW_MS, postgresql=True), name


async def test_failed_urgent_jobs_of_accounting(ledger):
    """ZP-32: "status failed, high priority, originated in accounting": the right 2 of 30."""
    told = []
    for n in range(30):
        one = Told(sent(n, priority=7 if n % 3 == 0 else 4, app=APPS[n % 2]))
        told.append(one.end("failed" if n in (0, 6, 9, 11) else "succeeded", detail="error"))
    await write(ledger, told)
    meant = Filter(states=(State.FAILED,), priorities=((7, 7),), apps=("accounting",))
    rows = await reading.list_jobs(ledger, meant, now_ms=NOW_MS)
    assert [row.id for row in rows] == ["job-006", "job-000"]


async def test_a_row_says_where_its_job_stands(ledger):
    """ZS-61, ZP-35: all of it but what is heavy, which is read when it is asked for."""
    await write(ledger, [one_of_the_mix(n) for n in range(12)])
    (row,) = await reading.list_jobs(ledger, Filter(ids=("job-005",)), now_ms=NOW_MS)
    assert row == reading.JobRow(
        id="job-005",
        queue="stock",
        task="stock.send_all",
        state="failed",
        detail="error",
        ok=None,
        priority=1,
        app=None,
        tenant="t5",
        parent=None,
        name="run 1*",
        submitted_from="web:7",
        kept=False,
        attempt=1,
        deliveries=1,
        generation=1,
        created_ms=minutes(5),
        changed_ms=minutes(5) + 150,
        due_ms=None,
        started_ms=minutes(5) + 100,
        ended_ms=minutes(5) + 150,
        expires_ms=None,
        ttr_ms=None,
        worker="host:1",
        error_type="shop.Broken",
        error_message="no 5",
        fingerprint="shop.Broken at x:f",
    )
    asked = Filter(ids=("job-011",))
    (row,) = await reading.list_jobs(ledger, asked, now_ms=NOW_MS, arguments=True)
    assert row.arguments == {"order": 1, "zip": "1", "who": "p5", "paid": False}
    assert (row.state, row.due_ms) == ("scheduled", NOW_MS + HOUR_MS + 11)
