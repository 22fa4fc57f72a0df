"""Recording policies from outside: what of which jobs comes into the ledger, on each of its databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.eventually import eventually
from support.ledger import ledger, ledger_url, rig
from taskyard.shared import Job

__all__ = ["ledger", "ledger_url", "rig"]

pytestmark = pytest.mark.pairs

TASKS = """
from pathlib import Path
from taskyard.shared import Context, Fail, Hold, Queue, RetryPolicy

retry = RetryPolicy(attempts=2, first=0.2, jitter="none")
quiet = Queue("quiet", record="failures", retry=retry)
mute = Queue("mute", record="none", retry=retry)
masked = Queue("masked", record_arguments="redacted")
bare = Queue("bare", record="failures", record_arguments="none")
plain = Queue("plain")

async def work(ctx: Context, what: str, path: str = "") -> str:
    if what == "fail":
        raise Fail("declined")
    if what == "hold" and not Path(path).exists():
        raise Hold("later")
    if what == "retry" and ctx.attempt == 1:
        raise ValueError("again")
    print("done", what)
    return what

for queue in (quiet, mute, masked, bare, plain):
    queue.add(work)
"""


@pytest.fixture
def command(rig, taskyard, ledger_url):
    """Run a command on broker and ledger, and return what it printed."""

    async def run(*words: str, code: int = 0, **env: str) -> str:
        url = rig.target.management_url
        more = {"TASKYARD_MANAGEMENT_URL": url} if url else {}
        variables = rig.env(TASKYARD_LEDGER_URL=ledger_url, **more, **env)
        program = taskyard(*words, env=variables, cwd=rig.folder)
        assert await program.wait_exit(within=60) == code, program.output
        return program.output

    return run


def job(queue: str, what: str, **more: Any) -> Job[Any]:
    options = {name: more.pop(name) for name in ("delay", "name", "priority") if name in more}
    return Job(queue=queue, task="work", args={"what": what, **more}, **options)


async def started(rig, ledger, command) -> None:
    (rig.folder / "sparse.py").write_text(TASKS)
    await command("broker", "apply", "--ledger", "sparse")
    await rig.worker(module="sparse")
    await ledger.coordinator()


async def settled(rig, ledger) -> None:
    """Wait until the feed has told of all that was sent before: it keeps the order of one priority."""
    for queue in ("quiet", "mute", "masked", "bare", "plain"):
        await rig.emptied(queue=queue)
    (last,) = await rig.send(job("plain", "last"))
    await ledger.when(last, lambda row: row["state"] == "succeeded")


async def test_failures_only(rig, ledger, command):
    """Issue 6, 3: what went well is not in the ledger, not even as queued; what failed is, and whole."""
    async with rig:
        await started(rig, ledger, command)
        good = [job("quiet", "ok"), job("quiet", "ok", delay=0.3)]
        failed, retried = job("quiet", "fail", name="nightly"), job("quiet", "retry")
        path = str(rig.folder / "now")
        held = job("quiet", "hold", path=path)
        await rig.send(*good, failed, retried, held)
        for one, state in ((failed, "failed"), (retried, "succeeded"), (held, "parked")):
            row = await ledger.when(one.id, lambda row, state=state: row["state"] == state and row)
            assert row["created_ms"] is not None
        await settled(rig, ledger)
        assert (await ledger.jobs([one.id for one in good])) == {}
        found = json.loads(await command("jobs", "show", failed.id, "--json"))
        assert (found["name"], found["arguments"]) == ("nightly", {"what": "fail"})
        assert [run["outcome"] for run in await ledger.runs(retried.id)] == ["retried", "succeeded"]
        (rig.folder / "now").touch()
        await command("parked", "release", held.id, "--queue", "quiet")
        await ledger.when(held.id, lambda row: row["state"] == "succeeded")
        await command("jobs", "restart", failed.id)
        await ledger.when(failed.id, lambda row: (row["state"], row["attempt"]) == ("failed", 2))
        assert (await ledger.jobs([failed.id]))[failed.id]["facets"] is not None


async def test_a_released_job_is_queued(rig, ledger, command):
    """B-12: also where its queue's jobs are not in the feed, and no worker has it yet."""
    async with rig:
        (rig.folder / "sparse.py").write_text(TASKS)
        await command("broker", "apply", "--ledger", "sparse")
        await ledger.coordinator()
        worker = await rig.worker(module="sparse")
        held = job("quiet", "hold", path="/nowhere")
        await rig.send(held)
        await ledger.when(held.id, lambda row: row["state"] == "parked")
        worker.terminate()
        assert await worker.wait_exit(within=30) == 0
        await command("parked", "release", held.id, "--queue", "quiet")
        await ledger.when(held.id, lambda row: (row["state"], row["attempt"]) == ("queued", 2))


