"""Parked jobs and operators in trouble: two at once, one that dies, one whose terminal goes away."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.attack import Size
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.pile import Pile
from support.process import taskyard_command
from support.rig import QUEUE

FINGERPRINT = "ValueError at a.py:f"


@pytest.fixture
async def pile(
    broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> AsyncIterator[Pile]:
    """A fresh broker with two queues."""
    async with Pile(broker_url, taskyard, tmp_path) as made:
        yield made


async def test_two_release_one_group_at_once(size: Size, seed: int, pile: Pile) -> None:
    """Each job runs, none twice, though each operator wants them all; one may find nothing left."""
    rng = random.Random(seed)
    for _ in range(size.of(1, 20)):
        pile.notes.unlink(missing_ok=True)
        parked = await pile.park(["record"] * size.of(150, 1500), fingerprint=FINGERPRINT)
        worker = await pile.worker("--queues", QUEUE)
        ways = [["--all"], ["--fingerprint", FINGERPRINT], ["--all", "--rate", "400/s"], ["--all"]]
        operators = [
            pile.command("release", *way, "--json") for way in rng.sample(ways, size.of(2, 3))
        ]
        released: Counter[str] = Counter()
        for operator in operators:
            code = await operator.wait_exit(within=120)
            assert "Traceback" not in operator.output
            if code:
                assert (code, "no parked job " in operator.output) == (1, True)
                continue
            released.update(json.loads(operator.output)["released"])
        await pile.noted(len(parked), within=60)
        await pile.emptied(within=60)
        assert await pile.lot() == []
        assert released == Counter(parked)
        assert pile.runs() == Counter(parked)
        worker.terminate()
        assert await worker.wait_exit(within=30) == 0


async def test_a_releaser_that_dies_behind_its_canary(pile: Pile) -> None:
    """SIGKILL while a worker runs the canary: the rest stays parked, the canary ends, and the same
    command again releases the rest behind a canary of its own; each job runs once.
    """
    (canary,) = await pile.park(["sleep"], fingerprint=FINGERPRINT, args={"seconds": 3})
    rest = await pile.park(["record"] * 30, fingerprint=FINGERPRINT)
    worker = await pile.worker("--queues", QUEUE)
    command = ("release", "--all", "--canary")
    first = pile.command(*command)

    async def runs() -> bool:
        return await pile.metric(worker, "jobs_running", queue=QUEUE) == 1

    await eventually(runs, within=30, hint="the canary runs")
    first.kill()
    assert await first.wait_exit() == -signal.SIGKILL

    async def back() -> bool:
        return await pile.lot() == rest

    await eventually(back, within=30, hint="all but the canary are parked")
    assert (await pile.json(*command))["released"] == rest

    async def ended() -> bool:
        name = "jobs_finished_total"
        return await pile.metric(worker, name, task="sleep", outcome="succeeded") == 1

    await eventually(ended, within=30, hint=f"the canary {canary} has ended")
    await pile.noted(len(rest))
    await pile.emptied()
    assert pile.runs() == Counter(rest)
    assert await pile.lot() == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_a_release_whose_terminal_is_closed(pile: Pile, number: signal.Signals) -> None:
    """SIGHUP (SIGTERM) in the middle: what is on its way is seen to its end, then it goes, in good
    order; no job is both released and parked, and none is lost.
    """
    parked = await pile.park(["record"] * 60)
    main, terminal = os.openpty()
    with subprocess.Popen(
        [*taskyard_command(), "parked", "release", "--all", "--rate", "20/s"],
        env={**os.environ, **pile.env()},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        # A test run under `nohup` ignores it, and its children inherit that, and honour it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as releaser:
        os.close(terminal)
        try:

            async def begun() -> bool:
                return (await pile.broker.stats([QUEUE]))[QUEUE].ready >= 5

            await eventually(begun, within=60, every=0.1, hint="five released")
            os.close(main)  # from here on writing fails
            releaser.send_signal(number)
            code = await asyncio.to_thread(releaser.wait, 20)
        finally:
            releaser.kill()
    assert code == 130

    async def accounted() -> bool:
        left = await pile.lot()
        assert left == parked[len(parked) - len(left) :]
        ready = (await pile.broker.stats([QUEUE]))[QUEUE].ready
        return bool(left) and len(left) + ready == len(parked)

    await eventually(accounted, within=20, hint="all accounted for")


@pytest.mark.parametrize(
    "command", [["list"], ["list", "--json"], ["list", "--group"], ["--help"]], ids=" ".join
)
async def test_a_reader_that_has_seen_enough(pile: Pile, command: list[str]) -> None:
    """`taskyard parked list | head -1` prints its line, and nothing about a broken pipe; exit 0."""
    await pile.park(["record"] * 1200, fingerprint=FINGERPRINT)
    line = " ".join([*taskyard_command(), "parked", *command])
    # `head` closes the pipe before the table is written: it is asked for no line at all.
    for count in ("0", "1"):
        shell = f"set -o pipefail; {line} | head -n {count}"
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", shell],
            env={**os.environ, **pile.env()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == int(count)
        assert re.match(r"ID|\[|GROUP|Usage", done.stdout) or count == "0"
