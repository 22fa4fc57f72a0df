"""An operator and a pile of parked jobs: groups, pace, canary, another queue, other arguments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.pile import OTHER, Pile
from support.rig import QUEUE
from taskyard.shared.wire import ENCRYPTED


@pytest.fixture
async def pile(broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path):
    """A fresh broker with two queues."""
    async with Pile(broker_url, taskyard, tmp_path) as made:
        yield made


# ---------------------------------------------------------------- groups


async def test_a_pile_is_counted_by_what_it_failed_with(pile: Pile) -> None:
    """Groups have a count, reasons, tasks, first and last; one is picked by its id or its
    fingerprint's beginning, for a list, a rehearsal and a discard (LQ-16, BS-08, B-14).
    """
    first = await pile.park(["record"] * 3, fingerprint="ValueError at a.py:f")
    second = await pile.park(["error"] * 5, fingerprint="KeyError at b.py:g")
    third = await pile.park(["ok"])
    groups = await pile.json("list", "--group")
    assert [(g["fingerprint"], g["count"]) for g in groups] == [
        ("KeyError at b.py:g", 5),
        ("ValueError at a.py:f", 3),
        ("exhausted", 1),
    ]
    assert groups[0]["tasks"] == ["default.error"]
    assert groups[0]["first_parked"] <= groups[0]["last_parked"]
    assert groups[0]["examples"] == second
    assert groups[0]["group"] in await pile.run("list", "--group")
    listed = await pile.json("list", "--fingerprint", groups[1]["group"])
    assert [job["id"] for job in listed] == first
    before = [job async for job in pile.broker.parked(QUEUE)]
    plan = await pile.json("discard", "--fingerprint", "KeyError", "--dry-run")
    assert (plan["would_discard"], plan["groups"][0]["examples"]) == (5, second)
    assert "would release 9 jobs" in await pile.run("release", "--all", "--dry-run")
    assert await pile.lot() == [*first, *second, *third]
    rehearsed = ("--canary", "--rate", "1/s", "--to", OTHER, "--dry-run")
    assert (await pile.json("release", "--all", *rehearsed))["would_release"] == 9
    edit = await pile.json("edit", first[0], "line=x", "--release", "--dry-run")
    assert (edit["generation"], edit["args"]["line"]) == (2, "x")
    assert [job async for job in pile.broker.parked(QUEUE)] == before
    assert (await pile.json("discard", "--fingerprint", "KeyError"))["discarded"] == second
    assert (await pile.json("release", "--task", "default.ok"))["released"] == third
    assert await pile.lot() == first
    assert "no parked job" in await pile.run("release", "--fingerprint", "none", code=1)


# ---------------------------------------------------------------- pace


@pytest.mark.system
@pytest.mark.slow
async def test_a_hundred_at_ten_a_second(pile: Pile) -> None:
    """100 jobs at 10/s take 10 ± 2 s, evenly, in the order of parking, and others see the lot
    meanwhile (SQ-07).
    """
    parked = await pile.park(["record"] * 100, fingerprint="E at f")
    await pile.worker("--queues", QUEUE, "--concurrency", "1")
    program = pile.command("release", "--all", "--rate", "10/s", "--json")
    await pile.noted(20, within=60)
    assert await eventually(pile.lot, within=20, hint="the lot seen during the release")
    assert await program.wait_exit(within=60) == 0, program.output
    assert json.loads(program.output)["released"] == parked
    await pile.noted(100)
    seconds = pile.seconds()
    assert 8 <= seconds[-1] - seconds[0] <= 12
    busiest = max(sum(at <= other < at + 1 for other in seconds) for at in seconds)
    assert busiest <= 25, "no burst: at most twice the pace, and a little"
    assert [run["job"] for run in pile.seen()] == parked


@pytest.mark.system
@pytest.mark.slow
async def test_a_slow_release_that_is_killed_goes_on(pile: Pile) -> None:
    """SIGKILL in the middle and the same command again: each runs, none twice but those that were
    in flight (SQ-07, promise 3).
    """
    parked = await pile.park(["record"] * 100)
    await pile.worker("--queues", QUEUE)
    command = ("release", "--all", "--rate", "30/s")
    program = pile.command(*command)
    await pile.noted(30, within=60)
    program.kill()
    await program.wait_exit()

    async def back() -> list[str]:
        left = await pile.lot()
        assert len(left) + len(pile.runs()) >= 100
        return left

    left = await eventually(back, within=30, hint="the rest is parked again")
    assert left == parked[-len(left) :]
    await pile.run(*command)

    def all_ran() -> bool:
        return len(pile.runs()) == 100

    await eventually(all_ran, within=30, hint="all jobs ran")
    await pile.emptied()
    assert await pile.lot() == []
    assert set(pile.runs()) == set(parked)
    assert sum(pile.runs().values()) <= 100 + 3, "at most one batch of the pace twice"


async def test_an_interrupted_release_says_how_far_it_got(pile: Pile) -> None:
    """Ctrl-C ends with 130, the number that was released, and how to go on (SQ-07)."""
    parked = await pile.park(["record"] * 40)
    program = pile.command("release", "--all", "--rate", "10/s")

    async def begun() -> bool:
        return (await pile.broker.stats([QUEUE]))[QUEUE].ready >= 5

    await eventually(begun, within=60, every=0.1, hint="five released")
    program.interrupt()
    assert await program.wait_exit(within=30) == 130, program.output
    assert "run the same command again" in program.output

    async def accounted() -> int:
        left = await pile.lot()
        assert left == parked[len(parked) - len(left) :]
        ready = (await pile.broker.stats([QUEUE]))[QUEUE].ready
        assert len(left) + ready == 40
        return ready

    ready = await eventually(accounted, within=20, hint="all accounted for")
    assert f"released {ready} jobs" in program.output


# ---------------------------------------------------------------- canary


async def test_a_canary_decides_for_its_group(pile: Pile) -> None:
    """Of a group that fails again one job is released; a group that succeeds goes on (B-14)."""
    bad = await pile.park(["hold"] * 5, fingerprint="Bad at f")
    good = await pile.park(["record"] * 5, fingerprint="Good at g")
    await pile.worker("--queues", QUEUE)
    result = await pile.json("release", "--all", "--canary", code=1)
    assert result["released"] == [bad[0], *good]
    (stop,) = result["stopped"]
    assert (stop["job"], stop["canary"], stop["fingerprint"]) == (bad[0], True, "Bad at f")
    assert "parked (held)" in stop["outcome"]
    await pile.noted(5)
    assert await pile.lot() == [*bad[1:], bad[0]]
    (again,) = [j async for j in pile.broker.parked(QUEUE) if j.envelope.id == bad[0]]
    assert again.envelope.attempt == 2
    # The next release takes the address of the first watcher out again.
    assert len(again.envelope.reply) == 1
    await pile.run("release", bad[0], "--canary", code=1)

    async def watched_anew() -> bool:
        (third,) = [j async for j in pile.broker.parked(QUEUE) if j.envelope.id == bad[0]]
        assert third.envelope.attempt == 3
        return len(third.envelope.reply) == 1 and third.envelope.reply != again.envelope.reply

    await eventually(watched_anew, within=20, hint="one address, a new one")


async def test_a_retry_of_the_canary_is_no_failure(pile: Pile) -> None:
    """The final outcome counts: a canary that succeeds in its second attempt lets the rest go."""
    flaky = await pile.park(["flaky"], fingerprint="E at f", args={"failures": 2})
    rest = await pile.park(["record"] * 3, fingerprint="E at f")
    await pile.worker("--queues", QUEUE)
    assert (await pile.json("release", "--all", "--canary"))["released"] == [*flaky, *rest]
    await pile.noted(3)


async def test_a_group_that_fails_later_is_stopped_as_well(pile: Pile) -> None:
    """After a canary that succeeded the group is watched: its next failure stops the rest."""
    parked = await pile.park(["record", *["fail"] * 40], fingerprint="E at f")
    await pile.worker("--queues", QUEUE)
    result = await pile.json("release", "--all", "--canary", "--rate", "4/s", code=1)
    done = len(result["released"])
    assert 2 <= done < 30, "stopped long before the end"
    assert result["stopped"][0]["canary"] is False
    assert await pile.lot() == parked[done:]


async def test_a_canary_without_an_outcome_times_out(pile: Pile) -> None:
    """Nobody works: exit 124 with a sentence, and only the canary was released."""
    parked = await pile.park(["record"] * 3)
    command = ("release", "--all", "--canary", "--canary-timeout", "2s")
    output = await pile.run(*command, code=124)
    assert parked[0] in output
    assert "released 1 job before this" in output
    assert await pile.lot() == parked[1:]


# ---------------------------------------------------------------- another queue


async def test_a_release_to_another_queue(pile: Pile) -> None:
    """The job goes there under its task's name there, and says where from; an unknown queue and
    encrypted arguments are refused in words (SQ-07).
    """
    (job,) = await pile.park(["record"])
    (sealed,) = await pile.park(["record"], content_type=ENCRYPTED)
    assert "nowhere" in await pile.run("release", job, "--to", "nowhere", code=1)
    assert await pile.lot() == [job, sealed]
    result = await pile.json("release", "--all", "--to", OTHER, code=1)
    assert result["released"] == [job]
    assert "encrypted" in result["left"][sealed]
    assert await pile.lot() == [sealed]
    consumer = await pile.broker.consume(OTHER, credit=1)
    (delivery,) = await consumer.take()
    moved = delivery.envelope
    assert (moved.id, moved.queue, moved.task) == (job, OTHER, f"{OTHER}.record")
    note = json.loads(str((moved.extra or {})["ty-released"]))
    assert note["from"] == QUEUE
    assert "@" in note["by"]


# ---------------------------------------------------------------- edit


async def test_an_edited_job_runs_with_its_new_arguments(pile: Pile) -> None:
    """Same id, checked against the task, with what it was in `parked show`; then it runs (LQ-16)."""
    args = {"path": "/nowhere/at/all", "line": "old"}
    (job,) = await pile.park(["record"], args=args)
    wrong = ("edit", job, "line=7", "--module", "taskyard.workers.selftest")
    assert "default.record" in await pile.run(*wrong, code=2)
    assert "say what to change" in await pile.run("edit", job, code=2)
    new = (f"path={pile.notes}", "line=new")
    edited = await pile.json("edit", job, *new, "--module", "taskyard.workers.selftest")
    assert edited["generation"] == 2
    shown = await pile.json("show", job)
    assert shown["args"] == {"path": str(pile.notes), "line": "new"}
    assert shown["edits"][0]["was"] == args
    assert "@" in shown["edits"][0]["by"]
    assert "generation 1 had" in await pile.run("show", job)
    assert "released" in await pile.run("edit", job, "--unset", "line", "--release")
    await pile.worker("--queues", QUEUE)
    (run,) = await pile.noted(1)
    assert (run["job"], run["line"], run["attempt"]) == (job, "", 2)
    assert await pile.lot() == []


async def test_what_cannot_be_edited_stays_as_it_is(pile: Pile) -> None:
    """Encrypted arguments, an unknown job and no JSON object are refused in words. One that is
    encrypted by itself stays closed while others change (ZS-21).
    """
    card = {"ty-enc": "k1", "ty-enc-nonce": "bm9uY2U=", "ty-enc-data": "ZGF0YQ=="}
    (partly,) = await pile.park(["record"], args={"card": card, "line": "old"})
    assert "card is encrypted" in await pile.run("edit", partly, "card=4111", code=2)
    assert "card is encrypted" in await pile.run("edit", partly, "--unset", "card", code=2)
    assert (await pile.json("edit", partly, "line=new"))["generation"] == 2
    (found,) = [job async for job in pile.broker.parked(QUEUE)]
    assert json.loads(found.envelope.body) == {"card": card, "line": "new"}
    (sealed,) = await pile.park(["record"], content_type=ENCRYPTED)
    assert "encrypted" in await pile.run("edit", sealed, "--args", "{}", code=2)
    assert "not parked" in await pile.run("edit", "nobody", "a=1", code=1)
    assert "JSON object" in await pile.run("edit", sealed, "--args", "[]", code=2)
    assert (await pile.json("show", sealed))["generation"] == 1
