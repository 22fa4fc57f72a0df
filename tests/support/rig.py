"""A broker with the selftest queue set up, worker processes on it, and their work seen from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.process import Program
from taskyard.producer import AsyncProducer
from taskyard.shared import Job
from taskyard.shared.broker import Broker, ParkedJob, QueueSpec, SetupSpec
from taskyard.shared.brokers import connect
from taskyard.shared.control import ControlRecord
from taskyard.shared.topology import plan

SELFTEST = "taskyard.workers.selftest"
QUEUE = "default"


class Rig:
    """`async with Rig(broker_url, taskyard, tmp_path) as rig:`; jobs note themselves in `rig.notes`."""

    def __init__(
        self,
        target: BrokerUnderTest,
        start: StartTaskyard,
        folder: Path,
        *,
        queues: Sequence[str] = (QUEUE,),
        ledger: bool = False,
    ) -> None:
        self.target = target
        self.folder = folder
        self.notes = folder / "notes.jsonl"
        self.broker: Broker = connect(target.url)
        self.producer = AsyncProducer(target.url)
        self._start = start
        self._queues = tuple(queues)
        self._ledger = ledger
        # On a cluster of an older release this is for the operator to choose.
        self._type = "quorum" if target.cluster is not None else "auto"

    async def __aenter__(self) -> Self:
        await self.broker.open()
        spec = SetupSpec(
            queues=tuple(QueueSpec(name=name, type=self._type) for name in self._queues),
            ledger=self._ledger,
        )
        observed = await self.broker.observe(spec)
        await self.broker.apply(plan(self.broker.desired(spec, observed), observed))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.producer.close()
        await self.broker.close()

    # processes

    def env(self, **more: str) -> dict[str, str]:
        """Return what commands on this broker need in their environment."""
        return {
            "TASKYARD_BROKER_URL": self.target.url,
            "TASKYARD_METRICS_PORT": "0",
            "TASKYARD_STATE_DIR": str(self.folder / "state"),
            **more,
        }

    def start_worker(
        self, *options: str, module: str = SELFTEST, env: Mapping[str, str] | None = None
    ) -> Program:
        """Start a worker process; see `ready`."""
        return self._start("worker", module, *options, env=self.env(**(env or {})), cwd=self.folder)

    async def worker(
        self, *options: str, module: str = SELFTEST, env: Mapping[str, str] | None = None
    ) -> Program:
        """Start a worker process and wait until it consumes."""
        program = self.start_worker(*options, module=module, env=env)
        await self.ready(program)
        return program

    async def ready(self, program: Program, *, within: float = 20) -> None:
        """Wait until a worker says that it is ready."""

        async def ready() -> bool:
            return (await self.probe(program, "/readyz")).status_code == 200

        await eventually(ready, within=within, every=0.05, hint="the worker gets ready")

    async def probe(self, program: Program, path: str) -> httpx.Response:
        """Ask a worker's health server."""
        line = await program.wait_line("health server listens", within=20)
        found = re.search(r'"port": (\d+)', line)
        assert found is not None, line
        async with httpx.AsyncClient(timeout=5) as client:
            return await client.get(f"http://127.0.0.1:{found[1]}{path}")

    async def metric(self, program: Program, name: str, **labels: str) -> float:
        """Return a worker's number; 0 where it has none. A task is one of the selftest queue."""
        if "task" in labels:
            labels["task"] = f"{QUEUE}.{labels['task']}"
        text = (await self.probe(program, "/metrics")).text
        for line in text.splitlines():
            named = line.startswith((f"taskyard_{name}{{", f"taskyard_{name} "))
            if named and all(f'{label}="{value}"' in line for label, value in labels.items()):
                return float(line.rpartition(" ")[2])
        return 0.0

    async def ended_as(self, program: Program, outcome: str) -> float:
        """Return how many jobs of any task a worker has ended so."""
        text = (await self.probe(program, "/metrics")).text
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("taskyard_jobs_finished_total{") and f'outcome="{outcome}"' in line
        )

    # jobs

    def job(self, task: str, args: Mapping[str, Any] | None = None, **options: Any) -> Job[Any]:
        """Return a job of the selftest queue."""
        return Job(queue=QUEUE, task=task, args=dict(args or {}), **options)

    def note(self, line: str = "", **options: Any) -> Job[Any]:
        """Return a job that notes its run in `notes`."""
        return self.job("record", {"path": str(self.notes), "line": line}, **options)

    async def send(self, *jobs: Job[Any]) -> list[str]:
        """Send jobs and return their ids."""
        return await self.producer.send_many(jobs)

    def seen(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """Return the runs noted so far, in order."""
        if not self.notes.exists():
            return []
        runs = [json.loads(line) for line in self.notes.read_text().splitlines()]
        return [run for run in runs if job_id is None or run["job"] == job_id]

    async def noted(self, number: int, *, within: float = 20) -> list[dict[str, Any]]:
        """Wait for so many noted runs and return them."""

        def enough() -> list[dict[str, Any]]:
            runs = self.seen()
            return runs if len(runs) >= number else []

        return await eventually(
            enough, within=within, hint=f"{number} runs, not {len(self.seen())}"
        )

    async def parked(
        self, number: int = 1, *, queue: str = QUEUE, within: float = 20
    ) -> list[ParkedJob]:
        """Wait until so many jobs are parked and return them."""

        async def enough() -> list[ParkedJob]:
            found = [job async for job in self.broker.parked(queue)]
            return found if len(found) >= number else []

        return await eventually(enough, within=within, every=0.1)

    async def intend(self, *records: ControlRecord) -> None:
        """Write operators' intents."""
        await self.broker.append_control(records, deadline_s=60)

    async def emptied(self, *, queue: str = QUEUE, within: float = 20) -> None:
        """Wait until a queue holds nothing, neither ready nor handed over."""

        async def empty() -> bool:
            stats = (await self.broker.stats([queue]))[queue]
            assert not stats.ready, stats
            assert not stats.unsettled, stats
            assert not stats.scheduled, stats
            return True

        await eventually(empty, within=within, every=0.1)
