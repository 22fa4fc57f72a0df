"""`taskyard jobs list|show|failures` and `taskyard stats`, as people and programs see them."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from support.ledger import ledger_url
from support.told import Told, error, write
from taskyard.ledger.database import Database
from taskyard.ledger.migrate import prepare
from taskyard.shared.cli import main
from taskyard.shared.clock import SystemClock
from taskyard.shared.envelope import Envelope

__all__ = ["ledger_url"]


@pytest.fixture
def run(ledger_url, monkeypatch, capsys):
    """Run a command; return what it printed, and on its standard error if it was to fail."""
    monkeypatch.setenv("TASKYARD_LEDGER_URL", ledger_url)

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        return captured.err if code else captured.out

    return run


@pytest.fixture
def tell(ledger_url):
    """Have the ledger know of jobs."""

    async def written(told) -> None:
        database = Database(ledger_url)
        await prepare(database)
        async with database.begin() as connection:
            await write(connection, told)
        await database.close()

    return lambda *told: asyncio.run(written(told))


def sent(job_id: str, minutes_ago: float = 30, **fields) -> Envelope:
    at_ms = SystemClock().now_ms() - round(minutes_ago * 60_000)
    made = Envelope(id=job_id, queue="shop", task="shop.pay", body=b'{"n":7}', enqueued_ms=at_ms)
    return msgspec.structs.replace(made, **fields)


def failed(name: str, minutes_ago: float = 30) -> Told:
    return Told(sent(name, minutes_ago)).end(
        "failed", detail="error", error=error("Broken", "first line\nsecond line")
    )


def test_a_list_for_people(run, tell):
    """ZS-62: a page, and how many there are whatever the page."""
    tell(*(Told(sent(f"job-{n}", n + 1)) for n in range(7)), failed("bad"))
    lines = run("jobs", "list", "--limit", "2", "--offset", "3").splitlines()
    assert lines[0].split() == [
        *("ID", "QUEUE", "TASK", "STATE", "REASON", "PRIORITY", "ATTEMPT", "CREATED", "ENDED"),
        "ERROR",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["job-3", "job-4", "4"]
    assert lines[-1] == "4 to 5 of 8"
    (_, bad, total) = run("jobs", "list", "--state", "failed", "--with-arguments").splitlines()
    assert "first line" in bad
    assert bad.endswith('{"n":7}')
    assert total == "1 to 1 of 1"
    assert run("jobs", "list", "--queue", "mail").splitlines()[-1] == "none of 0"


def test_a_list_for_programs(run, tell):
    """ZS-62, ZP-15: what is heavy only when it was asked for."""
    tell(failed("one"), Told(sent("two", not_before_ms=SystemClock().now_ms() + 60_000)))
    found = json.loads(run("jobs", "list", "--json", "--sort", "id"))
    assert (found["total"], found["more"]) == (2, False)
    assert [job["id"] for job in found["jobs"]] == ["one", "two"]
    assert found["jobs"][0]["fingerprint"] == "Broken at x:f"
    assert found["jobs"][0]["ended_at"].endswith("Z")
    assert found["jobs"][1]["state"] == "scheduled"
    assert "arguments" not in found["jobs"][0]
    found = json.loads(run("jobs", "list", "--json", "--with-arguments", "--active"))
    assert [job["arguments"] for job in found["jobs"]] == [{"n": 7}]


def test_every_option_reaches_its_filter(run, tell):
    """ZS-62: each leaves out the one job that it does not mean."""
    context = '{"tenant":"acme"}'
    more = {"name": "a, b", "submitted_from": "web:7"}
    envelope = sent("one", 30, app="web", context=context, parent="p", priority=7, **more)
    tell(
        Told(envelope).end("failed", detail="logical", error=error("Broken", "no")),
        Told(sent("two", 90, queue="mail", task="mail.send", body=b'{"n":8}')).end("succeeded"),
    )
    options = [
        *("--state=failed", "--queue=shop", "-qshop,stock", "--task=shop.*", "--app=web"),
        *("--tenant=acme", "--id=one", "--parent=p", "--priority=6-high", "--reason=logical"),
        *("--name=a, b", "--name=a*", "--from-host=web", "--from-host=web:7"),
        *("--fingerprint=Brok", "--arg=n=7", "--created-after=1h", "--changed-after=1h"),
        *("--due-after=1h", "--started-after=1h", "--ended-after=1h"),
    ]
    for option in options:
        if option == "--due-after=1h":  # what is over is due no more
            assert run("jobs", "list", "--count", option) == "0\n"
            continue
        rows = json.loads(run("jobs", "list", "--json", option))["jobs"]
        assert [row["id"] for row in rows] == ["one"], option
    others = [
        *("--not-ok", "--created-before=1h", "--changed-before=1h", "--started-before=1h"),
        "--ended-before=1h",
    ]
    for option in others:
        rows = json.loads(run("jobs", "list", "--json", option))["jobs"]
        assert [row["id"] for row in rows] == ["two"], option
    assert run("jobs", "list", "--count", "--kept") == "0\n"
    assert run("jobs", "list", "--count", "--ok") == "0\n"
    assert run("jobs", "list", "--count", "--not-kept") == "2\n"


def test_names_and_hosts_are_shown(run, tell):
    """ZS-07, ZP-27, ZP-28: in lists, of one job, and which there are."""
    tell(
        Told(sent("one", app="shop", name="nightly", submitted_from="web:7")),
        Told(sent("two", app="mail", submitted_from="php-3:1")),
        Told(sent("six")),
    )
    header, *lines = run("jobs", "list", "--sort", "id").splitlines()
    assert "NAME" in header.split()
    assert "nightly" in lines[0]
    assert "name:           nightly" in run("jobs", "show", "one")
    assert "submitted_from: web:7" in run("jobs", "show", "one")
    assert "name:" not in run("jobs", "show", "six")
    found = json.loads(run("jobs", "show", "one", "--json"))
    assert (found["name"], found["submitted_from"]) == ("nightly", "web:7")
    assert run("jobs", "hosts") == "php-3\nweb\n"
    assert json.loads(run("jobs", "apps", "--json")) == ["mail", "shop"]


def test_which_options_hold(run, tell, tmp_path, monkeypatch):
    """ZS-34: its own, its task's, its queue's or the defaults, by an application's declarations."""
    (tmp_path / "declared.py").write_text(
        "from taskyard.shared import Queue\n"
        "shop = Queue('shop', ttr=30)\n"
        "@shop.task\n"
        "def pay(n: int) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tell(Told(sent("one", ttr_ms=5_000)), Told(sent("two")))
    lines = run("jobs", "show", "one", "--effective", "declared").splitlines()
    assert [" ".join(line.split()) for line in lines if line.startswith("effective ttr")] == [
        "effective ttr: 5.0 (job)"
    ]
    found = json.loads(run("jobs", "show", "two", "--effective", "declared", "--json"))
    assert found["effective"]["ttr"] == {"value": 30.0, "by": "queue"}
    assert found["effective"]["retry"]["by"] == "default"
    assert "effective" not in json.loads(run("jobs", "show", "two", "--json"))


def test_how_many(run, tell):
    """ZP-16: `--count`, for people and for programs."""
    tell(*(Told(sent(f"job-{n}")) for n in range(7)))
    assert run("jobs", "list", "--count", "--limit", "2") == "7\n"
    assert json.loads(run("jobs", "list", "--count", "--json")) == {"total": 7, "more": False}


def test_what_waits_longest(run, tell):
    """LQ-15: a look at the next jobs of a queue, again and again; nothing moves."""
    tell(
        *(Told(sent(f"job-{n}", 10 - n)) for n in range(3)),
        Told(sent("later", 60, not_before_ms=SystemClock().now_ms() + 60_000)),
    )
    ready = ("jobs", "list", "--json", "--state", "queued", "-q", "shop", "--sort", "due", "-n1")
    for _ in range(3):
        assert [job["id"] for job in json.loads(run(*ready))["jobs"]] == ["job-0"]
    delayed = json.loads(run("jobs", "list", "--json", "--state", "scheduled", "-n1"))
    assert [job["id"] for job in delayed["jobs"]] == ["later"]


def test_peek(run, tell):
    """LQ-15: the job that runs next, by priority and then by time, as often as one looks; what
    becomes due next; what is parked for longest: three queues of their own.
    """
    soon_ms = SystemClock().now_ms() + 60_000
    tell(
        *(Told(sent(f"job-{n}", 10 - n)) for n in range(3)),
        Told(sent("high", 1, priority=9)),
        Told(sent("later", 60, not_before_ms=soon_ms + 5)),
        Told(sent("soon", 50, not_before_ms=soon_ms)),
        Told(sent("held", 20)).start().end("parked", detail="held"),
        Told(sent("held-since", 30)).start().end("parked", detail="held"),
    )

    def ids(*options: str) -> list[str]:
        return [job["id"] for job in json.loads(run("peek", "shop", "--json", *options))]

    for _ in range(3):
        assert ids() == ["high"]
        assert ids("--ready", "-n", "9") == ["high", "job-0", "job-1", "job-2"]
        assert ids("--delayed") == ["soon"]
        assert ids("--delayed", "-n", "9") == ["soon", "later"]
        assert ids("--held", "-n", "5") == ["held-since", "held"]
    assert run("peek", "shop").splitlines()[1].endswith('{"n":7}')
    assert "has no held job" in run("peek", "nosuch", "--held", code=1)


def test_one_job_for_people(run, tell):
    """ZS-61, LQ-14: where it stands, its counters, each run, and what went wrong last."""
    told = Told(sent("one")).start().end("retried", error=error("Broken", "once"))
    tell(told.publish().end("succeeded", value=msgspec.Raw(b'{"sum":5}')))
    text = run("jobs", "show", "one")
    assert 'arguments:      {"n":7}' in text
    assert 'value:          {"sum":5}' in text
    assert "reserves 2, timeouts 0, releases 1" in text
    assert "Traceback of Broken" in text
    assert [line.split()[2] for line in text.splitlines() if line[:2] in ("1 ", "2 ")] == [
        "retried",
        "succeeded",
    ]


def test_one_job_for_programs(run, tell):
    """ZS-61, LQ-14: every field is there."""
    now_ms = SystemClock().now_ms()
    tell(Told(sent("one", 30, not_before_ms=now_ms + 600_000, expires_ms=now_ms + 900_000)))
    found = json.loads(run("jobs", "show", "one", "--json"))
    assert 30 * 60_000 <= found["age_ms"] < 31 * 60_000
    assert 9 * 60_000 < found["delay_ms"] <= 10 * 60_000
    assert {"queue", "state", "priority", "ttr_ms", "expires_at", "app", "tenant", "worker"} <= (
        found.keys()
    )
    assert found["counters"].keys() >= {"reserves", "timeouts", "releases", "holds", "unholds"}
    assert (found["arguments"], found["runs"], found["value"]) == ({"n": 7}, [], None)


def test_an_unknown_job_is_told(run, tell):
    """Issue 6, 7: an unknown id is not "pending"."""
    tell(Told(sent("one")))
    for arguments in (("show", "two"), ("show", "two", "--json"), ("show", "two", "--value")):
        assert "knows no job 'two'" in run("jobs", *arguments, code=1)


def test_a_value_and_nothing_else(run, tell):
    """ZS-04: prints the value; or the error with its traceback; 124 while it is not over."""
    tell(
        Told(sent("sum")).end("succeeded", value=msgspec.Raw(b"5")),
        Told(sent("none")).end("succeeded"),
        failed("bad"),
        Told(sent("held")).end("parked", detail="held"),
        Told(sent("gone")).set_aside("cancelled"),
        Told(sent("runs")).start(),
    )
    assert run("jobs", "show", "sum", "--value") == "5\n"
    assert run("jobs", "show", "none", "--value") == "null\n"
    text = run("jobs", "show", "bad", "--value", code=1)
    assert "failed (error): Broken: first line" in text
    assert "Traceback of Broken" in text
    assert "parked (held)" in run("jobs", "show", "held", "--value", code=1)
    assert "cancelled" in run("jobs", "show", "gone", "--value", code=1)
    assert "the job goes on" in run("jobs", "show", "runs", "--value", code=124)


def test_failures(run, tell):
    """Issue 6, 5: grouped by fingerprint; of the last hour."""
    tell(failed("a", 10), failed("b", 20), failed("old", 120), Told(sent("c")).end("succeeded"))
    (_, line) = run("jobs", "failures", "--ended-after", "1h").splitlines()
    assert line.split()[0] == "2"
    assert line.endswith("a        first line")
    (group,) = json.loads(run("jobs", "failures", "--json"))
    assert (group["count"], group["examples"]) == (3, ["a", "b", "old"])


def test_statistics(run, tell):
    """ZS-66, ZP-26: exactly those numbers, since an hour."""
    tell(
        *(Told(sent(f"ok-{n}", 10)).end("succeeded") for n in range(7)),
        *(failed(f"bad-{n}", 10) for n in range(2)),
        Told(sent("logical", 10)).end("failed", detail="logical"),
        Told(sent("old", 120, queue="mail", task="mail.send")).end("succeeded"),
    )
    found = json.loads(run("stats", "--since", "1h", "--json"))
    assert found["changed_in_window"] == {"succeeded": 7, "failed": 2, "logically_failed": 1}
    assert (found["total_complete_jobs"], found["total_incomplete_jobs"]) == (11, 0)
    assert (found["added_in_window"], found["started_in_window"]) == (10, 10)
    assert found["completed_in_window"] == 10
    assert (found["average_in_queue_ms"], found["average_wait_ms"]) == (100, 100)
    assert found["average_run_ms"] == 50
    assert found["queues"].keys() == {"mail", "shop"}
    text = run("stats", "--since", "1h", "-q", "shop")
    assert "mail" not in text
    assert text.splitlines()[1].split() == [
        *("QUEUE", "SUCCEEDED", "FAILED", "LOGICALLY_FAILED", "TOTAL")
    ]
    assert text.splitlines()[2].split() == ["shop", "7", "2", "1", "10"]
    assert "since ever" in run("stats")


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_what_is_wrong_is_named(run, tell, monkeypatch):
    """With exit 2: an option, the setting, a database without a ledger."""
    assert "coordinator" in run("jobs", "list", code=2)
    tell(Told(sent("one")))
    assert "'gone'" in run("jobs", "list", "--state", "gone", code=2)
    assert "'size'" in run("jobs", "list", "--sort", "size", code=2)
    assert "--active" in run("jobs", "list", "--active", "--state", "failed", code=2)
    assert "'long ago'" in run("stats", "--since", "long ago", code=2)
    monkeypatch.delenv("TASKYARD_LEDGER_URL")
    for command in (("jobs", "list"), ("jobs", "show", "one"), ("jobs", "failures"), ("stats",)):
        assert "TASKYARD_LEDGER_URL is not set" in run(*command, code=2)


@pytest.mark.parametrize("odd_ms", [2**60, -(2**60)])
def test_an_instant_that_no_date_names_hides_nothing(run, tell, odd_ms):
    """One message with an odd time must not keep a list from being shown."""
    tell(Told(sent("odd", expires_ms=odd_ms)), Told(sent("good")))
    found = json.loads(run("jobs", "list", "--json", "--sort", "id"))
    assert [job["id"] for job in found["jobs"]] == ["good", "odd"]
    assert found["jobs"][1]["expires_at"][:4] in {"9999", "0001"}
    assert "odd" in run("jobs", "show", "odd")
