"""Everything dies, one after another: nothing is lost."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from support.eventually import eventually
from support.process import Program
from support.rig import Rig

pytestmark = [pytest.mark.system, pytest.mark.slow]

SENDER = """
import sys, time
from taskyard.producer import Producer
from taskyard.shared import Job

producer = Producer()
jobs = [
    Job(queue="default", task="record", args={"path": sys.argv[1], "line": str(n)})
    for n in range(1000)
]
print("sent", len(producer.send_many(jobs)), flush=True)
time.sleep(600)
"""


@pytest.mark.breaks_broker
async def test_a_thousand_jobs_outlive_everybody(broker_url, taskyard, tmp_path):
    """ZS-30, BS-19, promise 1: sender, worker and broker are killed with SIGKILL, one after another,
    the worker in mid-work: every job runs, at worst a second time.
    """
    script = tmp_path / "sender.py"
    script.write_text(SENDER)
    rig = Rig(broker_url, taskyard, tmp_path)
    async with rig:
        pass
    argv = [sys.executable, str(script), str(rig.notes)]
    with Program(argv, log=tmp_path / "sender.log", env=rig.env()) as sender:
        await sender.wait_line("sent 1000", within=30)
        sender.kill()
        await sender.wait_exit()
    first = taskyard("worker", "taskyard.workers.selftest", env=rig.env(), cwd=tmp_path)
    await rig.noted(100)
    first.kill()
    await first.wait_exit()
    await broker_url.kill_broker()
    async with Rig(broker_url, taskyard, tmp_path) as again:
        await again.worker()

        def all_ran() -> bool:
            return len({run["line"] for run in again.seen()}) == 1000

        await eventually(all_ran, within=60, every=0.2)
        await again.emptied()
        runs = again.seen()
        assert {run["line"] for run in runs} == {str(n) for n in range(1000)}
        assert len({run["job"] for run in runs}) == 1000
        number = Counter(run["job"] for run in runs)
        # At least once: a killed broker may have forgotten acknowledgements that were not on disk.
        assert max(number.values()) <= 2
        assert {run["attempt"] for run in runs} == {1}
