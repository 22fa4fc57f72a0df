"""What a worker has loaded is what it keeps for days: no more than its jobs take."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard

#: Modules of a worker whose jobs load nothing: 368 on SQLite and 386 on RabbitMQ, with uvloop, under
#: Python 3.11. The bound leaves room for what other versions of Python and of libraries split
#: differently; structlog, pydantic or http.client would each go beyond it, or are named below.
MOST = 420

#: What a worker once held, and does without: what reads settings, discovers commands, writes lines
#: and metrics for others, speaks to the management API with all of HTTP, and what other roles run.
UNWANTED = {
    "argparse", "cryptography", "email", "http.client", "http.server", "httpx", "importlib.metadata",
    "multiprocessing", "prometheus_client", "pydantic", "pydantic_core", "pydantic_settings", "rich",
    "structlog", "taskyard.broker_setup", "taskyard.shared.settings_reader", "taskyard.workers.builtin",
    "taskyard.workers.roles", "taskyard.workers.supervisor", "urllib.request", "xml", "zipfile",
}  # fmt: skip

APP = """
import os, sys
from pathlib import Path
from taskyard.shared import Queue

here = Path(__file__).parent
(here / f"{os.getpid()}.imported").touch()
idle = Queue("idle")

@idle.task
async def tell() -> None:
    (here / "loaded").write_text(" ".join(sys.modules))
"""


def run(taskyard: StartTaskyard, broker: BrokerUnderTest, folder: Path, *options: str) -> int:
    """Have a worker run one job to its end; return its process id."""
    (folder / "app.py").write_text(APP)
    env = {
        "TASKYARD_BROKER_URL": broker.url,
        "TASKYARD_MANAGEMENT_URL": broker.management_url or "",
        "TASKYARD_METRICS_PORT": "0",
    }
    if not broker.management_url:
        del env["TASKYARD_MANAGEMENT_URL"]
    for command in (["broker", "apply", "app"], ["send", "idle:tell"]):
        assert taskyard(*command, env=env, cwd=folder).wait_exit_blocking(within=30) == 0
    for mark in folder.glob("*.imported"):
        mark.unlink()
    worker = taskyard("worker", "--drain", *options, "app", env=env, cwd=folder)
    assert worker.wait_exit_blocking(within=60) == 0
    return worker.pid


def test_a_worker_loads_what_its_jobs_take(
    taskyard: StartTaskyard, broker_url: BrokerUnderTest, tmp_path: Path
) -> None:
    """Seen from a job, when the worker has read its settings, found its queues and connected."""
    run(taskyard, broker_url, tmp_path)
    loaded = set((tmp_path / "loaded").read_text().split())
    clients = {"pika"} if broker_url.kind == "sqlite" else {"sqlite3"}
    assert sorted(loaded & (UNWANTED | clients)) == []
    assert len(loaded) <= MOST


@pytest.mark.parametrize("wanted", ["all", "idle"])
def test_a_supervisor_does_not_load_the_application(
    taskyard: StartTaskyard, tmp_path: Path, wanted: str
) -> None:
    """Each of its processes does; what the application holds is held once a process, and no more."""
    broker = BrokerUnderTest(url=f"sqlite:///{tmp_path / 'broker.db'}", kind="sqlite", version="")
    pid = run(taskyard, broker, tmp_path, "--processes", "2", "--queues", wanted)
    imported = {int(mark.stem) for mark in tmp_path.glob("*.imported")}
    assert len(imported) >= 2
    assert pid not in imported
