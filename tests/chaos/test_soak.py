"""Soak: what a process holds does not grow with the number of jobs that it runs or sends."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from support import soak_tasks
from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.rig import Rig
from support.soak import Curve, watch

pytestmark = [pytest.mark.slow]

#: Where support is, for the processes under test.
TESTS = str(Path(__file__).parents[1])
#: What a short run finds: so many bytes kept of each job. The last pages of caches are less.
LEAK_BYTES = 100
ENDS = re.compile(
    r'^taskyard_jobs_finished_total\{outcome="(?:succeeded|parked|failed)".*\} (\S+)$', re.MULTILINE
)


class Soak(Rig):
    """A broker with the queue of `soak_tasks`, and what feeds it."""

    def __init__(
        self, target: BrokerUnderTest, start: StartTaskyard, folder: Path, *, ledger: bool
    ) -> None:
        super().__init__(target, start, folder, queues=(soak_tasks.QUEUE,), ledger=ledger)

    async def soak(self, size: Size, kind: str, jobs: int, **env: str) -> Curve:
        """Have a worker run so many jobs of a kind; return what it held meanwhile."""
        worker = await self.worker(module="support.soak_tasks", env={"PYTHONPATH": TESTS, **env})
        listens = await worker.wait_line("health server listens", within=20)
        port = re.search(r'"port": (\d+)', listens)
        assert port is not None
        backlog = str(size.of(5_000, 50_000))
        with soak_tasks.start(
            self.folder / "feed.log", "feed", self.target.url, str(jobs), kind, backlog
        ) as feeder:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port[1]}") as client:

                async def done() -> int:
                    assert feeder.is_running, feeder.output
                    text = (await client.get("/metrics")).text
                    return round(sum(float(number) for number in ENDS.findall(text)))

                return await watch(
                    worker, done, jobs, every_s=size.of(0.1, 1.0), within_s=size.of(120, 1700)
                )


def judge(curve: Curve, size: Size) -> None:
    """Say how memory went, and refuse what grows: 2 % in full; in short, a hundred bytes a job."""
    print(curve)
    if size.full:
        assert curve.relative_growth() < 0.02, curve
    else:
        assert curve.growth(after=4) < curve.total * 0.6 * LEAK_BYTES, curve


@pytest.mark.parametrize("recording", [True, False], ids=["recording", "plain"])
async def test_a_worker_does_not_grow(
    size: Size,
    broker_url: BrokerUnderTest,
    taskyard: StartTaskyard,
    tmp_path: Path,
    recording: bool,
) -> None:
    """Soak of issue 4: no-op jobs by the million, with a feed that nobody reads, and without one."""
    jobs = size.of(40_000, 300_000 if broker_url.kind == "sqlite" else 3_000_000)
    async with Soak(broker_url, taskyard, tmp_path, ledger=recording) as rig:
        curve = await rig.soak(size, "noop", jobs)
    judge(curve, size)
