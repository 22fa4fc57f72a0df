"""An installation by hand: no rights needed, and the commands that tell whether it works."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from support.broker import BrokerUnderTest
from support.process import Program, taskyard_command
from support.rig import QUEUE, SELFTEST, Rig

pytestmark = pytest.mark.system

#: Another user, who may read everything (the interpreter may be in somebody's closed folder) and
#: write nothing that is not nobody's.
AS_NOBODY = [
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
]


class Nobody:
    """Runs `taskyard` commands as the user nobody, in a folder that is nobody's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"TASKYARD_METRICS_PORT": "0", "HOME": "/nonexistent"}
        # Who is not root has no rights to give up.
        self._prefix = AS_NOBODY if os.geteuid() == 0 else []
        if self._prefix:
            tried = subprocess.run([*self._prefix, "true"], check=False, capture_output=True)
            if tried.returncode:
                pytest.skip(f"cannot become nobody here: {tried.stderr.decode()}")
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)

    async def run(self, *arguments: str, log: Path, **env: str) -> tuple[int, str]:
        """Run a command to its end; its log is opened before the rights are given up."""
        argv = [*self._prefix, *taskyard_command(), *arguments]
        with Program(argv, log=log, env={**self.env, **env}, cwd=self.folder) as program:
            return await program.wait_exit(within=30), program.output


@pytest.fixture
def nobody():
    """A user without rights."""
    # pytest's own folders are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="taskyard-nobody-"))
    folder.chmod(0o755)
    try:
        yield Nobody(folder)
    finally:
        shutil.rmtree(folder)


async def test_it_runs_as_nobody(broker_url, nobody, tmp_path):
    """CR-09, CR-01: set-up, a job and a worker that drains need no rights and no home."""
    sqlite = broker_url.kind == "sqlite"
    url = f"sqlite:///{nobody.folder}/broker.db" if sqlite else broker_url.url
    notes = nobody.folder / "notes"
    commands = [
        ("broker", "apply", SELFTEST),
        ("send", "default:record", f"path={notes}"),
        ("worker", SELFTEST, "--drain"),
        ("doctor", SELFTEST),
    ]
    for number, arguments in enumerate(commands):
        log = tmp_path / f"{number}.log"
        code, output = await nobody.run(*arguments, log=log, TASKYARD_BROKER_URL=url)
        assert code == 0, (arguments, output)
    assert json.loads(notes.read_text())["attempt"] == 1
    if os.geteuid() == 0:
        assert notes.stat().st_uid == pwd.getpwnam("nobody").pw_uid


async def test_a_log_folder_that_cannot_be_written(nobody, tmp_path):
    """CR-05: the worker refuses to start with exit 2, naming the folder."""
    locked = nobody.folder / "logs"
    locked.mkdir(mode=0o555)
    env = {
        "TASKYARD_BROKER_URL": f"sqlite:///{nobody.folder}/broker.db",
        "TASKYARD_LOG_FILE": str(locked / "worker.log"),
    }
    code, output = await nobody.run("worker", SELFTEST, log=tmp_path / "log", **env)
    assert code == 2, output
    assert str(locked) in output


async def test_a_job_can_be_seen_waiting(broker_url, taskyard, tmp_path):
    """LQ-24, LQ-01, ZS-02, LQ-04: what was sent shows in `queues list`, and in the broker's own tools;
    `send` is back while its job still runs; `doctor` is content.
    """
    rig = Rig(broker_url, taskyard, tmp_path)

    async def command(*arguments: str) -> str:
        env = rig.env(TASKYARD_MANAGEMENT_URL=broker_url.management_url or "")
        program = taskyard(*arguments, env=env, cwd=tmp_path)
        assert await program.wait_exit(within=20) == 0, program.output
        return program.output

    async with rig:
        job_id = (await command("send", "default:test:hello")).strip()
        assert len(job_id) == 36
        (queue,) = json.loads(await command("queues", "list", "--json"))
        assert queue["queue"] == QUEUE
        assert queue["ready"] == 1
        worker = await rig.worker()
        await rig.emptied()
        assert "broker answers" in await command("doctor", SELFTEST)
        since = time.monotonic()
        (slow,) = await rig.send(rig.job("sleep", {"seconds": 20}))
        took = time.monotonic() - since
        assert slow
        assert took < 2
        worker.kill()


async def test_nothing_can_be_started_by_http(taskyard, tmp_path):
    """CR-06: the worker's port shows numbers and health; it takes no other method and no other path."""
    target = BrokerUnderTest(url=f"sqlite:///{tmp_path}/broker.db", kind="sqlite", version="3")
    rig = Rig(target, taskyard, tmp_path)
    async with rig:
        worker = await rig.worker()
        base = str((await rig.probe(worker, "/livez")).url).removesuffix("/livez")
        async with httpx.AsyncClient(timeout=5) as client:
            codes = [
                (await client.request(method, base + path)).status_code
                for method in ("GET", "POST", "PUT", "DELETE")
                for path in ("/", "/jobs", "/run", "/metrics/../run")
            ]
            codes += [
                (await client.request(method, f"{base}/livez")).status_code
                for method in ("POST", "PUT", "DELETE")
            ]
        assert all(400 <= code < 600 for code in codes), codes
        assert worker.is_running
