"""Who is measured: how each is set up, sends and works, and with which settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
#: The environment of the peers, made by `benchmarks.peers_environment`.
PEERS: Final = ROOT / ".venv-peers" / "bin"
OWN: Final = Path(sys.executable).parent
#: More are not faster for anybody.
THREADS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of a worker.

    Attributes:
        slots: jobs at once, where they are coroutines; threads are 16 at most.
        prefetch: jobs that a process has taken and not yet settled.
        processes: of the worker.
        threads: the handlers are plain functions, which run in threads.

    """

    slots: int = 200
    prefetch: int = 200
    processes: int = 1
    threads: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """Return what the contestants read in their environment."""
        slots = min(self.slots, THREADS) if self.threads else self.slots
        return {
            "BENCH_SLOTS": str(slots),
            "BENCH_PREFETCH": str(self.prefetch),
            "BENCH_LOOKAHEAD": str(self.prefetch - slots),
            "dramatiq_queue_prefetch": str(self.prefetch),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to send and run jobs.

    Attributes:
        name: in tables.
        settings: what differs from its defaults, in words.
        publisher: the command line of its publishing side, without its arguments.
        modes: in which it can send.
        worker: the command line of its worker.
        peer: it runs in the peers' environment.
        setup: the command line that prepares an empty broker; none where it does that by itself.
        variables: of its environment.

    """

    name: str
    settings: str
    publisher: tuple[str, ...]
    modes: frozenset[str]
    worker: Callable[[Demand], tuple[str, ...]]
    peer: bool = False
    setup: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


def _apply(*options: str) -> tuple[str, ...]:
    return (str(OWN / "taskyard"), "broker", "apply", *options, "benchmarks.ours.app")


def _our_worker(demand: Demand) -> tuple[str, ...]:
    several = ("--processes", str(demand.processes)) if demand.processes > 1 else ()
    return (str(OWN / "taskyard"), "worker", "benchmarks.ours.app", *several)


OUR_MODES: Final = frozenset({"one", "many", "async", "threads", "sync-many", "delayed"})

OURS: Final = Contestant(
    name="taskyard",
    settings="recording on; a quorum queue with priorities where RabbitMQ has them (4.3), else classic",
    publisher=(str(OWN / "python"), "-m", "benchmarks.ours.app"),
    modes=OUR_MODES,
    worker=_our_worker,
    setup=_apply("--ledger"),
)
UNRECORDED: Final = Contestant(
    name="taskyard, recording off",
    settings="as above, without the feed",
    publisher=OURS.publisher,
    modes=OUR_MODES,
    worker=_our_worker,
    setup=_apply(),
)
#: On the type of queue that the peers use, which does not wait for the disk.
CLASSIC: Final = replace(
    UNRECORDED,
    name="taskyard, recording off, classic queue",
    settings='as above, its queue declared `type="classic"`',
    variables={"BENCH_QUEUE": "classic"},
)
BARE: Final = Contestant(
    name="bare pika",
    settings="asyncio adapter on uvloop, no framework; our queue; 1000 confirms outstanding",
    publisher=(str(OWN / "python"), "-m", "benchmarks.ours.bare"),
    modes=frozenset({"one", "many"}),
    worker=lambda _: (str(OWN / "python"), "-m", "benchmarks.ours.bare", "consume"),
    setup=_apply(),
)
BARE_CLASSIC: Final = replace(
    BARE, name="bare pika, classic queue", variables={"BENCH_QUEUE": "classic"}
)
CELERY: Final = Contestant(
    name="Celery",
    settings="-P threads, acks_late, results ignored, confirms; "
    "mingle, gossip, heartbeat, events and remote control off; classic queue",
    publisher=(str(PEERS / "python"), "-m", "benchmarks.peers.celery_app"),
    modes=frozenset({"one", "many", "threads"}),
    worker=lambda demand: (
        *(str(PEERS / "celery"), "-A", "benchmarks.peers.celery_app", "worker"),
        *("-P", "threads", "-c", str(min(demand.slots, THREADS)), "-l", "ERROR"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ),
    peer=True,
)
DRAMATIQ: Final = Contestant(
    name="Dramatiq",
    settings="default middleware without Prometheus, 16 threads, confirms; classic queue",
    publisher=(str(PEERS / "python"), "-m", "benchmarks.peers.dramatiq_app"),
    modes=frozenset({"one", "many", "threads"}),
    worker=lambda demand: (
        *(str(PEERS / "dramatiq"), "benchmarks.peers.dramatiq_app"),
        *("--processes", str(demand.processes), "--threads", str(min(demand.slots, THREADS))),
    ),
    peer=True,
)
TASKIQ: Final = Contestant(
    name="Taskiq",
    settings="taskiq-aio-pika, uvloop, --max-async-tasks 200, --ack-type when_executed, "
    "500 sends at once; classic queue",
    publisher=(str(PEERS / "python"), "-m", "benchmarks.peers.taskiq_app"),
    modes=frozenset({"one", "many", "async", "sync-many"}),
    worker=lambda demand: (
        *(str(PEERS / "taskiq"), "worker", "benchmarks.peers.taskiq_app:broker"),
        *("--workers", str(demand.processes), "--max-async-tasks", str(demand.slots)),
        *("--max-threadpool-threads", "16", "--ack-type", "when_executed"),
        *("--log-level", "ERROR"),
    ),
    peer=True,
)
FASTSTREAM: Final = Contestant(
    name="FastStream",
    settings="uvloop, apply_types=False, logger off, 500 sends at once; classic queue",
    publisher=(str(PEERS / "python"), "-m", "benchmarks.peers.faststream_app"),
    modes=frozenset({"one", "many", "async", "sync-many"}),
    worker=lambda demand: (
        *(str(PEERS / "faststream"), "run", "benchmarks.peers.faststream_app:app"),
        *(("--workers", str(demand.processes)) if demand.processes > 1 else ()),
        *("--log-level", "error"),
    ),
    peer=True,
)
HUEY: Final = Contestant(
    name="Huey",
    settings="SqliteHuey, WAL, no results, -k thread -w 1 (more are slower), polls every 10 ms",
    publisher=(str(PEERS / "python"), "-m", "benchmarks.peers.huey_app"),
    modes=frozenset({"one", "many"}),
    worker=lambda _: (
        *(str(PEERS / "huey_consumer"), "benchmarks.peers.huey_app.huey"),
        *("-k", "thread", "-w", "1", "-d", "0.01", "-m", "0.05", "-n"),
    ),
    peer=True,
)

PEERS_ON_RABBITMQ: Final = (CELERY, DRAMATIQ, TASKIQ, FASTSTREAM)
