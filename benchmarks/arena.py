"""Where contestants are measured: one node, a virtual host of its own for each measurement."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.contestants import ROOT, Contestant, Demand
from benchmarks.meter import FOLDER, ROOM, Reading

# The private node is that of the tests; its folder is on the path there, and here it is not yet.
sys.path.insert(0, str(ROOT / "tests"))

if TYPE_CHECKING:
    from support.blocking_node import BlockingNode
    from support.process import Program

_POLL_S = 0.02
#: How long a contestant may take for anything that is measured.
PATIENCE_S = 300.0


class Stalled(RuntimeError):
    """A contestant did not do what it was given, in time."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a worker did, and what it cost.

    Attributes:
        rate: jobs per second, from the first to the last.
        cpu_s: processor seconds per 100 000 jobs, over the process tree.
        pss_mib: its memory at the end, over the process tree.
        latencies_s: of the jobs that said when they were sent.

    """

    rate: float
    cpu_s: float
    pss_mib: float
    latencies_s: tuple[float, ...]


class Worker:
    """A contestant's worker that runs, and what it has counted."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._began: tuple[int, float] | None = None

    def wait(self, number: int) -> Effort:
        """Wait until it has run so many jobs in all."""
        until = time.monotonic() + PATIENCE_S
        before_s = self.cpu_s()
        while (reading := Reading(self._folder)).count < number:
            if not reading.count:
                before_s = self.cpu_s()
            elif self._began is None:
                # A worker that was seen late may have done nearly all: then what it had used when
                # it had done nothing yet is the better beginning.
                late = reading.count > number / 2
                self._began = (0, before_s) if late else (reading.count, self.cpu_s())
            if time.monotonic() > until or not self._program.is_running:
                raise Stalled(
                    f"{' '.join(self._program.argv)}: {reading.count} of {number} jobs\n"
                    f"{self._program.output[-3000:]}"
                )
            time.sleep(_POLL_S)
        done, cpu_s = self._began or (0, before_s)
        cost = (self.cpu_s() - cpu_s) / max(reading.count - done, 1) * 100_000
        return Effort(reading.rate, cost, self.pss_mib, tuple(reading.latencies_s))

    @property
    def pss_mib(self) -> float:
        """Its memory now, over the process tree."""
        return self._program.proportional_bytes() / 2**20

    @property
    def count(self) -> int:
        """How many jobs it has run."""
        return Reading(self._folder).count

    def cpu_s(self) -> float:
        """Return its processor time so far, in seconds, over the process tree."""
        return self._program.cpu_seconds()

    def first_job_s(self) -> float:
        """When it ran its first job, on the monotonic clock."""
        return Reading(self._folder).first_s


class Place:
    """An empty broker for one contestant."""

    def __init__(
        self, contestant: Contestant, url: str, folder: Path, variables: Mapping[str, str]
    ) -> None:
        self.contestant = contestant
        self._folder = folder
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TASKYARD_")},
            "PYTHONPATH": str(ROOT),
            "BENCH_URL": url,
            "BENCH_FILE": str(folder / "huey.db"),
            "TASKYARD_BROKER_URL": url,
            "TASKYARD_METRICS_PORT": "0",
            "TASKYARD_STATE_DIR": str(folder / "state"),
            **contestant.variables,
            **variables,
        }
        if contestant.setup:
            self._run(contestant.setup)

    def publish(self, mode: str, number: int, size: int = 0) -> float:
        """Have it send; return jobs per second."""
        argv = (*self.contestant.publisher, mode, str(number), str(size))
        return float(self._run(argv).split()[-1])

    def pace(self, number: int, per_second: float) -> None:
        """Have it send jobs at a pace that say when they were sent."""
        self._run((*self.contestant.publisher, "pace", str(number), "0", str(per_second)))

    @contextmanager
    def worker(self, demand: Demand, *, samples: int = 0) -> Iterator[Worker]:
        """Start its worker, and end it afterwards.

        Args:
            demand: what is asked of it.
            samples: most latencies to keep.

        """
        from support.process import Program

        meter = Path(tempfile.mkdtemp(prefix="meter-", dir=self._folder))
        env = {
            **self._env,
            FOLDER: str(meter),
            ROOM: str(samples),
            **demand.variables,
        }
        log = meter.with_suffix(".log")
        argv = self.contestant.worker(demand)
        with Program(argv, log=log, env=env, cwd=ROOT) as program:
            yield Worker(program, meter)

    def _run(self, argv: tuple[str, ...]) -> str:
        done = subprocess.run(
            argv,
            env=self._env,
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if done.returncode:
            raise Stalled(f"{' '.join(argv)}: exit {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout


class Arena:
    """Makes places: on one RabbitMQ node, or in files."""

    def __init__(self, node: BlockingNode, folder: Path) -> None:
        self._node = node
        self._folder = folder

    @property
    def version(self) -> str:
        """RabbitMQ's."""
        return self._node.version

    @property
    def broker_mib(self) -> float:
        """What the broker holds in memory."""
        return psutil.Process(self._node.pid).memory_info().rss / 2**20

    @property
    def disk_mib(self) -> float:
        """What the broker holds on disk."""
        files = (path for path in self._node.folder.rglob("*") if path.is_file())
        return sum(path.stat().st_blocks for path in files) * 512 / 2**20

    def broker_cpu_s(self) -> float:
        """Return the broker's processor time so far, in seconds."""
        times = psutil.Process(self._node.pid).cpu_times()
        return times.user + times.system

    @contextmanager
    def place(self, contestant: Contestant, **variables: str) -> Iterator[Place]:
        """Give a contestant a virtual host with nothing in it."""
        url = self._node.vhost("bench")
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                yield Place(contestant, url, Path(folder), variables)
        finally:
            self._node.delete_vhost(url)

    @contextmanager
    def embedded(self, contestant: Contestant) -> Iterator[Place]:
        """Give a contestant a folder for its file."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            yield Place(contestant, f"sqlite:///{folder}/taskyard.db", Path(folder), {})


@contextmanager
def opened(root: str | None) -> Iterator[Arena]:
    """Start a private node, that of the newest RabbitMQ known or of the installation `root`."""
    from support.blocking_node import BlockingNode
    from support.roots import find_root, installed_roots

    roots = installed_roots()
    if not root and not roots:
        sys.exit(
            "RabbitMQ is not installed here: `make rabbitmq`, or set TASKYARD_TEST_RABBITMQ_ROOTS"
        )
    node = BlockingNode(find_root(root) if root else roots[-1])
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder:
        node.start()
        try:
            yield Arena(node, Path(folder))
        finally:
            node.close()
