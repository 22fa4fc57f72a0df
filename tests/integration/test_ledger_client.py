"""Programs ask the ledger: status, result, lists and deletion, of any job, from anywhere."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from support.ledger import ledger_url
from taskyard.ledger import AsyncLedger, Ledger, NotDone, client
from taskyard.ledger.database import Database
from taskyard.ledger.history import fold
from taskyard.ledger.migrate import prepare
from taskyard.ledger.writing import merge
from taskyard.shared import JobCancelled, JobFailed, JobParked, NotFound, Queue, ResultTimeout
from taskyard.shared.envelope import Envelope
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.feed import (
    FINISHED,
    PROGRESSED,
    STARTED,
    FeedItem,
    FeedRecord,
    Progress as Told,
)
from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.states import State

__all__ = ["ledger_url"]

BORN_MS = 1_700_000_000_000
ERROR = ErrorInfo(type="app.CardDeclined", message="no", traceback="Traceback …", fingerprint="f1")

shop = Queue("shop")


@shop.task
async def days(order_id: int) -> list[timedelta]:
    return [timedelta(order_id)]


def job(job_id: str, **fields: Any) -> Envelope:
    return Envelope(
        id=job_id, queue="shop", task="shop.days", enqueued_ms=BORN_MS, message_id=job_id, **fields
    )


def record(envelope: Envelope, event: str, after_ms: int, **fields: Any) -> FeedItem:
    found = FeedRecord.of(envelope, event, at_ms=BORN_MS + after_ms, worker="host:1", **fields)
    return FeedItem(records=(found,))


def ended(envelope: Envelope, outcome: str, **fields: Any) -> list[FeedItem]:
    return [
        FeedItem(envelope=envelope),
        record(envelope, FINISHED, 50, outcome=outcome, run_ms=20, wait_ms=10, **fields),
    ]


@pytest.fixture
async def tell(ledger_url):
    """Write feed items into the ledger, as a coordinator does."""
    database = Database(ledger_url)
    await prepare(database)

    async def write(*items: FeedItem) -> None:
        async with database.begin() as connection:
            await merge(connection, fold(items))

    yield write
    await database.close()


@pytest.fixture
def ledger(tell, ledger_url):
    del tell
    with Ledger(ledger_url) as found:
        yield found


async def asked(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call something that waits, from a thread of its own as programs without a loop do."""
    return await asyncio.to_thread(call, *args, **kwargs)


async def test_a_status_from_sending_to_the_end(tell, ledger):
    """ZS-60, GM-08: queued, running with numerator and denominator, succeeded; every time and who."""
    envelope = job("a", priority=7, parent="p")
    await tell(FeedItem(envelope=envelope))
    status = await asked(ledger.status, "a")
    assert (status.state, status.is_running, status.is_over) == (State.QUEUED, False, False)
    assert (status.queue, status.task, status.priority, status.parent) == (
        "shop", "shop.days", 7, "p",
    )  # fmt: skip
    assert (status.created_ms, status.due_ms, status.started_ms) == (BORN_MS, BORN_MS, None)
    assert (status.progress, status.numerator, status.denominator) == (None, None, None)
    await tell(
        record(envelope, STARTED, 10),
        record(envelope, PROGRESSED, 20, run_ms=10, progress=Told(done=30, of=100, note="pages")),
    )
    status = await asked(ledger.status, "a")
    assert (status.state, status.is_running) == (State.RUNNING, True)
    assert (status.numerator, status.denominator, status.progress.note) == (30, 100, "pages")
    assert (status.started_ms, status.worker, status.attempt) == (BORN_MS + 10, "host:1", 1)
    await tell(record(envelope, FINISHED, 50, outcome="succeeded", ok="fine", run_ms=40))
    status = await asked(ledger.status, "a")
    assert (status.state, status.is_over, status.logical) == (State.SUCCEEDED, True, "ok")
    assert (status.said, status.ended_ms, status.error) == ("fine", BORN_MS + 50, None)
    with pytest.raises(AttributeError):
        status.state = State.FAILED


async def test_a_status_of_what_failed(tell, ledger):
    """ZS-60: kind, error with its traceback, and that its own logic said so."""
    await tell(*ended(job("a"), "failed", detail="logical", error=ERROR))
    status = await asked(ledger.status, "a")
    assert (status.state, status.detail, status.logical) == (State.FAILED, "logical", "failed")
    assert status.error == ERROR