async def test_nothing_at_all(rig, ledger, command):
    """Issue 6, 3: of a queue that records none, neither good nor bad ends are known."""
    async with rig:
        await started(rig, ledger, command)
        sent = [job("mute", what, delay=0.2) for what in ("ok", "fail", "retry")]
        sent += [job("mute", what, path="/nowhere") for what in ("ok", "fail", "hold")]
        await rig.send(*sent)
        await rig.parked(1, queue="mute")
        await settled(rig, ledger)
        assert await ledger.jobs([one.id for one in sent]) == {}


async def test_arguments_that_are_not_recorded(rig, ledger, command):
    """Issue 6, 3: redacted or left out in each row; a restart from there is refused in words."""
    async with rig:
        await started(rig, ledger, command)
        masked, bare = job("masked", "fail"), job("bare", "fail")
        await rig.send(masked, bare)
        shown = {masked.id: {"what": "‹redacted›"}, bare.id: "‹not recorded›"}
        for one, kept in ((masked, "redacted"), (bare, "none")):
            row = await ledger.when(one.id, lambda row: row["state"] == "failed" and row)
            assert row["facets"] is None
            assert b'"fail"' not in row["envelope"]
            found = json.loads(await command("jobs", "show", one.id, "--json"))
            assert found["arguments"] == shown[one.id]
            assert found["arguments_recorded"] == kept
            assert "arguments_recorded: " + kept in await command("jobs", "show", one.id)
            said = await command("jobs", "restart", one.id, code=1)
            assert "its arguments are not in the ledger" in said
        assert await command("jobs", "list", "--count", "--arg", "what=fail") == "0\n"


async def test_what_was_sent_before_is_told_to_its_end(rig, ledger, command):
    """Issue 6, 3: a job that the ledger has as queued does not stay so when its queue stops recording."""
    async with rig:
        (rig.folder / "sparse.py").write_text(TASKS.replace('record="none", ', ""))
        await command("broker", "apply", "--ledger", "sparse")
        await ledger.coordinator()
        before = job("mute", "ok")
        await rig.send(before)
        await ledger.when(before.id, lambda row: row["state"] == "queued")
        (rig.folder / "sparse.py").write_text(TASKS)
        await command("broker", "apply", "sparse")
        after = job("mute", "ok")
        await rig.send(after)
        await rig.worker(module="sparse")
        await ledger.when(before.id, lambda row: row["state"] == "succeeded")
        await settled(rig, ledger)
        assert await ledger.jobs([after.id]) == {}


async def test_a_policy_changes_later(rig, ledger, command):
    """Issue 6, 3: `plan` and `verify` show it, `apply` makes it known to whoever runs, in both ways."""
    async with rig:
        await started(rig, ledger, command)
        before = job("quiet", "ok")
        await rig.send(before)
        await settled(rig, ledger)
        everything = {"TASKYARD_RECORD": "none"}
        (rig.folder / "sparse.py").write_text(TASKS.replace('record="failures", ', ""))
        words = (
            "record of queue quiet jobs: all, arguments: full (was jobs: failures, arguments: full)"
        )
        assert words in await command("broker", "plan", "sparse")
        assert words in await command("broker", "verify", "sparse", code=1)
        assert words in await command("broker", "apply", "sparse")
        assert "verified" in await command("broker", "verify", "sparse")

        # Worker and coordinator follow the log; they are told at any moment from now on.
        async def known() -> bool:
            one = job("quiet", "ok")
            await rig.send(one)
            await settled(rig, ledger)
            return one.id in await ledger.jobs([one.id])

        await eventually(known, within=20, every=0.2)
        assert await ledger.jobs([before.id]) == {}
        said = await command("broker", "plan", "sparse", **everything)
        assert "record of queue plain jobs: none, arguments: full" in said
        assert "record of queue mute" not in said
        entries = json.loads(await command("audit", "--json"))
        assert any(entry["action"] == "record" for entry in entries)
