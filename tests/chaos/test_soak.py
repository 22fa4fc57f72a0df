"""Soak: what a process holds does not grow with the number of jobs that it runs or sends."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import soak_tasks
from support.attack import Size
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.process import Program
from support.proxy import Proxy
from support.rig import Rig
from support.soak import Curve, watch

pytestmark = [pytest.mark.slow]

MODULE = "support.soak_tasks"
#: Where it is, for the processes under test.
ENV = {"PYTHONPATH": str(Path(__file__).parents[1])}
#: What a short run finds: so many bytes kept of each job. The last pages of caches are less.
LEAK_BYTES = 100
#: SQLite's cache of pages in each process; it fills in steps, such as when a full feed is first trimmed.
PAGES_BYTES = 16_000 * 1024
#: What a short run bears of each cut: buffers of new connections, and allocations around them.
CUT_BYTES = 64 * 1024
ENDS = re.compile(
    r'^taskyard_jobs_finished_total\{outcome="(?:succeeded|parked|failed)".*\} (\S+)$', re.MULTILINE
)


class Soak(Rig):
    """A broker with the queue of `soak_tasks`, a worker that is watched, and what feeds it."""

    def __init__(
        self, target: BrokerUnderTest, start: StartTaskyard, folder: Path, *, ledger: bool = True
    ) -> None:
        super().__init__(target, start, folder, queues=(soak_tasks.QUEUE,), ledger=ledger)

    async def soak(self, size: Size, kind: str, jobs: int) -> list[Curve]:
        """Have a worker run so many jobs of a kind; return what it held, and who sent them."""
        worker = await self.worker(module=MODULE, env=ENV)
        with self.fed(size, kind) as feeder:
            return await watch(
                [worker, feeder],
                lambda: self.ended(worker),
                jobs,
                every_s=size.of(0.1, 1.0),
                within_s=size.of(170, 1700),
            )

    async def soak_cut(self, size: Size, proxy: Proxy, cuts: int) -> list[Curve]:
        """Cut a worker's connections so often, each time when it has run some jobs since the last.

        So many that those which were on their way to it when the last cut came are done: a job
        that dies with connection after connection before anybody has seen it counts as a suspect.
        """
        env = {**ENV, "TASKYARD_BROKER_URL": proxy.url(self.target.url)}
        worker = await self.worker(module=MODULE, env=env)
        made, seen = 0, 0

        async def cut() -> int:
            nonlocal made, seen
            if (number := await self.ended(worker)) > seen + 1000:
                proxy.cut()
                made, seen = made + 1, number
            return made

        with self.fed(size, "noop"):
            every_s, within_s = size.of(0.1, 1.0), size.of(120, 3600)
            curves = await watch([worker], cut, cuts, every_s=every_s, within_s=within_s)
        assert [job async for job in self.broker.parked(soak_tasks.QUEUE)] == []
        return curves

    def fed(self, size: Size, kind: str) -> Program:
        """Start what sends jobs, to the end of the watch.

        SQLite keeps more pages in its memory (up to 16 MB) when nobody else writes any more.
        """
        backlog = str(size.of(5_000, 50_000))
        return soak_tasks.start(self.folder / "feed.log", self.target.url, kind, backlog)

    async def ended(self, worker: Program) -> int:
        """Return how many jobs a worker has brought to their end."""
        text = (await self.probe(worker, "/metrics")).text
        return round(sum(float(number) for number in ENDS.findall(text)))


def judge(
    rig: Rig,
    curves: list[Curve],
    size: Size,
    each_bytes: int = LEAK_BYTES,
    share: float = 0.02,
) -> None:
    """Say how memory went, and refuse what grows: by a share in full; in short, by so much a job."""
    for curve in curves:
        print(curve)
    for curve in curves:
        if not size.full:
            assert curve.growth(after=4) < curve.total * 0.6 * each_bytes, str(curve)
        elif rig.target.kind == "rabbitmq":
            assert curve.relative_growth() < share, str(curve)
        else:
            assert curve.growth() < PAGES_BYTES, str(curve)


@pytest.fixture
async def rig(
    broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> AsyncIterator[Soak]:
    """A broker that records, with a feed that nobody reads: it drops its oldest at its bound."""
    async with Soak(broker_url, taskyard, tmp_path) as rig:
        yield rig


def millions(rig: Rig) -> int:
    """Return how many jobs are a soak: one file is not made for so many."""
    return 300_000 if rig.target.kind == "sqlite" else 3_000_000


@pytest.mark.on_cluster
async def test_a_worker_does_not_grow(size: Size, rig: Soak) -> None:
    """Soak of issue 4: no-op jobs by the million, run by one worker and sent by one producer."""
    judge(rig, await rig.soak(size, "noop", size.of(30_000, millions(rig))), size)


@pytest.mark.in_full
async def test_a_worker_without_a_ledger_does_not_grow(
    size: Size, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """The same without recording."""
    async with Soak(broker_url, taskyard, tmp_path, ledger=False) as rig:
        judge(rig, await rig.soak(size, "noop", size.of(30_000, millions(rig))), size)


@pytest.mark.in_full
@pytest.mark.parametrize("kind", ["mixed", "threaded"])
async def test_a_worker_in_trouble_does_not_grow(size: Size, rig: Soak, kind: str) -> None:
    """Threads; and retries, parks, failures, and one job in ten that raises from a depth, with an
    error whose own traceback leads back to it.
    """
    # What the collector has not yet looked at is more here, and the first tenth of it is shorter.
    curves = await rig.soak(size, kind, size.of(15_000, 500_000))
    judge(rig, curves, size, each_bytes=2 * LEAK_BYTES, share=0.04)


@pytest.mark.in_full
@pytest.mark.server_only
async def test_cut_connections_leave_nothing_behind(size: Size, rig: Soak) -> None:
    """Every connection of a worker is cut, again and again, as soon as it works again: what it
    remembers of the jobs that it lost has a bound, and nothing else stays.
    """
    async with Proxy.to(rig.target.url) as proxy:
        curves = await rig.soak_cut(size, proxy, cuts=size.of(30, 1000))
    judge(rig, curves, size, each_bytes=CUT_BYTES)