async def test_a_job_that_is_due_later_is_scheduled(tell, ledger):
    """ZS-60: with the instant at which it is due."""
    due_ms = round(datetime.now(UTC).timestamp() * 1000) + 3_600_000
    await tell(FeedItem(envelope=job("a", not_before_ms=due_ms)))
    status = await asked(ledger.status, "a")
    assert (status.state, status.due_ms) == (State.SCHEDULED, due_ms)


async def test_results(tell, ledger):
    """ZS-04: the value, plain or as the handler's annotation says; or how it ended, with the
    worker's traceback.
    """
    await tell(*ended(job("ok"), "succeeded", value=msgspec.Raw(b'["P3D"]')))
    assert await asked(ledger.result, "ok") == ["P3D"]
    assert await asked(ledger.result, "ok", task=days, timeout=5) == [timedelta(3)]
    await tell(
        *ended(job("none"), "succeeded"),
        *ended(job("failed"), "failed", detail="exhausted", error=ERROR),
        *ended(job("parked"), "parked", detail="held"),
        *ended(job("cancelled"), "cancelled"),
    )
    assert await asked(ledger.result, "none") is None
    with pytest.raises(JobFailed, match="CardDeclined: no") as failed:
        await asked(ledger.result, "failed", timeout="5s")
    assert (failed.value.job_id, failed.value.kind) == ("failed", "exhausted")
    assert failed.value.traceback == "Traceback …"
    with pytest.raises(JobParked, match="held"):
        await asked(ledger.result, "parked", timeout=0)
    with pytest.raises(JobCancelled):
        await asked(ledger.result, "cancelled")


async def test_a_result_that_is_waited_for(tell, ledger):
    """ZS-04: not over in time is said so, and the job goes on; then its end wakes who waits."""
    envelope = job("a")
    await tell(FeedItem(envelope=envelope))
    with pytest.raises(ResultTimeout, match="within 0.2 s"):
        await asked(ledger.result, "a", timeout=0.2)
    waiting = asyncio.create_task(asked(ledger.result, "a", timeout=20))
    await tell(record(envelope, STARTED, 1))
    assert not waiting.done()
    await tell(
        record(envelope, FINISHED, 5, outcome="succeeded", value=msgspec.Raw(b"5"), run_ms=1)
    )
    assert await waiting == 5


async def test_an_unknown_id_is_not_pending(ledger, monkeypatch):
    """ZS-04, ZS-60: it is an error of its own, at once or after the time that a job takes to come."""
    with pytest.raises(NotFound, match="knows no job 'nosuch'"):
        await asked(ledger.status, "nosuch")
    with pytest.raises(NotFound, match="nosuch"):
        await asked(ledger.result, "nosuch", timeout=0)
    monkeypatch.setattr("taskyard.ledger.waiting.ARRIVAL_S", 0.2)
    with pytest.raises(NotFound, match="nosuch"):
        await asked(ledger.result, "nosuch")


async def test_a_job_that_arrives_meanwhile(tell, ledger):
    """ZS-04: a job that was just sent, and is not in the ledger yet, is waited for."""
    waiting = asyncio.create_task(asked(ledger.result, "a", timeout=20))
    await asyncio.sleep(0)  # it begins to wait; either order will do
    await tell(*ended(job("a"), "succeeded", value=msgspec.Raw(b"1")))
    assert await waiting == 1


async def test_the_clean_up_script(tell, ledger, capsys, monkeypatch):
    """ZP-14: what failed by its own logic is found by query and removed, while it is gone through."""
    monkeypatch.setattr(client, "PAGE", 2)
    monkeypatch.setattr("taskyard.ledger.facade.PAGE", 2)
    for n in range(5):
        await tell(*ended(job(f"bad{n}"), "failed", detail="logical"))
    await tell(*ended(job("worse"), "failed", detail="exhausted"), *ended(job("fine"), "succeeded"))

    def script() -> None:
        for found in ledger.jobs(state="failed", reason="logical"):
            print("removing job", found.id)
            ledger.delete(found.id)

    await asked(script)
    assert capsys.readouterr().out.splitlines() == [f"removing job bad{n}" for n in range(5)]
    assert [found.id for found in await asked(lambda: list(ledger.jobs()))] == ["fine", "worse"]


async def test_which_jobs_are_meant(tell, ledger):
    """ZP-15, ZP-16, ZP-17: by name, state, argument, priority and time; counted and gone through."""
    await tell(
        FeedItem(envelope=job("a", priority=9, body=b'{"customer": 7, "zip": "01"}')),
        FeedItem(
            envelope=job("b", name="order 7", submitted_from="web-1:9", body=b'{"customer": "7"}')
        ),
        *ended(job("c"), "succeeded"),
    )

    def ids(**conditions: Any) -> list[str]:
        found = [each.id for each in ledger.jobs(**conditions)]
        assert ledger.count(**conditions).number == len(found)
        return found

    def look() -> None:
        assert ids() == ["a", "b", "c"]
        assert ids(active=True) == ["a", "b"]
        assert ids(state=["succeeded", "failed"]) == ["c"]
        assert ids(state=State.QUEUED, priority="high-urgent") == ["a"]
        assert ids(priority=9, queue="shop", task="shop.*") == ["a"]
        assert ids(arg={"customer": 7}) == ["a", "b"]
        assert ids(arg={"customer": "7"}) == ["b"]
        assert ids(arg={"zip": "01"}) == ["a"]
        born = datetime.fromtimestamp(BORN_MS / 1000, UTC)
        assert ids(ended_after=born, ended_before="1h") == ["c"]
        assert ids(created_before=born) == []
        assert ids(id=["c", "a"]) == ["a", "c"]
        assert ids(ok=False, kept=False) == ["c"]
        assert ids(name="order *") == ids(from_host="web-1") == ["b"]
        (found,) = ledger.jobs(id="a", arguments=True)
        assert found.arguments == {"customer": 7, "zip": "01"}

    await asked(look)
    for wrong in ({"state": "sleeping"}, {"nosuch": 1}, {"active": True, "state": "failed"}):
        with pytest.raises(ConfigurationError):
            await asked(ledger.count, **wrong)


async def test_what_is_not_deleted(tell, ledger):
    """ZP-14: jobs that are not over are left and named, the others deleted; none known is NotFound."""
    await tell(FeedItem(envelope=job("waits")), *ended(job("over"), "succeeded"))
    with pytest.raises(NotDone, match="waits was not deleted") as refused:
        await asked(ledger.delete, "waits", "over")
    assert refused.value.why.keys() == {"waits"}
    assert [found.id for found in await asked(lambda: list(ledger.jobs()))] == ["waits"]
    with pytest.raises(NotFound, match="nosuch"):
        await asked(ledger.delete, "nosuch")
    await asked(ledger.delete)


async def test_with_an_event_loop(tell, ledger_url):
    """ZS-04, ZS-60: the same, awaited."""
    await tell(*ended(job("a"), "succeeded", value=msgspec.Raw(b"1")), FeedItem(envelope=job("b")))
    async with AsyncLedger(ledger_url) as ledger:
        assert (await ledger.status("a")).state is State.SUCCEEDED
        assert await ledger.result("a", timeout=5) == 1
        assert [found.id async for found in ledger.jobs(active=True)] == ["b"]
        assert (await ledger.count(queue="shop")).number == 2
        await ledger.delete("a")
        with pytest.raises(NotFound):
            await ledger.status("a")


async def test_many_threads_and_the_end(tell, ledger, ledger_url):
    """One ledger serves many threads at once; closed, it says so; and it is no thread's loop."""
    await tell(*ended(job("a"), "succeeded", value=msgspec.Raw(b"1")))
    found: list[Any] = []

    def ask() -> None:
        found.extend(ledger.result("a", timeout=20) for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert found == [1] * 40
    closed = Ledger(ledger_url)
    closed.close()
    with pytest.raises(ConfigurationError, match="closed"):
        closed.status("a")
    ledger.close()
    ledger.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_asks_anew(tell, ledger):
    """A child has connections of its own: the parent's go on."""
    await tell(*ended(job("a"), "succeeded", value=msgspec.Raw(b"1")))
    assert await asked(ledger.result, "a") == 1
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs must not outlive the test
        code = 1
        try:
            code = 0 if ledger.result("a", timeout=20) == 1 else 2
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await asked(ledger.result, "a") == 1


async def test_where_there_is_no_ledger(tmp_path, monkeypatch):
    """No URL, no file, no tables: each is said in words, when it is found out."""
    monkeypatch.delenv("TASKYARD_LEDGER_URL", raising=False)
    with pytest.raises(ConfigurationError, match="TASKYARD_LEDGER_URL is not set"):
        Ledger()
    with pytest.raises(ConfigurationError, match="there is no ledger at"):
        Ledger(f"sqlite:///{tmp_path / 'none.db'}")
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("TASKYARD_LEDGER_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    with Ledger() as ledger, pytest.raises(ConfigurationError, match="coordinator"):
        await asked(ledger.status, "a")
